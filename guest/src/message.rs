//! Messages as the plugin sees them, over the columns in which they arrive.

use std::cell::OnceCell;

use crate::host::Batch;
use crate::raw::plugin::rivven::connect::source::{Column, Delivery, Properties, Qos};

/// A batch of messages. Topics are fetched at once, everything else when a message is first asked for it.
pub(crate) struct Columns<'a> {
    batch: &'a Batch,
    topics: Column,
    payloads: OnceCell<Column>,
    delivery: OnceCell<Vec<Delivery>>,
    received_at: OnceCell<Vec<u64>>,
}

impl<'a> Columns<'a> {
    pub(crate) fn new(batch: &'a Batch) -> Self {
        Self {
            batch,
            topics: batch.topics(),
            payloads: OnceCell::new(),
            delivery: OnceCell::new(),
            received_at: OnceCell::new(),
        }
    }

    /// How many messages there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.topics.ends.len()
    }

    /// How many bytes the payloads have; 0 while nobody has asked for one.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payloads.get().map_or(0, |payloads| payloads.data.len())
    }
}

/// One MQTT message.
///
/// What is not asked for is never copied into the plugin: a plugin that looks only at topics costs half of one that
/// looks at payloads too.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    pub(crate) columns: &'a Columns<'a>,
    pub(crate) index: usize,
}

impl<'a> Message<'a> {
    /// The MQTT topic name.
    #[inline]
    #[allow(unsafe_code, reason = "see SAFETY")]
    pub fn topic(&self) -> &'a str {
        let topic = self.columns.topics.item(self.index);
        // SAFETY: the contract has the host guarantee that each topic is UTF-8, as the component model has it guarantee
        // that for every string, which wit-bindgen does not check again either. A check here would be a third of the cost
        // of a message that passes.
        unsafe { str::from_utf8_unchecked(topic) }
    }

    /// The payload, byte for byte.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let columns = self.columns;
        columns.payloads.get_or_init(|| columns.batch.payloads()).item(self.index)
    }

    /// The payload as text.
    ///
    /// # Errors
    /// It is not UTF-8. With `?` the message is rejected for that reason.
    pub fn text(&self) -> crate::Result<&'a str> {
        str::from_utf8(self.payload())
            .map_err(|error| crate::Error::new(format!("payload is not UTF-8: {error}")))
    }

    /// The payload as JSON. `T` may borrow from it.
    ///
    /// # Errors
    /// It is not JSON, or not of the shape of `T`. With `?` the message is rejected for that reason.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Deserialize<'a>>(&self) -> crate::Result<T> {
        serde_json::from_slice(self.payload())
            .map_err(|error| crate::Error::new(format!("payload is not the expected JSON: {error}")))
    }

    /// The quality of service with which the message was delivered.
    #[inline]
    pub fn qos(&self) -> Qos {
        self.delivery().qos
    }

    /// RETAIN: the broker kept the message and sent it because the subscription is new.
    #[inline]
    pub fn retain(&self) -> bool {
        self.delivery().retain
    }

    /// DUP: the broker may have sent the message before. Never a reason to drop it: the first copy may be lost.
    #[inline]
    pub fn duplicate(&self) -> bool {
        self.delivery().duplicate
    }

    /// When the host read the message: nanoseconds since the Unix epoch.
    #[inline]
    pub fn received_at(&self) -> u64 {
        let columns = self.columns;
        columns.received_at.get_or_init(|| columns.batch.received_at())[self.index]
    }

    /// The properties of MQTT 5; none over MQTT 3.1.1, and none when the message has none. Each call asks the host.
    pub fn properties(&self) -> Option<Properties> {
        // A batch has far fewer than 2^32 messages: its length is a u32.
        self.columns.batch.properties(self.index as u32)
    }

    #[inline]
    fn delivery(&self) -> Delivery {
        let columns = self.columns;
        columns.delivery.get_or_init(|| columns.batch.delivery())[self.index]
    }
}

impl Default for Properties {
    /// Without any property, to be filled in by tests.
    fn default() -> Self {
        Self {
            content_type: None,
            response_topic: None,
            correlation_data: None,
            message_expiry: None,
            payload_is_utf8: false,
            user: Vec::new(),
        }
    }
}
