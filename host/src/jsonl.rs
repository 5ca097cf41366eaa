//! Messages from a file, one JSON object a line, for `plugin test`:
//! `{"topic": "...", "payload": "text"}`, or `"payload_base64"` for any bytes; optional are `qos` (0, 1, 2; default 1),
//! `retain`, `duplicate`, `received_at` (RFC 3339; default 1970-01-01T00:00:00Z, so that a run can be repeated) and
//! `properties` with `content_type`, `response_topic`, `correlation_data_base64`, `message_expiry`, `payload_is_utf8` and
//! `user` (pairs), as a dead letter has them.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;

use crate::error::JsonlError;
use crate::message::{Batch, Flags, QoS};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub topic: String,
    pub payload: Option<String>,
    pub payload_base64: Option<String>,
    #[serde(default = "at_least_once")]
    pub qos: u8,
    #[serde(default)]
    pub retain: bool,
    #[serde(default)]
    pub duplicate: bool,
    pub received_at: Option<String>,
    pub properties: Option<Properties>,
}

fn at_least_once() -> u8 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Properties {
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data_base64: Option<String>,
    message_expiry: Option<u32>,
    #[serde(default)]
    payload_is_utf8: bool,
    #[serde(default)]
    user: Vec<(String, String)>,
}

/// Reads a file of messages as one batch; empty lines are skipped.
///
/// # Errors
/// [`JsonlError`] with the file and, where it is a line, its number.
pub fn read_messages(file: &Path) -> Result<Batch, JsonlError> {
    let text =
        std::fs::read_to_string(file).map_err(|source| JsonlError::Read { file: file.into(), source })?;
    parse(file, &text)
}

/// The messages in `text`, which is that of `file`.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Batch, JsonlError> {
    let mut batch = Batch::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what| JsonlError::Line { file: file.into(), line: index + 1, what };
        let row = serde_json::from_str(line).map_err(|error| {
            // The line number that serde_json adds is that in the line.
            let what = error.to_string();
            wrong(format!("is no message: {}", what.replace(" at line 1 column ", " at column ")))
        })?;
        push(&mut batch, row).map_err(wrong)?;
        batch.sequences.push(batch.len() as u64 - 1);
    }
    if batch.is_empty() {
        let what =
            "holds no message (expected lines such as {\"topic\": \"a/b\", \"payload\": \"text\"})".into();
        return Err(JsonlError::Line { file: file.into(), line: 1, what });
    }
    Ok(batch)
}

/// Appends a message to `batch`, or says what is wrong with it. The sequence number is the caller's business.
pub(crate) fn push(batch: &mut Batch, row: Row) -> Result<(), String> {
    if row.topic.is_empty() || row.topic.len() > 65_535 || row.topic.contains(['+', '#', '\0']) {
        return Err("topic: is no MQTT topic name (expected 1 to 65535 bytes without +, # and NUL)".into());
    }
    let payload = match (row.payload, row.payload_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => decode("payload_base64", &base64)?,
        (Some(_), Some(_)) => {
            return Err("payload and payload_base64 are both there (expected one of them)".into());
        }
        (None, None) => return Err("payload: is missing (expected payload or payload_base64)".into()),
    };
    let qos = match row.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        other => return Err(format!("qos: is {other} (expected 0, 1 or 2)")),
    };
    let received_at = row.received_at.map_or(Ok(0), |text| nanoseconds(&text))?;
    let index = batch.len();
    let properties = row.properties.map(|properties| properties.encode()).transpose()?;
    let columns = batch.topics.data.len().max(batch.payloads.data.len()) + row.topic.len() + payload.len();
    if u32::try_from(columns).is_err() {
        return Err("is more than a batch can hold, 4 GiB".into());
    }
    Arc::make_mut(&mut batch.topics).push(row.topic.as_bytes());
    Arc::make_mut(&mut batch.payloads).push(&payload);
    // Packet identifiers are 1 to 65535, and 0 where there is none.
    batch.packet_ids.push(if qos == QoS::AtMostOnce { 0 } else { (index % 65_535) as u16 + 1 });
    batch.flags.push(Flags::new(qos, row.retain, row.duplicate));
    batch.received_at.push(received_at);
    if let Some(block) = properties {
        batch.properties.push((index as u32, block.into()));
    }
    Ok(())
}

/// Nanoseconds since the Unix epoch.
fn nanoseconds(text: &str) -> Result<u64, String> {
    let at: Timestamp = text.parse().map_err(|error| format!("received_at: {error}"))?;
    u64::try_from(at.as_nanosecond())
        .map_err(|_| "received_at: is before 1970 (expected a later time)".into())
}

fn decode(name: &str, base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|error| format!("{name}: is no base64: {error}"))
}

impl Properties {
    /// The property block as it is on the wire, without its length (MQTT 5.0 section 3.3.2.3).
    fn encode(self) -> Result<Vec<u8>, String> {
        let mut block = Vec::new();
        if self.payload_is_utf8 {
            block.extend_from_slice(&[0x01, 1]);
        }
        if let Some(seconds) = self.message_expiry {
            block.push(0x02);
            block.extend_from_slice(&seconds.to_be_bytes());
        }
        let mut binary = |identifier: Option<u8>, name: &str, bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).map_err(|_| {
                format!("properties.{name}: has {} bytes (expected at most 65535)", bytes.len())
            })?;
            block.extend(identifier);
            block.extend_from_slice(&length.to_be_bytes());
            block.extend_from_slice(bytes);
            Ok::<(), String>(())
        };
        if let Some(text) = self.content_type {
            binary(Some(0x03), "content_type", text.as_bytes())?;
        }
        if let Some(text) = self.response_topic {
            binary(Some(0x08), "response_topic", text.as_bytes())?;
        }
        if let Some(base64) = self.correlation_data_base64 {
            let data = decode("properties.correlation_data_base64", &base64)?;
            binary(Some(0x09), "correlation_data_base64", &data)?;
        }
        for (name, value) in self.user {
            binary(Some(0x26), "user", name.as_bytes())?;
            binary(None, "user", value.as_bytes())?;
        }
        Ok(block)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Batch, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.jsonl");
        std::fs::write(&file, text).unwrap();
        let prefix = format!("{}:", file.display());
        read_messages(&file).map_err(|error| error.to_string().strip_prefix(&prefix).unwrap().to_owned())
    }

    #[test]
    fn messages_are_read() {
        let batch = read(
            "{\"topic\": \"a\", \"payload\": \"x\"}\n\n\
             {\"topic\": \"b/c\", \"payload_base64\": \"/wA=\", \"qos\": 2, \"retain\": true, \"duplicate\": true, \
             \"received_at\": \"1970-01-01T00:00:01.5Z\", \"properties\": {\"content_type\": \"t\", \"message_expiry\": 7, \
             \"correlation_data_base64\": \"/w==\", \"payload_is_utf8\": true, \"user\": [[\"k\", \"v\"]]}}\n",
        )
        .unwrap();
        assert_eq!(batch.len(), 2);
        let (a, b) = (batch.message(0), batch.message(1));
        assert_eq!((a.topic(), a.payload(), a.packet_id(), a.received_at()), ("a", &b"x"[..], 1, 0));
        assert_eq!(a.flags(), Flags::new(QoS::AtLeastOnce, false, false));
        assert_eq!((b.topic(), b.payload(), b.packet_id()), ("b/c", &[0xff, 0][..], 2));
        assert_eq!((b.flags(), b.received_at()), (Flags::new(QoS::ExactlyOnce, true, true), 1_500_000_000));
        let block =
            [&[1, 1, 2, 0, 0, 0, 7, 3, 0, 1, b't', 9, 0, 1, 0xff, 0x26, 0, 1, b'k', 0, 1, b'v'][..]].concat();
        assert_eq!((a.properties(), b.properties()), (None, Some(&block[..])));
        assert_eq!(batch.sequences.iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn wrong_lines_are_named() {
        let good = "{\"topic\": \"a\", \"payload\": \"x\"}\n";
        for (line, expected) in [
            ("{\"topic\": \"a\"}", "2: payload: is missing (expected payload or payload_base64)"),
            (
                "{\"topic\": \"a\", \"payload\": \"x\", \"payload_base64\": \"\"}",
                "2: payload and payload_base64 are both there (expected one of them)",
            ),
            (
                "{\"topic\": \"a\", \"payload_base64\": \"*\"}",
                "2: payload_base64: is no base64: Invalid symbol 42, offset 0.",
            ),
            ("{\"payload\": \"x\"}", "2: is no message: missing field `topic` at column 16"),
            (
                "{\"topic\": \"a/#\", \"payload\": \"x\"}",
                "2: topic: is no MQTT topic name (expected 1 to 65535 bytes without +, # and NUL)",
            ),
            ("{\"topic\": \"a\", \"payload\": \"x\", \"qos\": 3}", "2: qos: is 3 (expected 0, 1 or 2)"),
            (
                "{\"topic\": \"a\", \"payload\": 5}",
                "2: is no message: invalid type: integer `5`, expected a string at column 27",
            ),
            (
                "{\"topic\": \"a\", \"payload\": \"x\", \"received_at\": \"1969-12-31T00:00:00Z\"}",
                "2: received_at: is before 1970 (expected a later time)",
            ),
            ("nonsense", "2: is no message: expected ident at column 2"),
        ] {
            assert_eq!(read(&format!("{good}{line}")).unwrap_err(), expected, "{line}");
        }
        let unknown = read("{\"topic\": \"a\", \"payload\": \"x\", \"qso\": 1}").unwrap_err();
        assert!(unknown.starts_with("1: is no message: unknown field `qso`, expected one of"), "{unknown}");
        assert!(read("\n").unwrap_err().starts_with("1: holds no message"));
        assert!(
            read_messages(Path::new("/nonexistent/m.jsonl"))
                .unwrap_err()
                .to_string()
                .starts_with("/nonexistent/m.jsonl: cannot be read")
        );
    }
}
