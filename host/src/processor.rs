//! What becomes of each message: the plugin's verdicts, the policy for bad messages, and what is held for a flush. One
//! processor belongs to one plugin worker and runs on its thread.
//!
//! A fault never costs more than the message at fault: the batch, and what was held, is offered again message by message
//! to a fresh instance, and each message leaves as a delivery of its own.

mod pieces;
mod transform;

use std::collections::VecDeque;
use std::future;
use std::iter;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;

use crate::config::BadMessage;
use crate::delivery::{DeadLetter, Delivery, Stage};
use crate::error::Fault;
use crate::live::{Live, Swap};
use crate::message::{Batch, Outcome, Outputs, Sequences, StateCommit, Verdict};
use crate::metrics::SourceMetrics;
use crate::record::Shape;
use crate::sink::Sink;

use self::pieces::{pieces, singles, tally};
pub use self::transform::{PassAll, Transform};

/// Bytes of one source that may wait: outputs of plugins until the sink has them, what they wrote to state until it is durable.
/// Forwarded messages are bounded by the window already.
const BUDGET: usize = 64 << 20;

/// What each output takes beside its bytes, about: a sink keeps it by itself until it is committed.
const OUTPUT_OVERHEAD: usize = 256;

/// What the processors of one source have in common.
#[derive(Clone)]
pub struct Context {
    /// What the records look like, and what happens to bad messages.
    pub shape: Arc<Shape>,
    /// What happens to rejected messages.
    pub on_reject: BadMessage,
    /// Where the records go.
    pub sink: Arc<dyn Sink>,
    /// Back to the driver.
    pub back: mpsc::UnboundedSender<Box<Batch>>,
    /// Back to the driver by way of the journal, where a plugin has state that is to be durable.
    pub journal: Option<StateQueue>,
    /// How many state commits there were. It is locked while state is published, so that all stores see the same order.
    commits: Arc<Mutex<u64>>,
    /// Bytes that may wait: outputs for the sink, what was written to state for the journal.
    budget: Arc<Semaphore>,
}

/// The way by the journal.
#[derive(Debug, Clone)]
pub struct StateQueue {
    /// Gets settled batches, and sends them back when they may be acknowledged.
    pub settled: mpsc::UnboundedSender<Box<Batch>>,
    /// How many state commits are durable.
    pub durable: Arc<AtomicU64>,
}

impl Context {
    /// The context of a source.
    pub fn new(
        shape: Arc<Shape>,
        on_reject: BadMessage,
        sink: Arc<dyn Sink>,
        back: mpsc::UnboundedSender<Box<Batch>>,
    ) -> Self {
        Context {
            shape,
            on_reject,
            sink,
            back,
            journal: None,
            commits: Arc::default(),
            budget: Arc::new(Semaphore::new(BUDGET)),
        }
    }

    fn source(&self) -> &str {
        &self.shape.from.source
    }

    fn metrics(&self) -> &SourceMetrics {
        &self.shape.metrics
    }

    /// Publishes what was written to state. A batch that wrote nothing waits too, where something is not durable yet: it may have
    /// read that, and be dropped for it.
    fn publish(
        &self,
        transform: &mut dyn Transform,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<StateCommit> {
        let mut writes = Vec::new();
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        transform.publish(&mut writes);
        let StateQueue { durable, .. } = self.journal.as_ref()?;
        let number = *commits;
        if !writes.is_empty() {
            *commits += 1;
        } else if durable.load(Acquire) == number {
            return None;
        }
        Some(StateCommit { number, writes, permit: permit.map(Arc::new) })
    }
}

/// Nothing can go on; why, for the operator. What is not settled stays unacknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop(pub String);

/// Turns batches into deliveries.
pub struct Processor {
    transform: Box<dyn Transform>,
    context: Context,
    /// Copies of the messages that the plugin holds, for the flush that acknowledges them and for an instance that has to
    /// take over from one that faulted.
    held: Box<Batch>,
    /// Where other plugins come from.
    live: Option<Live>,
}

impl Processor {
    /// A processor around one plugin instance.
    pub fn new(transform: Box<dyn Transform>, context: Context) -> Self {
        Processor { transform, context, held: Box::default(), live: None }
    }

    /// The same, with plugins that can be replaced, and that wait in quarantine when they fault too often.
    pub fn live(self, live: Live) -> Self {
        Processor { live: Some(live), ..self }
    }

    /// The next plugins to [`swap`](Self::swap) in; waits for ever when there will be none.
    pub async fn next_plugins(&mut self) -> Swap {
        match &mut self.live {
            Some(live) => live.next().await,
            None => future::pending().await,
        }
    }

    /// Flushes what is held, and goes on with other plugins.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn swap(&mut self, swap: Swap) -> Result<(), Stop> {
        self.flush()?;
        // During the flush others may have come that are newer.
        if self.live.as_mut().is_some_and(|live| live.advance(swap.generation)) {
            self.transform = swap.transform;
            self.context.shape = swap.shape;
        }
        Ok(())
    }

    /// Takes other plugins where there are any, and waits for them while those that run are in quarantine.
    fn admit(&mut self) -> Result<(), Stop> {
        while let Some(live) = &mut self.live
            && let Some(swap) = live.successor()?
        {
            self.swap(swap)?;
        }
        Ok(())
    }

    /// Whether messages wait for a flush.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes one batch through the plugin, in pieces where the plugin is slow, and hands what comes out to the sink. It takes at
    /// most as many deadlines as there are messages, and one more for each piece.
    ///
    /// # Errors
    /// [`Stop`] when the policy says so, the plugin does not start again, or the sink is closed.
    pub fn process(&mut self, batch: Box<Batch>) -> Result<(), Stop> {
        if let Some(size) = batch.oversized {
            let reason = format!("the packet of {size} bytes is greater than max_packet_size");
            return self.bad(batch, Stage::Oversized, reason, None);
        }
        let at_a_time = self.transform.at_a_time();
        match batch.len() <= at_a_time {
            true => self.offer(batch),
            false => pieces(&batch, at_a_time).try_for_each(|piece| self.offer(piece)),
        }
    }

    fn offer(&mut self, mut batch: Box<Batch>) -> Result<(), Stop> {
        self.admit()?;
        match self.call(&mut batch) {
            Ok(outcome) => self.finish(batch, outcome),
            Err(fault) => self.recover(batch, fault),
        }
    }

    /// Asks the plugin for what it holds and hands it to the sink.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn flush(&mut self) -> Result<(), Stop> {
        if !self.holds() {
            return Ok(());
        }
        let outputs = match self.call_flush() {
            Ok(outputs) => outputs,
            Err(fault) => {
                // A fresh instance takes over what was held and is asked once more.
                self.recover(Box::default(), fault)?;
                match self.call_flush() {
                    Ok(outputs) => outputs,
                    Err(fault) => return self.give_up_held(fault),
                }
            }
        };
        let mut batch = mem::take(&mut self.held);
        let messages = batch.len();
        match outputs.is_empty() {
            true => batch.tally.dropped = messages as u64,
            false => batch.tally.committed = messages as u64,
        }
        let outcome = Outcome { verdicts: vec![Verdict::Hold; messages], outputs, ..Outcome::default() };
        self.deliver(batch, outcome, Vec::new())
    }

    fn call(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        let start = Instant::now();
        let result = self.transform.process(batch);
        self.called(start, result.as_ref().err());
        result
    }

    fn call_flush(&mut self) -> Result<Outputs, Fault> {
        let start = Instant::now();
        let result = self.transform.flush();
        self.called(start, result.as_ref().err());
        result
    }

    fn called(&mut self, start: Instant, fault: Option<&Fault>) {
        let metrics = self.context.metrics();
        SourceMetrics::add(&metrics.plugin_nanos, start.elapsed().as_nanos() as u64);
        if let Some(fault) = fault {
            SourceMetrics::add(&metrics.plugin_faults, 1);
            let plugin = self.context.shape.from.plugins.get(self.transform.at_fault());
            let plugin = plugin.map(|plugin| plugin.name.as_str());
            warn!(source = self.context.source(), plugin, %fault, "plugin fault");
            if let Some(live) = &self.live {
                live.fault(plugin, fault);
            }
            self.transform.roll_back();
        }
    }

    /// After a fault: what was held and the batch, one message at a time.
    fn recover(&mut self, batch: Box<Batch>, fault: Fault) -> Result<(), Stop> {
        self.must_start(&fault)?;
        let mut queue: VecDeque<Box<Batch>> = singles(&mem::take(&mut self.held)).collect();
        queue.extend(singles(&batch));
        while let Some(mut single) = queue.pop_front() {
            self.admit()?;
            match self.call(&mut single) {
                Ok(outcome) => self.finish(single, outcome)?,
                Err(fault) => {
                    self.must_start(&fault)?;
                    // What the lost instance held goes first again, in its order.
                    for held in singles(&mem::take(&mut self.held)).rev() {
                        queue.push_front(held);
                    }
                    let plugin = Some(self.transform.at_fault());
                    self.bad(single, Stage::Plugin, fault.to_string(), plugin)?;
                }
            }
        }
        Ok(())
    }

    /// A plugin that does not even start says nothing about a message.
    fn must_start(&self, fault: &Fault) -> Result<(), Stop> {
        match fault {
            Fault::Init(reason) => {
                let which = match self.context.shape.from.plugins.as_slice() {
                    [] | [_] => String::new(),
                    plugins => plugins
                        .get(self.transform.at_fault())
                        .map_or(String::new(), |it| format!("{}: ", it.name)),
                };
                Err(Stop(format!("the plugin does not start again: {which}{reason}")))
            }
            _ => Ok(()),
        }
    }

    /// The plugin faults whenever it is to give back what it holds: the messages are kept as bad ones.
    fn give_up_held(&mut self, fault: Fault) -> Result<(), Stop> {
        self.must_start(&fault)?;
        let held = mem::take(&mut self.held);
        let plugin = Some(self.transform.at_fault());
        singles(&held)
            .try_for_each(|single| self.bad(single, Stage::Plugin, format!("in flush: {fault}"), plugin))
    }

    /// A batch of one message that cannot go its way.
    fn bad(
        &mut self,
        batch: Box<Batch>,
        stage: Stage,
        reason: String,
        plugin: Option<usize>,
    ) -> Result<(), Stop> {
        let outcome = Outcome { verdicts: vec![Verdict::Reject], ..Outcome::default() };
        let letter = DeadLetter { message: 0, stage, reason, plugin };
        self.finish_with(batch, outcome, vec![letter], self.context.shape.on_fault)
    }

    /// Applies the verdicts.
    fn finish(&mut self, batch: Box<Batch>, mut outcome: Outcome) -> Result<(), Stop> {
        let by = mem::take(&mut outcome.rejected_by).into_iter().chain(iter::repeat(0));
        let mut reasons = mem::take(&mut outcome.reasons).into_iter().zip(by).peekable();
        let rejected =
            outcome.verdicts.iter().enumerate().filter(|(_, verdict)| **verdict == Verdict::Reject);
        let letters = rejected
            .map(|(index, _)| {
                let message = index as u32;
                let given =
                    reasons.next_if(|((of, _), _)| *of == message).map(|((_, reason), by)| (reason, by));
                let (reason, by) =
                    given.unwrap_or_else(|| ("rejected by the plugin without a reason".into(), 0));
                DeadLetter { message, stage: Stage::Plugin, reason, plugin: Some(by) }
            })
            .collect();
        self.finish_with(batch, outcome, letters, self.context.on_reject)
    }

    fn finish_with(
        &mut self,
        mut batch: Box<Batch>,
        outcome: Outcome,
        mut letters: Vec<DeadLetter>,
        policy: BadMessage,
    ) -> Result<(), Stop> {
        let mut tally = tally(&batch, &outcome);
        if let Some(first) = letters.first() {
            match policy {
                BadMessage::DeadLetter => {}
                BadMessage::Drop => {
                    let topic = batch.message(first.message as usize).topic().to_owned();
                    warn!(source = self.context.source(), messages = letters.len(), %topic, reason = %first.reason, "dropped bad messages");
                    tally.dropped += mem::take(&mut tally.dead_lettered);
                    letters.clear();
                }
                BadMessage::Stop => {
                    let topic = batch.message(first.message as usize).topic();
                    return Err(Stop(format!("a message on {topic} cannot go on: {}", first.reason)));
                }
            }
        }
        batch.tally = tally;
        if outcome.verdicts.contains(&Verdict::Hold) {
            self.hold(&mut batch, &outcome.verdicts);
        }
        self.deliver(batch, outcome, letters)?;
        if self.transform.is_full() { self.flush() } else { Ok(()) }
    }

    /// Copies the held messages and takes them out of what the batch acknowledges.
    fn hold(&mut self, batch: &mut Batch, verdicts: &[Verdict]) {
        let mut others = Sequences::default();
        for (index, sequence) in batch.sequences.iter().enumerate() {
            match verdicts.get(index) {
                Some(Verdict::Hold) => {
                    self.held.push_from(batch, index);
                    self.held.sequences.push(sequence);
                }
                _ => others.push(sequence),
            }
        }
        batch.sequences = others;
    }

    fn deliver(
        &mut self,
        mut batch: Box<Batch>,
        outcome: Outcome,
        dead_letters: Vec<DeadLetter>,
    ) -> Result<(), Stop> {
        let outputs = &outcome.outputs;
        let of_sink = outputs.bytes() + OUTPUT_OVERHEAD * outputs.len();
        let of_journal = self.context.journal.as_ref().map_or(0, |_| self.transform.unpublished());
        // Both before the batch has its place among the commits: a batch that waits here has none that others wait for.
        let mut permit = self.reserve(of_sink + of_journal)?;
        let of_journal = permit.as_mut().and_then(|all| all.split(of_journal.min(all.num_permits())));
        // Not before: whatever ends the batch in front of the sink leaves no trace in the state.
        batch.state = self.context.publish(&mut *self.transform, of_journal);
        let Context { shape, back, journal, sink, .. } = &self.context;
        let journal = journal.as_ref().filter(|_| batch.state.is_some());
        let (shape, back) = (shape.clone(), journal.map_or(back, |journal| &journal.settled).clone());
        let delivery = Delivery { batch, outcome, dead_letters, shape, back, permit };
        sink.deliver(delivery).map_err(|error| Stop(error.to_string()))
    }

    /// Waits until there is room for so many bytes.
    fn reserve(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Stop> {
        if bytes == 0 {
            return Ok(None);
        }
        let permits = bytes.min(BUDGET) as u32;
        let budget = &self.context.budget;
        let permit = match budget.clone().try_acquire_many_owned(permits) {
            Ok(permit) => Ok(permit),
            Err(_) => tokio::runtime::Handle::current().block_on(budget.clone().acquire_many_owned(permits)),
        };
        permit.map(Some).map_err(|_| Stop("the sink is closed".into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
