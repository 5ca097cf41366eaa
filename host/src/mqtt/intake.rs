//! Between the connection and the workers: messages go into batches as long as the window has room, batches are handed on, and
//! what comes back settles the session. It outlives connections.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tracing::debug;

use super::ages::Ages;
use super::lane::{Counted, Lane, Spare, shard};
use super::packet::{self, MALFORMED, PROTOCOL_ERROR};
use super::publish::{self, PUBLISH, ReadBuffer, Skipped, legal_topic};
use super::session::Session;
use super::store::{Change, Store, Stored, Subscribed};
use super::{Driver, Outlet};
use crate::config::{Mqtt, Retained, Version};
use crate::error::MqttError;
use crate::message::{Batch, Flags, QoS, Sequences, Tally};
use crate::metrics::{MqttSourceMetrics, SourceMetrics};
use crate::state_dir;
use crate::status::Status;

/// A packet that is no PUBLISH and has more is not taken.
pub(super) const MAX_OTHER: usize = 64 << 10;
/// Duplicates that may wait for an acknowledgement besides the messages of the window.
const MAX_DUPLICATES: usize = 1 << 16;
/// Batches that are kept for the next use, and the greatest of their columns.
const SPARE: usize = 16;
const SPARE_BYTES: usize = 4 << 20;
const ILLEGAL_TOPIC: &str = "the topic name is not UTF-8, or has a NUL or a wildcard";

/// Why decoding stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The buffer has no whole packet any more.
    Read,
    /// There is no room for the next message.
    Full,
    /// The next packet is this long and no PUBLISH.
    Other(usize),
    /// A packet greater than is taken has been skipped.
    Oversized(Skipped),
}

type Writing = Pin<Box<dyn Future<Output = Result<Vec<Change>, MqttError>> + Send>>;

pub(super) struct Intake {
    pub session: Session,
    /// What is subscribed to in the broker's session, if that is known.
    pub subscribed: Option<Subscribed>,
    lanes: Vec<Lane>,
    back: mpsc::UnboundedReceiver<Box<Batch>>,
    back_closed: bool,
    spare: Spare,
    metrics: Arc<SourceMetrics>,
    ages: Ages,
    store: Option<Arc<Store>>,
    writing: Option<Writing>,
    settings: Arc<Mqtt>,
    name: Arc<str>,
    status: Status,
    aggregating: Arc<AtomicBool>,
    draining: bool,
    /// The window has no room for the next message.
    full: bool,
    /// Sequence numbers and bytes of retained messages that are not wanted, to be settled by [`finish`](Self::finish).
    unwanted: Vec<(u64, usize)>,
}

impl Intake {
    /// Opens the session's store where the session is persistent.
    pub fn new(driver: &Driver, outlet: Outlet) -> Result<Self, MqttError> {
        let settings = driver.settings.clone();
        let (store, stored) = if settings.clean_session {
            (None, Stored::default())
        } else {
            let owner = format!("{}\n{}", settings.url, settings.client_id);
            let (store, stored) =
                Store::open(state_dir::store(&driver.state_dir, "mqtt", &driver.name), &owner)?;
            (Some(Arc::new(store)), stored)
        };
        driver.metrics.link.starts(settings.max_inflight, &settings.topics);
        Ok(Intake {
            session: Session::new(store.is_some(), stored.received),
            subscribed: stored.subscribed,
            lanes: outlet.workers.into_iter().map(Lane::new).collect(),
            back: outlet.back,
            back_closed: false,
            spare: Spare::new(),
            metrics: driver.metrics.clone(),
            ages: Ages::default(),
            store,
            writing: None,
            name: driver.name.as_str().into(),
            status: driver.status.clone(),
            settings,
            aggregating: driver.aggregating.clone(),
            draining: false,
            full: false,
            unwanted: Vec::new(),
        })
    }

    /// Decodes messages into batches, until something else is to be done.
    pub fn decode(&mut self, buffer: &mut ReadBuffer) -> Result<Stop, MqttError> {
        if buffer.skipped.is_none() {
            let stop = self.decode_messages(buffer)?;
            if buffer.skipped.is_none() {
                return Ok(stop);
            }
        }
        if !buffer.skip() {
            return Ok(Stop::Read);
        }
        let skipped = buffer.skipped.take_if(|skipped| self.has_room(skipped.topic.len()));
        Ok(skipped.map_or(Stop::Full, Stop::Oversized))
    }

    fn decode_messages(&mut self, buffer: &mut ReadBuffer) -> Result<Stop, MqttError> {
        self.full = false;
        let v5 = self.settings.version == Version::V5;
        let (max_packet, max_batch) = (self.settings.max_packet_size, self.settings.max_batch);
        let bytes = buffer.unread();
        let (mut at, mut needed, mut skipped) = (0, 0, None);
        let stop = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let head = match publish::head(rest) {
                Ok(Some(head)) => head,
                Ok(None) => break Ok(Stop::Read),
                Err(reason) => break Err(malformed(rest, reason)),
            };
            if head.first >> 4 != PUBLISH {
                if head.total > MAX_OTHER {
                    break Err(malformed(rest, "it is longer than 64 KiB"));
                }
                needed = head.total;
                break Ok(if rest.len() < head.total { Stop::Read } else { Stop::Other(head.total) });
            }
            if head.total > max_packet {
                match publish::oversized(head, rest) {
                    Ok(None) => {}
                    Ok(Some((front, taken))) => {
                        at += taken;
                        skipped = Some(front);
                    }
                    Err(reason) => break Err(packet::error("PUBLISH", reason, MALFORMED)),
                }
                break Ok(Stop::Read);
            }
            let Some(body) = rest.get(head.length..head.total) else {
                needed = head.total;
                break Ok(Stop::Read);
            };
            let message = match publish::publish(head.first, body, v5) {
                Ok(message) => message,
                Err(reason) => break Err(malformed(rest, reason)),
            };
            let flags = Flags::from_first_byte(head.first);
            let qos = flags.qos();
            if qos == QoS::ExactlyOnce && !self.has_slot() {
                break Ok(Stop::Full);
            }
            if qos == QoS::ExactlyOnce && self.session.suppress(message.packet_id) {
                self.suppressed(message.packet_id);
                at += head.total;
                continue;
            }
            let size = message.topic.len() + message.properties.len() + message.payload.len();
            if self.is_unwanted(flags) {
                if !legal_topic(message.topic) {
                    break Err(packet::error("PUBLISH", ILLEGAL_TOPIC, MALFORMED));
                }
                if !self.has_slot() {
                    break Ok(Stop::Full);
                }
                self.unwanted.push((self.session.admit(message.packet_id, qos, size), size));
                at += head.total;
                continue;
            }
            let lane = match self.lanes.as_slice() {
                [_] => 0,
                lanes => shard(message.topic, lanes.len()),
            };
            if !self.has_room(size) {
                self.full = true;
                break Ok(Stop::Full);
            }
            let Some(lane) = self.lanes.get_mut(lane).filter(|lane| !lane.is_full(max_batch)) else {
                break Ok(Stop::Full);
            };
            lane.push(&message, flags, self.session.admit(message.packet_id, qos, size));
            at += head.total;
        };
        buffer.advance(at, needed);
        buffer.skipped = skipped;
        stop
    }

    /// Whether a message of `size` bytes may enter the host. A message greater than the whole window enters alone.
    #[inline(always)]
    fn has_room(&self, size: usize) -> bool {
        let session = &self.session;
        session.messages() < self.settings.max_inflight
            && (session.bytes() + size <= self.settings.max_inflight_bytes || session.messages() == 0)
            && self.has_slot()
    }

    /// Whether one more acknowledgement may be owed: duplicates are bounded too.
    #[inline(always)]
    fn has_slot(&self) -> bool {
        self.session.unacknowledged() < self.settings.max_inflight + MAX_DUPLICATES
    }

    /// Whether it is a retained message though none is to be taken. A broker of 5.0 was told so, but may still have some queued.
    #[inline(always)]
    fn is_unwanted(&self, flags: Flags) -> bool {
        flags.retain() && self.settings.retained == Retained::Skip
    }

    /// Checks and counts what was decoded. Where a topic name is illegal, that message and those behind it do not enter. Whether
    /// anything was settled at once.
    pub fn finish(&mut self, received_at: u64) -> Result<bool, MqttError> {
        let illegal = self.lanes.iter().filter_map(Lane::first_illegal).min();
        if let Some(from) = illegal {
            self.lanes.iter_mut().for_each(|lane| lane.retract(from));
            self.session.retract(from);
            self.unwanted.retain(|(sequence, _)| *sequence < from);
        }
        let mut all = Counted::default();
        for lane in &mut self.lanes {
            let new = lane.count(received_at);
            all.messages += new.messages;
            all.bytes += new.bytes;
            all.redeliveries += new.redeliveries;
        }
        self.received(all);
        let dropped = self.drop_unwanted();
        self.ages.came(self.session.next(), received_at);
        self.show_what_is_owed();
        match illegal {
            None => Ok(dropped),
            Some(_) => Err(packet::error("PUBLISH", ILLEGAL_TOPIC, MALFORMED)),
        }
    }

    fn drop_unwanted(&mut self) -> bool {
        if self.unwanted.is_empty() {
            return false;
        }
        let mut sequences = Sequences::default();
        let (mut messages, mut bytes) = (0, 0);
        for (sequence, size) in self.unwanted.drain(..) {
            sequences.push(sequence);
            messages += 1;
            bytes += size as u64;
        }
        self.metrics.received(messages, bytes);
        self.metrics.settled(Tally { dropped: messages, ..Tally::default() });
        self.session.settle(&sequences);
        true
    }

    fn received(&self, new: Counted) {
        if new.messages > 0 {
            self.metrics.received(new.messages, new.bytes);
        }
        if new.redeliveries > 0 {
            debug!(source = &*self.name, messages = new.redeliveries, "redelivered (DUP), processed again");
            SourceMetrics::add(&self.metrics.redeliveries, new.redeliveries);
        }
    }

    fn suppressed(&self, packet_id: u16) {
        debug!(source = &*self.name, packet_id, "a QoS 2 message came again, not processed again");
        SourceMetrics::add(&self.metrics.duplicates_suppressed, 1);
    }

    /// A packet greater than is taken: a batch of its own, behind what came before it. What was decoded before must be
    /// [finished](Self::finish).
    pub fn oversized(&mut self, skipped: Skipped, received_at: u64) {
        let flags = Flags::from_first_byte(skipped.first);
        let qos = flags.qos();
        SourceMetrics::add(&self.metrics.oversized, 1);
        if qos == QoS::ExactlyOnce && self.session.suppress(skipped.packet_id) {
            return self.suppressed(skipped.packet_id);
        }
        let topic = skipped.topic.as_bytes();
        if self.is_unwanted(flags) {
            let sequence = self.session.admit(skipped.packet_id, qos, topic.len());
            return self.unwanted.push((sequence, topic.len()));
        }
        debug!(
            source = &*self.name,
            topic = skipped.topic,
            bytes = skipped.size,
            "skipped an oversized packet"
        );
        let index = shard(topic, self.lanes.len());
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let sequence = self.session.admit(skipped.packet_id, qos, topic.len());
        let mut batch = self.spare.pop().unwrap_or_default();
        Arc::make_mut(&mut batch.topics).push(topic);
        Arc::make_mut(&mut batch.payloads).push(&[]);
        batch.packet_ids.push(skipped.packet_id);
        batch.flags.push(flags);
        batch.received_at.push(received_at);
        batch.sequences.push(sequence);
        batch.oversized = Some(skipped.size);
        lane.enqueue(batch, &mut self.spare);
        let redeliveries = u64::from(flags.duplicate());
        self.received(Counted { messages: 1, bytes: topic.len() as u64, redeliveries });
        self.ages.came(self.session.next(), received_at);
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        let dropped = self.session.disconnected();
        self.dropped(dropped);
        self.ages.disconnected(self.session.has_earlier());
        self.show_what_is_owed();
    }

    /// For the metrics: a few words for each read and each turn.
    fn show_what_is_owed(&mut self) {
        let session = &self.session;
        self.ages.acknowledged(session.front(), session.has_earlier());
        self.metrics.link.owes(session.unacknowledged(), session.bytes(), self.ages.oldest());
    }

    /// Takes what came back, makes changes durable, hands batches on, as far as all that goes without waiting.
    pub fn progress(&mut self, cx: &mut Context<'_>) -> Result<(), MqttError> {
        while !self.back_closed
            && let Poll::Ready(batch) = self.back.poll_recv(cx)
        {
            match batch {
                Some(batch) => self.settle(batch),
                None if self.draining => self.back_closed = true,
                None => return Err(MqttError::WorkersGone),
            }
        }
        self.poll_store(cx)?;
        self.show_what_is_owed();
        self.hand_on(cx)?;
        Ok(())
    }

    fn settle(&mut self, mut batch: Box<Batch>) {
        if batch.abandoned {
            let dropped = self.session.abandon(&batch.sequences);
            self.dropped(dropped);
        } else {
            self.metrics.settled(batch.tally);
            self.session.settle(&batch.sequences);
        }
        self.lanes.iter_mut().for_each(|lane| lane.flushed = false);
        let greatest = batch.topics.data.capacity().max(batch.payloads.data.capacity());
        if self.spare.len() < SPARE && greatest <= SPARE_BYTES {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// Abandoned messages have left the host. Should the broker send them again, they are received again.
    fn dropped(&self, messages: u64) {
        if messages > 0 {
            debug!(source = &*self.name, messages, "let go by their reader, and not acknowledged");
            self.metrics.settled(Tally { dropped: messages, ..Tally::default() });
        }
    }

    fn poll_store(&mut self, cx: &mut Context<'_>) -> Result<(), MqttError> {
        loop {
            if let Some(writing) = &mut self.writing {
                let Poll::Ready(changes) = writing.as_mut().poll(cx) else { return Ok(()) };
                self.writing = None;
                self.session.stored(&changes?);
            }
            let Some(store) = self.store.clone().filter(|_| !self.session.changes.is_empty()) else {
                return Ok(());
            };
            let changes = std::mem::take(&mut self.session.changes);
            let (name, status) = (self.name.clone(), self.status.clone());
            self.writing = Some(Box::pin(store.apply(changes, name, status, self.metrics.clone())));
        }
    }

    /// Hands on what the workers take. Whether that was anything.
    pub fn hand_on(&mut self, cx: &mut Context<'_>) -> Result<bool, MqttError> {
        let flush = !self.draining && self.aggregating.load(Relaxed) && (self.full || self.is_nearly_full());
        let mut any = false;
        for lane in &mut self.lanes {
            match lane.hand_on(cx, &mut self.spare, flush, &self.metrics.mqtt) {
                Ok(handed_on) => any |= handed_on,
                // A worker that stopped is why we drain: the others go on, and what it has stays unacknowledged.
                Err(MqttError::WorkersGone) if self.draining => lane.close(),
                Err(error) => return Err(error),
            }
            if self.draining && lane.is_empty() {
                lane.close();
            }
        }
        Ok(any)
    }

    /// Three quarters of the window, in messages or in bytes, are in use.
    fn is_nearly_full(&self) -> bool {
        let window = match self.settings.version {
            Version::V4 => self.settings.max_inflight,
            Version::V5 => self.settings.max_inflight.min(u16::MAX.into()),
        };
        // Unacknowledged, not only unsettled: behind a held message the broker gets no acknowledgement.
        self.session.unacknowledged() >= window - window / 4
            || self.session.bytes() >= self.settings.max_inflight_bytes - self.settings.max_inflight_bytes / 4
    }

    /// No more messages will come: workers get what is pending and are let go.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether batches are kept for the next use.
    pub fn keeps_memory(&self) -> bool {
        !self.spare.is_empty()
    }

    /// Gives back what is kept for the next use: nothing comes at present.
    pub fn release_memory(&mut self) {
        self.spare = Spare::new();
    }

    /// Nothing is in the host any more, or nothing can come back.
    pub fn is_drained(&self) -> bool {
        let settled = self.session.messages() == 0 || self.back_closed;
        settled && self.session.changes.is_empty() && self.writing.is_none()
    }

    /// Whether a worker is gone that nobody has let go. To be asked before waiting.
    pub fn check_workers(&mut self, cx: &mut Context<'_>) -> Result<(), MqttError> {
        match self.lanes.iter_mut().any(|lane| lane.poll_gone(cx)) {
            true => Err(MqttError::WorkersGone),
            false => Ok(()),
        }
    }

    /// Adds 1 to one of the source's counts.
    pub fn count(&self, which: fn(&MqttSourceMetrics) -> &AtomicU64) {
        SourceMetrics::add(which(&self.metrics.mqtt), 1);
    }
}

/// A packet, of which at least the first byte is there, that cannot be parsed.
pub(super) fn malformed(packet: &[u8], reason: &'static str) -> MqttError {
    let name = packet::name(packet.first().copied().unwrap_or_default());
    packet::error(name, reason, if reason == publish::EMPTY_TOPIC { PROTOCOL_ERROR } else { MALFORMED })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "intake_tests.rs"]
mod tests;
