//! One message, as a caller of the library gets it.

use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::message::{Batch, Message, QoS};
use crate::properties::{Properties, parse_properties};
use crate::record::EventShape;

/// A message from the broker. Clones are cheap. An event keeps the memory of the batch that it came in, at most a few MiB:
/// take out what you need where you keep events for long.
#[derive(Clone)]
pub struct Event {
    batch: Arc<Batch>,
    index: usize,
    shape: Arc<EventShape>,
}

impl Event {
    pub(super) fn new(batch: Arc<Batch>, index: usize, shape: Arc<EventShape>) -> Self {
        Event { batch, index, shape }
    }

    fn message(&self) -> Message<'_> {
        self.batch.message(self.index)
    }

    /// The MQTT topic name.
    pub fn topic(&self) -> &str {
        self.message().topic()
    }

    /// The payload, byte for byte.
    pub fn payload(&self) -> &[u8] {
        self.message().payload()
    }

    /// The payload as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(self.payload())
    }

    /// The payload, parsed as JSON.
    ///
    /// # Errors
    /// It is no JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.payload())
    }

    /// The quality of service that the message was delivered with.
    pub fn qos(&self) -> QoS {
        self.message().flags().qos()
    }

    /// Whether it is a retained message, sent because the subscription is new.
    pub fn retain(&self) -> bool {
        self.message().flags().retain()
    }

    /// Whether the broker says that it may have sent the message before.
    pub fn duplicate(&self) -> bool {
        self.message().flags().duplicate()
    }

    /// The packet identifier; 0 at QoS 0.
    pub fn packet_id(&self) -> u16 {
        self.message().packet_id()
    }

    /// The place of the message among all that the source has received on its connections, from 0: another one for a message
    /// that came again.
    pub fn message_id(&self) -> u64 {
        self.batch.sequences.get(self.index as u64).unwrap_or_default()
    }

    /// When it was read from the connection.
    pub fn received_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.message().received_at())
    }

    /// Its MQTT 5 properties; `None` on 3.1.1, without properties, and where they are malformed.
    pub fn properties(&self) -> Option<Properties<'_>> {
        self.message().properties().and_then(parse_properties)
    }

    /// The size of the packet in bytes when it was greater than `max_packet_size`: then its payload was skipped and is empty
    /// here, and there are no properties. `None` for any other message.
    pub fn oversized(&self) -> Option<usize> {
        self.batch.oversized
    }

    /// The event as JSON text, as the host writes it to Rivven in `format: json`: topic, payload, qos, retain, timestamp, and
    /// metadata unless `include_metadata` is false. A payload that is JSON is embedded as it is unless `parse_json_payload` is
    /// false; one that is not UTF-8 is base64 with `"payload_encoding": "base64"`. The payload of an oversized message is null.
    pub fn to_json(&self) -> String {
        let mut out = Vec::with_capacity(self.payload().len() + 2 * self.topic().len() + 256);
        self.shape.write(self.message(), Some(self.message_id()), self.oversized(), &mut out);
        // It is made of texts.
        String::from_utf8(out).unwrap_or_default()
    }
}

/// As [`Event::to_json`], byte for byte when `serde_json` writes it.
impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_json()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("topic", &self.topic())
            .field("payload", &self.payload().escape_ascii().to_string())
            .field("qos", &self.qos())
            .field("retain", &self.retain())
            .field("duplicate", &self.duplicate())
            .field("packet_id", &self.packet_id())
            .finish_non_exhaustive()
    }
}
