//! Drops readings under a threshold.
//!
//! ```yaml
//! plugin:
//!   path: example_filter.wasm
//!   config: { threshold: 20.0, field: temperature }
//! ```
//!
//! A payload that is no JSON object with a number in that field passes: a filter only drops what it knows to be low.

use rivven_plugin_sdk::{Config, Message, Output, Plugin, Result, Verdict};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    threshold: f64,
    #[serde(default = "value")]
    field: String,
}

fn value() -> String {
    "value".to_owned()
}

impl Plugin for Filter {
    fn new(config: Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        let payload: Value = message.json().unwrap_or_default();
        match payload[&self.field].as_f64() {
            Some(reading) if reading < self.threshold => out.drop(),
            _ => out.pass(),
        }
    }
}

rivven_plugin_sdk::export!(Filter);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rivven_plugin_sdk::testing::{Decision, Harness};

    #[test]
    fn drops_what_is_under_the_threshold() {
        let mut filter = Harness::<Filter>::new(r#"{"threshold": 20, "field": "celsius"}"#).unwrap();
        assert_eq!(filter.process("room/1", r#"{"celsius": 19.9}"#), Decision::Drop);
        assert_eq!(filter.process("room/1", r#"{"celsius": 20}"#), Decision::Pass);
    }

    #[test]
    fn passes_what_is_no_reading() {
        let mut filter = Harness::<Filter>::new(r#"{"threshold": 20}"#).unwrap();
        for payload in ["", "offline", "[1]", r#"{"value": "19"}"#, r#"{"humidity": 3}"#] {
            assert_eq!(filter.process("room/1", payload), Decision::Pass, "{payload}");
        }
    }

    #[test]
    fn wants_a_threshold() {
        let error = Harness::<Filter>::new("null").err().unwrap();
        assert_eq!(error.to_string(), "missing field `threshold`");
    }
}
