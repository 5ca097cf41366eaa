//! Converts readings from Fahrenheit to Celsius, keyed by device, into a topic of their own.
//!
//! ```yaml
//! plugin:
//!   path: example_transform.wasm
//!   config: { topic: celsius }
//! ```
//!
//! `{"device": "d7", "fahrenheit": 212}` becomes `{"device":"d7","celsius":100.0}` with the key `d7`. What is not such
//! JSON goes to the dead-letter topic with a reason.

use std::borrow::Cow;

use rivven_plugin_sdk::{Config, Json, Message, Output, Plugin, Record, Result, Verdict};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transform {
    /// The Rivven topic of the converted readings.
    topic: String,
}

#[derive(Deserialize)]
struct Reading<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    fahrenheit: f64,
}

#[derive(Serialize)]
struct Converted<'a> {
    device: &'a str,
    celsius: f64,
}

impl Plugin for Transform {
    fn new(config: Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        let Reading { device, fahrenheit } = message.json()?;
        if device.is_empty() {
            return out.reject("device is empty");
        }
        let converted = Converted { device: &device, celsius: (fahrenheit - 32.0) / 1.8 };
        out.emit(Record::new(Json(converted)).key(&*device).topic(&self.topic))
    }
}

rivven_plugin_sdk::export!(Transform);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rivven_plugin_sdk::testing::{self, Decision, Harness};

    fn transform(payload: &str) -> Decision {
        Harness::<Transform>::new(r#"{"topic": "celsius"}"#).unwrap().process("site/1", payload)
    }

    #[test]
    fn converts_and_sets_key_and_topic() {
        let record = testing::Record::new(r#"{"device":"d7","celsius":100.0}"#).key("d7").topic("celsius");
        assert_eq!(transform(r#"{"device": "d7", "fahrenheit": 212}"#), Decision::Emit(vec![record]));
    }

    #[test]
    fn rejects_what_it_cannot_read() {
        let reject = |reason: &str| Decision::Reject(reason.to_owned());
        assert_eq!(transform(r#"{"device": "", "fahrenheit": 1}"#), reject("device is empty"));
        assert_eq!(
            transform(r#"{"device": "d7"}"#),
            reject("payload is not the expected JSON: missing field `fahrenheit` at line 1 column 16")
        );
        assert_eq!(
            transform("warm"),
            reject("payload is not the expected JSON: expected value at line 1 column 1")
        );
    }
}
