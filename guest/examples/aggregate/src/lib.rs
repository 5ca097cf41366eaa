//! Gives the least, mean and greatest reading of each MQTT topic and flush interval, and how many there were.
//!
//! ```yaml
//! plugin:
//!   path: example_aggregate.wasm
//!   config: { topic: readings-by-second }   # optional: else the destination of the source
//!   flush_interval_ms: 1000
//! ```
//!
//! A payload is a number as text, such as `21.5`; anything else goes to the dead-letter topic. A reading is acknowledged
//! when the record that it went into is committed, so none is lost if the host ends in between.

use std::collections::BTreeMap;

use rivven_plugin_sdk::{
    AggregatingPlugin, Config, Json, Message, Output, Plugin, Record, Records, Result, Verdict,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Aggregate {
    /// The Rivven topic of the summaries.
    #[serde(default)]
    topic: String,
    #[serde(skip)]
    summaries: BTreeMap<String, Summary>,
}

#[derive(Serialize)]
struct Summary {
    min: f64,
    mean: f64,
    max: f64,
    count: u64,
}

impl Summary {
    const EMPTY: Self = Self { min: f64::INFINITY, mean: 0.0, max: f64::NEG_INFINITY, count: 0 };

    fn add(&mut self, reading: f64) {
        self.count += 1;
        self.min = self.min.min(reading);
        self.max = self.max.max(reading);
        self.mean += reading / self.count as f64 - self.mean / self.count as f64;
    }
}

impl Plugin for Aggregate {
    fn new(config: Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        let reading: f64 = message.text()?.trim().parse()?;
        if !reading.is_finite() {
            return out.reject("not a finite number");
        }
        match self.summaries.get_mut(message.topic()) {
            Some(summary) => summary.add(reading),
            None => self.summaries.entry(message.topic().to_owned()).or_insert(Summary::EMPTY).add(reading),
        }
        out.hold(self)
    }
}

impl AggregatingPlugin for Aggregate {
    fn flush(&mut self, records: &mut Records) -> Result<()> {
        for (topic, summary) in std::mem::take(&mut self.summaries) {
            records.emit(Record::new(Json(summary)).key(&topic).topic(&self.topic))?;
        }
        Ok(())
    }
}

rivven_plugin_sdk::export!(aggregating Aggregate);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rivven_plugin_sdk::testing::{self, Decision, Harness};

    #[test]
    fn summarises_each_topic_and_starts_anew_after_a_flush() {
        let mut aggregate = Harness::<Aggregate>::new(r#"{"topic": "by-second"}"#).unwrap();
        for (topic, reading) in [("room/1", "20"), ("room/2", "7.5"), ("room/1", " 22 "), ("room/1", "21")] {
            assert_eq!(aggregate.process(topic, reading), Decision::Hold);
        }
        let record = |value: &str, key: &str| testing::Record::new(value).key(key).topic("by-second");
        assert_eq!(
            aggregate.flush().unwrap(),
            [
                record(r#"{"min":20.0,"mean":21.0,"max":22.0,"count":3}"#, "room/1"),
                record(r#"{"min":7.5,"mean":7.5,"max":7.5,"count":1}"#, "room/2"),
            ]
        );

        assert_eq!(aggregate.process("room/1", "1"), Decision::Hold);
        assert_eq!(
            aggregate.flush().unwrap(),
            [record(r#"{"min":1.0,"mean":1.0,"max":1.0,"count":1}"#, "room/1")]
        );
    }

    #[test]
    fn rejects_what_is_no_number() {
        let mut aggregate = Harness::<Aggregate>::new("null").unwrap();
        for (payload, reason) in [
            (&b"warm"[..], "invalid float literal"),
            (b"NaN", "not a finite number"),
            (b"\xff", "payload is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"),
        ] {
            assert_eq!(aggregate.process("room/1", payload), Decision::Reject(reason.to_owned()));
        }
        assert_eq!(aggregate.flush().unwrap(), []);
    }
}
