//! The plain data that the stages share: a [`Batch`] of messages as columns, what a plugin made of it ([`Outcome`]), and
//! what became of it ([`Tally`]).
//!
//! Nothing here is allocated per message: the driver decodes into the columns, the plugin reads the same columns, a sink
//! slices forwarded records from them, and the batch that travels back to the driver is the acknowledgement.

mod column;
mod outcome;
mod sequences;

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

pub use self::column::{Column, OutputColumn};
pub use self::outcome::{NO_MESSAGE, Outcome, Outputs, Verdict};
pub use self::sequences::Sequences;

/// MQTT quality of service (MQTT 3.1.1 section 4.3).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    #[default]
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

/// QoS, RETAIN and DUP of one PUBLISH, in one byte: QoS in bits 0 and 1, RETAIN in bit 2, DUP in bit 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// From the three values of a PUBLISH.
    pub fn new(qos: QoS, retain: bool, duplicate: bool) -> Self {
        Flags(qos as u8 | (retain as u8) << 2 | (duplicate as u8) << 3)
    }

    /// From the first byte of a PUBLISH (MQTT 3.1.1 section 3.3.1) whose QoS has been checked to be below 3.
    #[inline]
    pub fn from_first_byte(first: u8) -> Self {
        Flags((first >> 1) & 3 | (first & 1) << 2 | first & 8)
    }

    /// The quality of service that the message was delivered with.
    #[inline]
    pub fn qos(self) -> QoS {
        match self.0 & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// A retained message, sent because the subscription is new.
    pub fn retain(self) -> bool {
        self.0 & 4 != 0
    }

    /// The broker says that it may have sent this message before.
    pub fn duplicate(self) -> bool {
        self.0 & 8 != 0
    }

    /// The byte as the WIT's `delivery` column carries it.
    pub fn bits(self) -> u8 {
        self.0
    }
}

/// What became of the messages of a batch; the terms of the loss equation
/// `received = committed + dropped + dead_lettered + in_flight`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// At least one record was made of the message, and the sink has committed all of them.
    pub committed: u64,
    /// The plugin dropped it, emitted nothing, or the policy for bad messages, or for retained ones, says drop. In the library: its
    /// reader let go of it without an acknowledgement, and its connection is gone, or it was sent at most once.
    pub dropped: u64,
    /// Rejected, faulting, oversized or impossible to write, and its dead letter is committed.
    pub dead_lettered: u64,
}

impl Tally {
    /// All messages that are settled.
    pub fn total(&self) -> u64 {
        self.committed + self.dropped + self.dead_lettered
    }
}

/// Messages in receive order, as columns: what the driver hands to a plugin worker, and, with its [`Tally`], what comes
/// back as their acknowledgement.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// MQTT topic names; UTF-8, checked by the driver.
    pub topics: Arc<Column>,
    /// Payloads, byte for byte.
    pub payloads: Arc<Column>,
    /// Packet identifiers; 0 at QoS 0.
    pub packet_ids: Vec<u16>,
    /// QoS, retain, duplicate.
    pub flags: Vec<Flags>,
    /// When the packet was read, in nanoseconds since the Unix epoch.
    pub received_at: Vec<u64>,
    /// MQTT 5 property blocks as they came (without their length), of those messages that have one.
    pub properties: Vec<(u32, Box<[u8]>)>,
    /// How often messages were tried before, of those that were (dead letters that are replayed), ascending.
    pub attempts: Vec<(u32, u32)>,
    /// The messages' receive sequence numbers, in the order of the columns. What is in here is acknowledged when the batch
    /// is sent back; a worker takes out what it holds.
    pub sequences: Sequences,
    /// Set when the packet was greater than `max_packet_size`, to its size in bytes: then this is the batch's only message, its
    /// payload was skipped, and it goes to the dead letters and past the plugin.
    pub oversized: Option<usize>,
    /// Set when it is sent back with nothing settled, because whoever had the messages let go of them: they are not acknowledged.
    pub abandoned: bool,
    /// What its processing wrote to the state of plugins; it, and all that it may have read, has to be durable before the batch
    /// is acknowledged. `None` where no state is kept.
    pub state: Option<StateCommit>,
    /// Filled by whoever settles the batch.
    pub tally: Tally,
}

/// What the processing of one batch wrote to the state of plugins. It is durable as a whole or not at all.
#[derive(Debug, Clone)]
pub struct StateCommit {
    /// How many commits of the source came before: it may build on them, so it is not durable before they are. One that wrote
    /// nothing is not counted itself, and waits for them because it may have read what they wrote.
    pub number: u64,
    /// What was written, of each plugin that wrote something.
    pub writes: Vec<StateWrites>,
    /// Its share of the bytes that may wait, given back when it is durable.
    pub permit: Option<Arc<OwnedSemaphorePermit>>,
}

/// What one plugin wrote to its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrites {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Each key at most once.
    pub changes: Vec<StateChange>,
}

/// A key and its new value; `None` is deleted.
pub type StateChange = (Arc<str>, Option<Arc<[u8]>>);

impl Batch {
    /// How many messages there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// Bytes of topics, payloads and properties.
    pub fn bytes(&self) -> usize {
        let properties: usize = self.properties.iter().map(|(_, block)| block.len()).sum();
        self.topics.data.len() + self.payloads.data.len() + properties
    }

    /// One message, borrowed.
    #[inline]
    pub fn message(&self, index: usize) -> Message<'_> {
        Message { batch: self, index }
    }

    /// The messages, borrowed.
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        (0..self.len()).map(|index| self.message(index))
    }

    /// Appends a copy of message `index` of `other`. The sequence number is the caller's business.
    pub fn push_from(&mut self, other: &Batch, index: usize) {
        self.push_as(other, index, other.topics.get(index), other.payloads.get(index));
    }

    /// As [`push_from`](Self::push_from), with another topic, which has to be UTF-8, and another payload.
    pub fn push_as(&mut self, other: &Batch, index: usize, topic: &[u8], payload: &[u8]) {
        let position = self.len() as u32;
        Arc::make_mut(&mut self.topics).push(topic);
        Arc::make_mut(&mut self.payloads).push(payload);
        self.packet_ids.push(other.packet_ids[index]);
        self.flags.push(other.flags[index]);
        self.received_at.push(other.received_at[index]);
        if let Some(block) = other.message(index).properties() {
            self.properties.push((position, block.into()));
        }
        match other.message(index).attempts() {
            1 => {}
            attempts => self.attempts.push((position, attempts - 1)),
        }
    }

    /// Empties the batch for the next use and keeps its memory, where nobody else still reads the columns.
    pub fn clear(&mut self) {
        for column in [&mut self.topics, &mut self.payloads] {
            match Arc::get_mut(column) {
                Some(column) => column.clear(),
                None => *column = Arc::default(),
            }
        }
        self.packet_ids.clear();
        self.flags.clear();
        self.received_at.clear();
        self.properties.clear();
        self.attempts.clear();
        self.sequences.clear();
        self.oversized = None;
        self.abandoned = false;
        self.state = None;
        self.tally = Tally::default();
    }
}

/// One message of a batch, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Message<'a> {
    /// Its place in the batch.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The MQTT topic name.
    pub fn topic(&self) -> &'a str {
        // The driver has checked the whole column; should that ever be wrong, a message without a topic is better than a crash.
        std::str::from_utf8(self.batch.topics.get(self.index)).unwrap_or_default()
    }

    /// The payload, byte for byte.
    pub fn payload(&self) -> &'a [u8] {
        self.batch.payloads.get(self.index)
    }

    /// The packet identifier; 0 at QoS 0.
    pub fn packet_id(&self) -> u16 {
        self.batch.packet_ids[self.index]
    }

    /// QoS, retain, duplicate.
    pub fn flags(&self) -> Flags {
        self.batch.flags[self.index]
    }

    /// When the packet was read, in nanoseconds since the Unix epoch.
    pub fn received_at(&self) -> u64 {
        self.batch.received_at[self.index]
    }

    /// How often the message was tried, this time included: 1, but for a dead letter that is replayed.
    pub fn attempts(&self) -> u32 {
        let attempts = &self.batch.attempts;
        let at = attempts.binary_search_by_key(&(self.index as u32), |(index, _)| *index);
        at.map_or(1, |at| attempts[at].1.saturating_add(1))
    }

    /// The MQTT 5 property block as it came, if there was one.
    pub fn properties(&self) -> Option<&'a [u8]> {
        let properties = &self.batch.properties;
        let at = properties.binary_search_by_key(&(self.index as u32), |(index, _)| *index).ok()?;
        Some(&properties[at].1)
    }
}

/// What a plugin worker is asked to do.
#[derive(Debug)]
pub enum Work {
    /// Process these messages.
    Batch(Box<Batch>),
    /// Flush what is held: the window of unacknowledged messages is nearly full.
    Flush,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_first_byte() {
        // PUBLISH with DUP, QoS 2 and RETAIN: 0011 1101.
        let flags = Flags::from_first_byte(0x3d);
        assert_eq!(flags, Flags::new(QoS::ExactlyOnce, true, true));
        assert_eq!((flags.qos(), flags.retain(), flags.duplicate()), (QoS::ExactlyOnce, true, true));
        assert_eq!(Flags::from_first_byte(0x30), Flags::new(QoS::AtMostOnce, false, false));
    }

    #[test]
    fn a_copied_message_keeps_its_attempts() {
        let mut from = Batch::default();
        for _ in 0..2 {
            Arc::make_mut(&mut from.topics).push(b"a");
            Arc::make_mut(&mut from.payloads).push(b"");
            from.packet_ids.push(0);
            from.flags.push(Flags::new(QoS::AtMostOnce, false, false));
            from.received_at.push(0);
        }
        from.attempts.push((1, 4));
        let mut to = Batch::default();
        to.push_from(&from, 1);
        to.push_from(&from, 0);
        assert_eq!([from.message(0).attempts(), from.message(1).attempts()], [1, 5]);
        assert_eq!([to.message(0).attempts(), to.message(1).attempts()], [5, 1]);
        to.clear();
        assert!(to.attempts.is_empty());
    }

    #[test]
    fn a_copied_message_keeps_its_properties() {
        let mut from = Batch::default();
        for (topic, block) in [("a", None), ("b", Some(vec![3, 0, 1, b'x'].into_boxed_slice()))] {
            Arc::make_mut(&mut from.topics).push(topic.as_bytes());
            Arc::make_mut(&mut from.payloads).push(b"payload");
            from.packet_ids.push(7);
            from.flags.push(Flags::new(QoS::AtLeastOnce, false, false));
            from.received_at.push(1);
            if let Some(block) = block {
                from.properties.push((from.len() as u32 - 1, block));
            }
        }
        let mut to = Batch::default();
        to.push_from(&from, 1);
        let message = to.message(0);
        assert_eq!(
            (message.topic(), message.payload(), message.properties()),
            ("b", &b"payload"[..], Some(&[3, 0, 1, b'x'][..]))
        );
        assert_eq!(from.message(0).properties(), None);
    }
}
