//! Drops readings under a threshold.

use rivven_plugin_sdk::{Config, Message, Output, Plugin, Result, Verdict};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    threshold: f64,
}

#[derive(Deserialize)]
struct Reading {
    celsius: f64,
}

impl Plugin for Filter {
    fn new(config: Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        let reading: Reading = message.json()?; // what is no reading is rejected, with the reason
        if reading.celsius < self.threshold { out.drop() } else { out.pass() }
    }
}

rivven_plugin_sdk::export!(Filter);

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_plugin_sdk::testing::{Decision, Harness};

    #[test]
    fn drops_what_is_under_the_threshold() {
        let mut filter = Harness::<Filter>::new(r#"{"threshold": 20}"#).unwrap();
        assert_eq!(filter.process("room/1", r#"{"celsius": 19.9}"#), Decision::Drop);
        assert_eq!(filter.process("room/1", r#"{"celsius": 20}"#), Decision::Pass);
        assert!(matches!(filter.process("room/1", "offline"), Decision::Reject(_)));
    }
}
