//! What a component call costs through the SDK: `config: { work: ... }` chooses how much of each message is looked at.

use rivven_plugin_sdk::{Config, Json, Message, Output, Plugin, Record, Result, Verdict, state};
use serde::{Deserialize, Serialize};

/// The plugin; public for the benchmark that runs the same code without a sandbox.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    work: Work,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    /// Looks at topics only: payloads stay in the host.
    Topics,
    /// Has the payloads too, and passes.
    Pass,
    /// Emits the payload.
    Echo,
    /// Looks at topics only, and counts each of them in the state.
    State,
    /// Parses two fields of the payload and emits a record with a key.
    Json,
}

#[derive(Deserialize)]
struct Reading<'a> {
    device: &'a str,
    temp: f64,
}

#[derive(Serialize)]
struct Converted<'a> {
    device: &'a str,
    f: f64,
}

impl Plugin for Bench {
    fn new(config: Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        if !message.topic().ends_with("temperature") {
            return out.drop();
        }
        match self.work {
            Work::Topics => out.pass(),
            Work::Pass => {
                std::hint::black_box(message.payload());
                out.pass()
            }
            Work::Echo => out.emit(message.payload()),
            Work::State => {
                let bytes = state::get(message.topic()).unwrap_or_default();
                let count = bytes.try_into().map_or(0, u64::from_le_bytes) + 1;
                state::set(message.topic(), count.to_le_bytes())?;
                out.pass()
            }
            Work::Json => {
                let Reading { device, temp } = message.json()?;
                out.emit(Record::new(Json(Converted { device, f: temp * 1.8 + 32.0 })).key(device))
            }
        }
    }
}

rivven_plugin_sdk::export!(Bench);
