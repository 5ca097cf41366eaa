//! JSON written straight into a buffer: events, dead letters and lines of records. Nothing is built first, because an event is
//! made for every record.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Shape;
use crate::config::Mqtt;
use crate::delivery::{Delivery, Stage};
use crate::message::{Batch, Message, Verdict};
use crate::properties::{Properties, parse_properties};

/// Payloads that a dead letter carries, in bytes: base64 makes them a third greater, and a record has to stay under 10 MiB.
const MAX_PAYLOAD: usize = 6 << 20;
/// Blocks of MQTT 5 properties that a dead letter carries, in bytes.
const MAX_PROPERTIES: usize = 64 << 10;
/// Reasons that a dead letter carries, in bytes.
pub(crate) const MAX_REASON: usize = 4 << 10;

/// How the messages of a source become JSON events.
#[derive(Debug, Default, Clone)]
pub struct EventShape {
    /// A payload that is JSON is embedded as it is.
    parse_json_payload: bool,
    /// `,"metadata":{"client_id":...,"broker":...`, the same for all messages; `None`: events have no metadata.
    metadata: Option<Vec<u8>>,
}

impl EventShape {
    /// That of the source with these settings.
    pub fn new(mqtt: &Mqtt) -> Self {
        let metadata = mqtt.include_metadata.then(|| {
            let mut out = Vec::new();
            out.extend_from_slice(br#","metadata":{"client_id":"#);
            string(&mut out, &mqtt.client_id);
            out.extend_from_slice(br#","broker":"#);
            string(&mut out, &mqtt.url.to_string());
            out
        });
        EventShape { parse_json_payload: mqtt.parse_json_payload, metadata }
    }

    /// Appends a message as an event: `{"topic", "payload", "qos", "retain", "timestamp", "metadata"}`.
    ///
    /// `message_id` is the receive sequence number: from 0 when the host starts, never given twice until it ends, the same when
    /// the sink has to write a record again. `oversized` is the size in bytes of a packet that was skipped because it is
    /// greater than is taken: its payload is null.
    pub fn write(
        &self,
        message: Message<'_>,
        message_id: Option<u64>,
        oversized: Option<usize>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(br#"{"topic":"#);
        string(out, message.topic());
        out.extend_from_slice(br#","payload":"#);
        match (oversized, std::str::from_utf8(message.payload())) {
            (Some(size), _) => {
                out.extend_from_slice(br#"null,"payload_omitted":"greater than max_packet_size","size":"#);
                number(out, size as u64);
            }
            (None, Ok(text)) if self.parse_json_payload && is_json(text) => {
                out.extend_from_slice(text.as_bytes());
            }
            (None, Ok(text)) => string(out, text),
            (None, Err(_)) => {
                base64_string(out, message.payload());
                out.extend_from_slice(br#","payload_encoding":"base64""#);
            }
        }
        out.extend_from_slice(br#","qos":"#);
        out.push(b'0' + message.flags().qos() as u8);
        flag(out, "retain", message.flags().retain());
        out.extend_from_slice(br#","timestamp":"#);
        timestamp(out, message.received_at());
        if let Some(metadata) = &self.metadata {
            out.extend_from_slice(metadata);
            if let Some(sequence) = message_id {
                out.extend_from_slice(br#","message_id":"#);
                number(out, sequence);
            }
            out.extend_from_slice(br#","pkid":"#);
            number(out, message.packet_id().into());
            out.push(b'}');
        }
        out.push(b'}');
    }
}

/// The receive sequence number of message `index`: the sequences are those of the messages that the plugin does not hold.
pub(super) fn sequence(delivery: &Delivery, index: usize) -> Option<u64> {
    let Batch { sequences, .. } = &*delivery.batch;
    let held = |verdicts: &[Verdict]| verdicts.iter().filter(|verdict| **verdict == Verdict::Hold).count();
    let mut rank = index as u64;
    if sequences.len() != delivery.batch.len() as u64 {
        rank -= held(delivery.outcome.verdicts.get(..index)?) as u64;
    }
    sequences.get(rank)
}

/// What a dead letter is about.
pub(super) struct Failed<'a> {
    pub message: Option<Message<'a>>,
    pub payload: &'a [u8],
    /// Why the payload is left out, where it has to be.
    pub omitted: Option<&'a str>,
    pub stage: Stage,
    pub reason: &'a str,
    /// The place of the plugin that could not take it, in the source's list.
    pub plugin: Option<usize>,
}

/// A dead letter: the message as it came, who could not take it, and why. `size` is that of an oversized packet, in bytes,
/// whose payload was never read.
pub(super) fn dead_letter(shape: &Shape, size: Option<usize>, failed: &Failed<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"topic":"#);
    optional(out, failed.message.map(|message| message.topic()));
    let too_large = (failed.payload.len() > MAX_PAYLOAD).then_some("too large for a dead letter");
    match (size, too_large.or(failed.omitted)) {
        (Some(size), _) => {
            out.extend_from_slice(br#","payload_base64":null,"size":"#);
            number(out, size as u64);
        }
        (None, Some(why)) => {
            out.extend_from_slice(br#","payload_base64":null,"payload_omitted":"#);
            string(out, why);
            out.extend_from_slice(br#","size":"#);
            number(out, failed.payload.len() as u64);
        }
        (None, None) => {
            out.extend_from_slice(br#","payload_base64":"#);
            base64_string(out, failed.payload);
        }
    }
    if let Some(message) = failed.message {
        let flags = message.flags();
        out.extend_from_slice(br#","qos":"#);
        out.push(b'0' + flags.qos() as u8);
        flag(out, "retain", flags.retain());
        flag(out, "duplicate", flags.duplicate());
        out.extend_from_slice(br#","properties":"#);
        match message.properties() {
            Some(block) if block.len() > MAX_PROPERTIES => {
                string(out, "omitted: too large for a dead letter");
            }
            block => properties(out, block.and_then(parse_properties).as_ref()),
        }
        out.extend_from_slice(br#","received_at":"#);
        timestamp(out, message.received_at());
    }
    out.extend_from_slice(br#","client_id":"#);
    string(out, &shape.from.client_id);
    out.extend_from_slice(br#","source":"#);
    string(out, &shape.from.source);
    let plugins = &shape.from.plugins;
    // What the sink refuses comes from the last one.
    let plugin = failed.plugin.map_or(plugins.last(), |place| plugins.get(place));
    out.extend_from_slice(br#","plugin":"#);
    optional(out, plugin.map(|plugin| plugin.name.as_str()));
    out.extend_from_slice(br#","sha256":"#);
    optional(out, plugin.map(|plugin| plugin.sha256.as_str()));
    out.extend_from_slice(br#","stage":"#);
    string(out, failed.stage.name());
    out.extend_from_slice(br#","reason":"#);
    let cut = failed.reason.floor_char_boundary(MAX_REASON);
    string(out, &failed.reason[..cut]);
    out.extend_from_slice(br#","attempts":"#);
    number(out, failed.message.map_or(1, |message| message.attempts()).into());
    out.push(b'}');
}

fn properties(out: &mut Vec<u8>, properties: Option<&Properties>) {
    let Some(properties) = properties else { return out.extend_from_slice(b"null") };
    out.extend_from_slice(br#"{"content_type":"#);
    optional(out, properties.content_type);
    out.extend_from_slice(br#","response_topic":"#);
    optional(out, properties.response_topic);
    out.extend_from_slice(br#","correlation_data_base64":"#);
    match &properties.correlation_data {
        Some(data) => base64_string(out, data),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","message_expiry":"#);
    match properties.message_expiry {
        Some(seconds) => number(out, seconds.into()),
        None => out.extend_from_slice(b"null"),
    }
    flag(out, "payload_is_utf8", properties.payload_is_utf8);
    out.extend_from_slice(br#","user":"#);
    serialize(out, &properties.user);
    out.push(b'}');
}

/// Appends one line of JSONL: `{"topic", "key", "value"}`, with `key_base64` or `value_base64` instead where the bytes are not
/// UTF-8; `key` is null where there is none.
pub fn write_jsonl(topic: &str, key: Option<&[u8]>, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"topic":"#);
    string(out, topic);
    match key {
        Some(key) => text(out, "key", key),
        None => out.extend_from_slice(br#","key":null"#),
    }
    text(out, "value", value);
    out.extend_from_slice(b"}\n");
}

/// `,"name":"text"` or `,"name_base64":"..."`.
fn text(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            out.extend_from_slice(b"\":");
            string(out, text);
        }
        Err(_) => {
            out.extend_from_slice(b"_base64\":");
            base64_string(out, bytes);
        }
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

fn serialize(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing into a vector and serialising strings cannot fail.
    let _ = serde_json::to_writer(out, value);
}

fn string(out: &mut Vec<u8>, text: &str) {
    serialize(out, text);
}

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    serialize(out, &number);
}

fn flag(out: &mut Vec<u8>, name: &str, value: bool) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(if value { b"\":true" } else { b"\":false" });
}

fn timestamp(out: &mut Vec<u8>, nanoseconds: u64) {
    use std::io::Write;
    // Every u64 of nanoseconds is a date before the year 2600; writing into a vector cannot fail.
    let timestamp = Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default();
    let _ = write!(out, "\"{timestamp}\"");
}

fn base64_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(start..).map_or(0, |to| STANDARD.encode_slice(bytes, to).unwrap_or_default());
    out.truncate(start + written);
    out.push(b'"');
}
