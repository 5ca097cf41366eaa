//! The seam between the pipeline and a sink: a [`Delivery`] is a processed batch on its way into records, and the right to
//! settle it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::message::{Batch, NO_MESSAGE, Outcome, Verdict};
use crate::record::Shape;

/// Where a record of a delivery comes from. Small, so that a sink can queue it and encode the record when it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The message with this index, forwarded.
    Message(u32),
    /// The plugin's output with this index.
    Output(u32),
    /// The dead letter with this index.
    DeadLetter(u32),
}

/// A message that could not go its way, and why.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its index in the batch.
    pub message: u32,
    /// Where it failed.
    pub stage: Stage,
    /// Why, for a person.
    pub reason: String,
    /// The place in the source's list of the plugin that rejected it or faulted on it; `None` where no plugin did.
    pub plugin: Option<usize>,
}

/// Where a dead letter failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Rejected by the plugin, or the plugin faulted on it.
    Plugin,
    /// The sink can never take the record.
    Sink,
    /// Greater than `max_packet_size`.
    Oversized,
}

impl Stage {
    /// As in the dead letter's `stage`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Plugin => "plugin",
            Stage::Sink => "sink",
            Stage::Oversized => "oversized",
        }
    }
}

/// A processed batch. The sink commits all of its [`records`](Self::records) and then calls [`settle`](Self::settle); a
/// delivery that is dropped instead is never acknowledged, and the broker sends its messages again.
#[derive(Debug)]
pub struct Delivery {
    /// The messages.
    pub batch: Box<Batch>,
    /// What the plugin made of them.
    pub outcome: Outcome,
    /// Those that go to the dead-letter topic.
    pub dead_letters: Vec<DeadLetter>,
    /// What the records look like.
    pub shape: Arc<Shape>,
    /// Back to the driver.
    pub back: mpsc::UnboundedSender<Box<Batch>>,
    /// The delivery's share of the bytes that may wait for the sink.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    /// The records to write, in order: for each message in turn what was made of it, then what belongs to none, dead letters
    /// last.
    pub fn records(&self) -> impl Iterator<Item = Origin> + '_ {
        let verdicts = &self.outcome.verdicts;
        let of = &self.outcome.outputs.of;
        // The outputs of a flush belong to no message, and are the last or all.
        let outputs = self.outcome.outputs.len() as u32;
        let flushed = match of.last() {
            None => 0..outputs,
            Some(&NO_MESSAGE) => of.partition_point(|of| *of != NO_MESSAGE) as u32..outputs,
            Some(_) => outputs..outputs,
        };
        let mut next = 0;
        let of_messages = (0..self.batch.len() as u32).flat_map(move |index| {
            let start = next;
            while of.get(next) == Some(&index) {
                next += 1;
            }
            let passes = verdicts.get(index as usize).is_none_or(|verdict| *verdict == Verdict::Pass);
            let forwarded = passes.then_some(Origin::Message(index));
            forwarded.into_iter().chain((start as u32..next as u32).map(Origin::Output))
        });
        let dead = 0..self.dead_letters.len() as u32;
        of_messages.chain(flushed.map(Origin::Output)).chain(dead.map(Origin::DeadLetter))
    }

    /// Everything is committed: the batch goes back to the driver, which acknowledges it.
    pub fn settle(self) {
        // A driver that is gone acknowledges nothing any more; the broker will send the messages again.
        let _ = self.back.send(self.batch);
    }
}
