//! Several events with one acknowledgement.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Event;
use super::queue::Receipt;
use crate::message::{Batch, Message};
use crate::record::EventShape;

/// Events in receive order. Dropped without [`ack`](EventBatch::ack) they stay unacknowledged.
#[must_use = "a batch that is dropped stays unacknowledged"]
pub struct EventBatch {
    batch: Arc<Batch>,
    range: Range<usize>,
    /// `None` in an empty batch.
    receipt: Option<Receipt>,
    shape: Arc<EventShape>,
}

impl EventBatch {
    pub(super) fn new(
        batch: Arc<Batch>,
        range: Range<usize>,
        receipt: Receipt,
        shape: Arc<EventShape>,
    ) -> Self {
        EventBatch { batch, range, receipt: Some(receipt), shape }
    }

    pub(super) fn empty(shape: Arc<EventShape>) -> Self {
        EventBatch { batch: Arc::default(), range: 0..0, receipt: None, shape }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether none came within `empty_poll_delay_ms`.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The events.
    pub fn events(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.range.clone().map(|index| Event::new(self.batch.clone(), index, self.shape.clone()))
    }

    /// The same, borrowed and without counting references: for those who count nanoseconds.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = Message<'_>> {
        self.range.clone().map(|index| self.batch.message(index))
    }

    /// Acknowledges all of them to the broker, once everything received before them is acknowledged too. Returns at once.
    pub fn ack(self) {
        if let Some(receipt) = self.receipt {
            receipt.acknowledge();
        }
    }
}

impl<'a> IntoIterator for &'a EventBatch {
    type Item = Event;
    type IntoIter = Box<dyn ExactSizeIterator<Item = Event> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.events())
    }
}

impl fmt::Debug for EventBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.events()).finish()
    }
}
