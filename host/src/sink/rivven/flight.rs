//! Deliveries in flight: many records on many connections, settled once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::BadMessage;
use crate::delivery::{Delivery, Origin};
use crate::metrics::SourceMetrics;
use crate::record::Record;

/// A delivery whose records are on their way.
#[derive(Debug)]
pub(super) struct Flight {
    delivery: Delivery,
    /// Records that are neither committed nor given up on purpose. An item that is dropped with its task still counts, so that
    /// its delivery is never settled.
    open: AtomicUsize,
    /// Messages that the sink could not take as they were.
    refused: Mutex<BTreeSet<u32>>,
}

/// One record on its way: 32 bytes, nothing copied.
#[derive(Debug)]
pub(super) struct Item {
    flight: Arc<Flight>,
    origin: Origin,
    /// Set when this is the dead letter of a record that was refused: why.
    refused: Option<Box<str>>,
}

/// What a refused record becomes.
pub(super) enum Refusal {
    /// This, to be routed like any other.
    DeadLetter(Item),
    /// Nothing more: the message's dead letter is on its way already.
    Known(Item),
}

/// Turns a delivery into its records, in order. A delivery without any is settled.
pub(super) fn items(delivery: Delivery) -> Vec<Item> {
    let origins: Vec<Origin> = delivery.records().collect();
    if origins.is_empty() {
        delivery.settle();
        return Vec::new();
    }
    let open = AtomicUsize::new(origins.len());
    let flight = Arc::new(Flight { delivery, open, refused: Mutex::default() });
    origins.into_iter().map(|origin| Item { flight: flight.clone(), origin, refused: None }).collect()
}

impl Item {
    /// The delivery that it belongs to.
    pub(super) fn delivery(&self) -> &Delivery {
        &self.flight.delivery
    }

    /// The record itself.
    pub(super) fn record(&self) -> Record<'_> {
        match &self.refused {
            Some(reason) => Record::refused(&self.flight.delivery, self.origin, reason),
            None => Record::new(&self.flight.delivery, self.origin),
        }
    }

    /// Whether it is a dead letter: there is no other place for one.
    pub(super) fn is_dead_letter(&self) -> bool {
        self.refused.is_some() || matches!(self.origin, Origin::DeadLetter(_))
    }

    /// The server has it.
    pub(super) fn committed(self) {
        SourceMetrics::add(&self.flight.delivery.shape.metrics.records_written, 1);
        self.finish();
    }

    /// The server may have it, but it has to be written again.
    pub(super) fn repeated(&self) {
        SourceMetrics::add(&self.flight.delivery.shape.metrics.sink_retries, 1);
    }

    /// It is not written, on purpose.
    pub(super) fn dropped(self) {
        self.mark();
        self.finish();
    }

    /// It can never be written: makes its dead letter, one for each message.
    pub(super) fn refuse(mut self, reason: String) -> Refusal {
        if !self.mark() {
            return Refusal::Known(self);
        }
        self.refused = Some(reason.into());
        Refusal::DeadLetter(self)
    }

    /// Notes that its message was refused; says whether that is news.
    fn mark(&self) -> bool {
        let message = self.record().message();
        let refused = || self.flight.refused.lock().unwrap_or_else(PoisonError::into_inner);
        message.is_none_or(|message| refused().insert(message))
    }

    /// Settles the delivery if this was the last of its records. Whoever gives back the last reference sees every count.
    fn finish(self) {
        self.flight.open.fetch_sub(1, Ordering::AcqRel);
        let Some(flight) = Arc::into_inner(self.flight) else { return };
        if flight.open.into_inner() > 0 {
            return;
        }
        let mut delivery = flight.delivery;
        let refused = flight.refused.into_inner().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let tally = &mut delivery.batch.tally;
        let moved = refused.min(tally.committed);
        tally.committed -= moved;
        match delivery.shape.on_fault {
            BadMessage::Drop => tally.dropped += moved,
            _ => tally.dead_lettered += moved,
        }
        delivery.settle();
    }
}
