//! Replaces each message by how many there were of its topic, since the first start and over all restarts.
//!
//! ```yaml
//! plugin:
//!   path: example_count.wasm
//!   name: count   # whose state it is: the file may be renamed
//! ```
//!
//! The host makes a count durable before it acknowledges the message. Only a message that the broker delivers again because the
//! acknowledgement got lost is counted twice.

use rivven_plugin_sdk::{Config, Json, Message, Output, Plugin, Result, Verdict, state};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {}

#[derive(Serialize)]
struct Counted<'a> {
    topic: &'a str,
    count: u64,
}

impl Plugin for Count {
    fn new(config: Config) -> Result<Self> {
        config.parse()
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        let topic = message.topic();
        let before = match state::get(topic) {
            Some(count) => std::str::from_utf8(&count)?.parse()?,
            None => 0,
        };
        let count: u64 = before + 1;
        // A topic that is too long for a key is rejected, and so is a new one when the state is full.
        state::set(topic, count.to_string())?;
        out.emit(Json(Counted { topic, count }))
    }
}

rivven_plugin_sdk::export!(Count);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rivven_plugin_sdk::testing::{Decision, Harness, Record};

    #[test]
    fn counts_each_topic() {
        let mut count = Harness::<Count>::new("null").unwrap();
        for (topic, expected) in [("a", 1), ("b", 1), ("a", 2)] {
            let value = format!(r#"{{"topic":"{topic}","count":{expected}}}"#);
            assert_eq!(count.process(topic, "x"), Decision::Emit(vec![Record::new(value)]));
        }
        assert_eq!(count.state("a"), Some(&b"2"[..]));
    }

    #[test]
    fn rejects_what_it_cannot_count() {
        let mut count = Harness::<Count>::new("null").unwrap();
        let reason = "the key of a state entry is empty or over 256 bytes".to_owned();
        assert_eq!(count.process(&"t".repeat(257), ""), Decision::Reject(reason));
    }
}
