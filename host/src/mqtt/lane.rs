//! One plugin worker, seen from the driver: the batch that is being filled for it, and its channel.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};

use super::epoch_nanos;
use super::publish::{Publish, legal_topic, legal_topics};
use crate::error::MqttError;
use crate::message::{Batch, Column, Flags, Work};
use crate::metrics::MqttSourceMetrics;

/// A batch that has this many bytes takes no more messages: the ends of a column are 32 bits wide, and one batch should not be
/// the whole window.
const BATCH_BYTES: usize = 4 << 20;

/// Batches to be used again. Boxed, because in boxes they travel.
#[allow(clippy::vec_box, reason = "moving a batch into and out of a box would copy it")]
pub(super) type Spare = Vec<Box<Batch>>;

type Reserved = Pin<Box<dyn Future<Output = Result<mpsc::OwnedPermit<Work>, SendError<()>>> + Send>>;
type Closed = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct Lane {
    /// `None` once the lane is closed.
    sender: Option<mpsc::Sender<Work>>,
    /// Waits for a free slot while the worker is behind.
    reserved: Option<Reserved>,
    /// Ends when the worker is gone.
    closed: Option<Closed>,
    /// Being filled. The columns are outside of the batch until it is handed on, because in it they are shared.
    batch: Box<Batch>,
    topics: Column,
    payloads: Column,
    checked: Checked,
    /// Complete batches that come before the one being filled.
    ready: VecDeque<Box<Batch>>,
    /// A flush was asked for and nothing was settled since.
    pub flushed: bool,
}

/// How much of the batch being filled has been checked and counted.
#[derive(Debug, Default, Clone, Copy)]
struct Checked {
    messages: usize,
    topics: usize,
    payloads: usize,
}

/// What is new in a lane.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counted {
    pub messages: u64,
    /// Bytes of topics and payloads.
    pub bytes: u64,
    /// Messages with the DUP flag.
    pub redeliveries: u64,
}

impl Lane {
    pub fn new(sender: mpsc::Sender<Work>) -> Self {
        let watched = sender.clone();
        Lane {
            sender: Some(sender),
            reserved: None,
            closed: Some(Box::pin(async move { watched.closed().await })),
            batch: Box::default(),
            topics: Column::default(),
            payloads: Column::default(),
            checked: Checked::default(),
            ready: VecDeque::new(),
            flushed: false,
        }
    }

    /// Whether the batch being filled takes no more.
    #[inline(always)]
    pub fn is_full(&self, max_batch: usize) -> bool {
        self.batch.flags.len() >= max_batch || self.payloads.data.len() >= BATCH_BYTES
    }

    #[inline(always)]
    pub fn push(&mut self, message: &Publish<'_>, flags: Flags, sequence: u64) {
        if !message.properties.is_empty() {
            self.batch.properties.push((self.batch.flags.len() as u32, message.properties.into()));
        }
        self.topics.push(message.topic);
        self.payloads.push(message.payload);
        self.batch.packet_ids.push(message.packet_id);
        self.batch.flags.push(flags);
        self.batch.sequences.push(sequence);
    }

    /// The sequence number of the first new message whose topic name is illegal.
    pub fn first_illegal(&self) -> Option<u64> {
        let Checked { messages, topics, .. } = self.checked;
        let (data, ends) = (self.topics.data.get(topics..)?, self.topics.ends.get(messages..)?);
        if legal_topics(data, ends, topics) {
            return None;
        }
        let illegal = (messages..self.topics.len()).find(|&index| !legal_topic(self.topics.get(index)))?;
        self.batch.sequences.iter().nth(illegal)
    }

    /// Takes out the messages from sequence number `from` on.
    pub fn retract(&mut self, from: u64) {
        let keep = self.batch.sequences.iter().take_while(|&sequence| sequence < from).count();
        let end = |column: &Column| {
            keep.checked_sub(1).and_then(|last| column.ends.get(last)).map_or(0, |&end| end as usize)
        };
        for column in [&mut self.topics, &mut self.payloads] {
            column.data.truncate(end(column));
            column.ends.truncate(keep);
        }
        self.batch.packet_ids.truncate(keep);
        self.batch.flags.truncate(keep);
        self.batch.properties.retain(|(index, _)| (*index as usize) < keep);
        self.batch.sequences.truncate(from);
    }

    /// The new messages are good and came at `received_at`.
    pub fn count(&mut self, received_at: u64) -> Counted {
        let before = self.checked;
        self.checked = Checked {
            messages: self.batch.flags.len(),
            topics: self.topics.data.len(),
            payloads: self.payloads.data.len(),
        };
        self.batch.received_at.resize(self.checked.messages, received_at);
        let new = self.batch.flags.get(before.messages..).unwrap_or_default();
        Counted {
            messages: (self.checked.messages - before.messages) as u64,
            bytes: (self.checked.topics - before.topics + self.checked.payloads - before.payloads) as u64,
            redeliveries: new.iter().map(|flags| u64::from(flags.duplicate())).sum(),
        }
    }

    /// Completes the batch being filled, if there is anything in it, and then queues `batch`.
    pub fn enqueue(&mut self, batch: Box<Batch>, spare: &mut Spare) {
        if !self.batch.is_empty() {
            let pending = self.seal(spare);
            self.ready.push_back(pending);
        }
        self.ready.push_back(batch);
    }

    /// Nothing waits to be handed on.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.batch.is_empty()
    }

    fn seal(&mut self, spare: &mut Spare) -> Box<Batch> {
        let mut next = spare.pop().unwrap_or_default();
        let take = |column: &mut Arc<Column>| Arc::get_mut(column).map(std::mem::take).unwrap_or_default();
        let topics = std::mem::replace(&mut self.topics, take(&mut next.topics));
        let payloads = std::mem::replace(&mut self.payloads, take(&mut next.payloads));
        let mut batch = std::mem::replace(&mut self.batch, next);
        for (shared, column) in [(&mut batch.topics, topics), (&mut batch.payloads, payloads)] {
            match Arc::get_mut(shared) {
                Some(place) => *place = column,
                None => *shared = Arc::new(column),
            }
        }
        self.checked = Checked::default();
        batch
    }

    /// Hands on what the worker takes now: batches, then, if `flush`, a flush. Whether there was a batch.
    pub fn hand_on(
        &mut self,
        cx: &mut Context<'_>,
        spare: &mut Spare,
        flush: bool,
        metrics: &MqttSourceMetrics,
    ) -> Result<bool, MqttError> {
        let mut any = false;
        while !self.is_empty() || flush && !self.flushed {
            let Some(sender) = &self.sender else { return Ok(any) };
            let permit = match &mut self.reserved {
                None => match sender.clone().try_reserve_owned() {
                    Ok(permit) => permit,
                    Err(TrySendError::Full(sender)) => {
                        self.reserved = Some(Box::pin(sender.reserve_owned()));
                        continue;
                    }
                    Err(TrySendError::Closed(_)) => return Err(MqttError::WorkersGone),
                },
                Some(reserved) => match reserved.as_mut().poll(cx) {
                    Poll::Pending => return Ok(any),
                    Poll::Ready(permit) => {
                        self.reserved = None;
                        permit.map_err(|_| MqttError::WorkersGone)?
                    }
                },
            };
            let work = match self.ready.pop_front() {
                Some(batch) => Work::Batch(batch),
                None if !self.batch.is_empty() => Work::Batch(self.seal(spare)),
                None => {
                    self.flushed = true;
                    Work::Flush
                }
            };
            if let Work::Batch(batch) = &work {
                any = true;
                metrics.handed_over(&batch.received_at, epoch_nanos());
            }
            permit.send(work);
        }
        Ok(any)
    }

    /// The worker has all it will get: lets it end.
    pub fn close(&mut self) {
        (self.sender, self.reserved, self.closed) = (None, None, None);
    }

    /// Whether the worker is gone though the lane is open.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        // Asked again after it was true, too, and a future that has ended may not be polled again.
        let gone = self.sender.as_ref().is_some_and(mpsc::Sender::is_closed);
        gone || self.closed.as_mut().is_some_and(|closed| closed.as_mut().poll(cx).is_ready())
    }
}

/// Which of `n` workers gets the messages of a topic: the same one always, so that order per topic holds.
#[inline]
pub(super) fn shard(topic: &[u8], n: usize) -> usize {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = topic.len() as u64;
    let (words, rest) = topic.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte)).wrapping_mul(MULTIPLIER).rotate_left(29);
    }
    // The upper bits are the well mixed ones.
    ((u128::from(hash.wrapping_mul(MULTIPLIER)) * n as u128) >> 64) as usize
}
