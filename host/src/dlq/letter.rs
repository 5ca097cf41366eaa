//! One dead letter: where it is, what is in it, and the message that it was.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::jsonl::{self, Row};
use crate::message::Batch;

/// Where a dead letter is. `Display` is what the command line shows and takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In a topic: `TOPIC/PARTITION@OFFSET`.
    Topic {
        /// The dead-letter topic.
        topic: Arc<str>,
        /// Its partition.
        partition: u32,
        /// The offset there.
        offset: u64,
    },
    /// In a file: `FILE@OFFSET`.
    File {
        /// The file.
        file: Arc<PathBuf>,
        /// Where its line starts, in bytes.
        offset: u64,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Topic { topic, partition, offset } => write!(f, "{topic}/{partition}@{offset}"),
            Position::File { file, offset } => write!(f, "{}@{offset}", file.display()),
        }
    }
}

/// A record of a dead-letter topic, or a line of a file with that topic.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is.
    pub position: Position,
    /// The record's value.
    pub value: Vec<u8>,
    /// What it says, or why it is no dead letter.
    pub letter: Result<Letter, String>,
}

impl Entry {
    pub(super) fn new(position: Position, value: Vec<u8>) -> Self {
        let letter = serde_json::from_slice(&value).map_err(|error| format!("is no dead letter: {error}"));
        Entry { position, value, letter }
    }

    /// What the journal knows it by: the place, and what is there, because a topic may have been made anew. A file may be moved,
    /// so its name does not count.
    pub fn key(&self) -> String {
        let hash = Sha256::digest(&self.value);
        let hash: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        match &self.position {
            Position::File { offset, .. } => format!("file@{offset}:{hash}"),
            position => format!("{position}:{hash}"),
        }
    }
}

/// What a dead letter says; `host/docs/dead-letters.md` describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Letter {
    /// The MQTT topic; none for a record of a flush, which belongs to no message.
    pub topic: Option<String>,
    /// The payload; none when it was too large to be taken, or to be kept.
    pub payload_base64: Option<String>,
    /// Bytes of a payload or packet that is not in the letter.
    pub size: Option<u64>,
    /// Quality of service.
    #[serde(default)]
    pub qos: u8,
    /// RETAIN.
    #[serde(default)]
    pub retain: bool,
    /// DUP.
    #[serde(default)]
    pub duplicate: bool,
    /// The properties of MQTT 5: an object, null, or text that says why they are not here.
    #[serde(default)]
    pub properties: Value,
    /// When the message was received.
    #[serde(default, deserialize_with = "time")]
    pub received_at: Option<Timestamp>,
    /// The MQTT client that received it.
    #[serde(default)]
    pub client_id: String,
    /// The source, as it is called in the configuration.
    #[serde(default)]
    pub source: String,
    /// The plugin that it went to.
    pub plugin: Option<String>,
    /// That plugin's SHA-256.
    pub sha256: Option<String>,
    /// Where it failed: `plugin`, `sink` or `oversized`.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// How often it was tried: once, and once more for each replay.
    #[serde(default = "once")]
    pub attempts: u32,
}

fn once() -> u32 {
    1
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

impl Letter {
    /// The payload, byte for byte, where the letter has it.
    pub fn payload(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.payload_base64.as_ref()?).ok()
    }

    /// Appends the message that the letter is about to `batch`, as it was received. The sequence number is the caller's business.
    ///
    /// # Errors
    ///
    /// Why there is no message to replay.
    pub fn append_to(&self, batch: &mut Batch) -> Result<(), String> {
        let topic = self.topic.as_ref().ok_or("it is a record of a flush, which belongs to no message")?;
        let Some(payload) = &self.payload_base64 else {
            let size = self.size.map_or_else(String::new, |size| format!(" of {size} bytes"));
            return Err(format!("the payload{size} is not in the letter"));
        };
        if self.properties.is_string() {
            return Err("the MQTT 5 properties are not in the letter".into());
        }
        let properties =
            serde_json::from_value(self.properties.clone()).map_err(|error| error.to_string())?;
        let index = batch.len() as u32;
        jsonl::push(
            batch,
            Row {
                topic: topic.clone(),
                payload: None,
                payload_base64: Some(payload.clone()),
                qos: self.qos,
                retain: self.retain,
                duplicate: self.duplicate,
                received_at: self.received_at.map(|at| at.to_string()),
                properties,
            },
        )?;
        batch.attempts.push((index, self.attempts));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::message::{Flags, QoS};

    pub fn entry(offset: u64, json: &str) -> Entry {
        Entry::new(Position::Topic { topic: "t.dlq".into(), partition: 0, offset }, json.into())
    }

    const WHOLE: &str = r#"{"topic":"a/b","payload_base64":"/wA=","qos":2,"retain":true,"duplicate":true,"properties":{"content_type":"text","response_topic":null,"correlation_data_base64":null,"message_expiry":null,"payload_is_utf8":false,"user":[["k","v"]]},"received_at":"2023-11-14T22:13:20.123456789Z","client_id":"c","source":"iot","plugin":"filter","sha256":"ab12","stage":"plugin","reason":"no","attempts":2}"#;

    #[test]
    fn the_message_is_as_it_was_received() {
        let letter = entry(0, WHOLE).letter.unwrap();
        let mut batch = Batch::default();
        letter.append_to(&mut batch).unwrap();
        let message = batch.message(0);
        assert_eq!((message.topic(), message.payload()), ("a/b", &[0xff, 0][..]));
        assert_eq!(message.flags(), Flags::new(QoS::ExactlyOnce, true, true));
        assert_eq!(message.received_at(), 1_700_000_000_123_456_789);
        let block = [&[0x03, 0, 4][..], b"text", &[0x26, 0, 1, b'k', 0, 1, b'v']].concat();
        assert_eq!(message.properties(), Some(&block[..]));
        assert_eq!(message.attempts(), 3);
    }

    #[test]
    fn what_is_not_there_cannot_be_replayed() {
        let why = |json: &str| entry(0, json).letter.unwrap().append_to(&mut Batch::default()).unwrap_err();
        for (json, expected) in [
            (r#"{"topic":null,"payload_base64":"","stage":"sink","reason":""}"#, "a record of a flush"),
            (
                r#"{"topic":"a","payload_base64":null,"size":300,"stage":"oversized","reason":""}"#,
                "the payload of 300 bytes is not in the letter",
            ),
            (
                r#"{"topic":"a","payload_base64":"","properties":"omitted","stage":"sink","reason":""}"#,
                "the MQTT 5 properties are not in the letter",
            ),
        ] {
            assert!(why(json).contains(expected), "{}", why(json));
        }
        assert!(entry(0, "{}").letter.unwrap_err().starts_with("is no dead letter: missing field `stage`"));
    }

    #[test]
    fn another_record_at_the_same_place_has_another_key() {
        assert_eq!(entry(7, WHOLE).key(), entry(7, WHOLE).key());
        assert_ne!(entry(7, WHOLE).key(), entry(8, WHOLE).key());
        assert_ne!(entry(7, WHOLE).key(), entry(7, &WHOLE.replace("no", "yes")).key());
        assert!(entry(7, WHOLE).key().starts_with("t.dlq/0@7:"));
    }
}
