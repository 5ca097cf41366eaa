//! Dead letters through a processor again, a batch at a time.

use std::fmt;
use std::mem;

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;

use super::letter::{Entry, Position};
use super::{Filter, Journal, Reader};
use crate::error::DlqError;
use crate::message::{Batch, Tally};
use crate::processor::{Processor, Stop};

/// Messages of one batch: so many are replayed twice, at most, when a replay is interrupted.
const MAX_BATCH: usize = 256;
/// Bytes of one batch, about.
const MAX_BYTES: usize = 8 << 20;

/// Where replayed messages go, and how it is known that they are settled.
pub struct Outlet {
    /// The plugin of the source, its policies and its sink.
    pub processor: Processor,
    /// Gets each batch back from the sink when all of its records are committed.
    pub settled: UnboundedReceiver<Box<Batch>>,
    /// Gets the reason when a record can never be written and the policy is to stop.
    pub stopped: UnboundedReceiver<String>,
}

/// What became of the letters.
#[derive(Debug, Default)]
pub struct Report {
    /// Of those that were replayed; dead-lettered ones are dead letters again.
    pub tally: Tally,
    /// Replayed by an earlier run.
    pub earlier: u64,
    /// That cannot be replayed, and why.
    pub impossible: Vec<(Position, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { committed, dropped, dead_lettered } = self.tally;
        write!(
            f,
            "replayed {} = committed {committed} + dropped {dropped} + dead-lettered again {dead_lettered}; replayed before: {}; \
             cannot be replayed: {}",
            self.tally.total(),
            self.earlier,
            self.impossible.len()
        )
    }
}

/// Replays the letters of `reader` that `filter` takes and `journal` does not have, at most `limit`. With `record` the journal
/// then has them, each once its records are committed.
///
/// Blocks, so it needs a thread of its own, with a runtime entered and the stack of a plugin worker.
///
/// # Errors
///
/// The letters cannot be read, the journal cannot be written, or the processing stopped; what was committed until then is in
/// the journal.
pub fn replay(
    reader: &mut Reader,
    filter: &Filter,
    outlet: &mut Outlet,
    journal: &Journal,
    record: bool,
    limit: usize,
) -> Result<Report, DlqError> {
    let runtime = Handle::current();
    let mut run = Run {
        outlet,
        journal,
        record,
        report: Report::default(),
        batch: Box::default(),
        keys: Vec::new(),
        first: 0,
    };
    let mut taken = 0;
    'letters: loop {
        let entries = runtime.block_on(reader.next())?;
        if entries.is_empty() {
            break;
        }
        for entry in entries.iter().filter(|entry| filter.takes(entry)) {
            if taken == limit {
                break 'letters;
            }
            taken += usize::from(run.take(entry)?);
        }
    }
    run.settle()?;
    Ok(run.report)
}

struct Run<'a> {
    outlet: &'a mut Outlet,
    journal: &'a Journal,
    record: bool,
    report: Report,
    /// What is gathered, and the keys of its letters.
    batch: Box<Batch>,
    keys: Vec<String>,
    /// Sequence number of the batch's first message.
    first: u64,
}

impl Run<'_> {
    /// Adds a letter to the batch, and says whether it is one to replay.
    fn take(&mut self, entry: &Entry) -> Result<bool, DlqError> {
        if self.journal.has(entry)? {
            self.report.earlier += 1;
            return Ok(false);
        }
        let appended =
            entry.letter.as_ref().map_err(Clone::clone).and_then(|letter| letter.append_to(&mut self.batch));
        if let Err(why) = appended {
            self.report.impossible.push((entry.position.clone(), why));
            return Ok(false);
        }
        self.batch.sequences.push(self.first + self.keys.len() as u64);
        self.keys.push(entry.key());
        if self.keys.len() == MAX_BATCH || self.batch.bytes() >= MAX_BYTES {
            self.settle()?;
        }
        Ok(true)
    }

    /// Processes what is gathered, and flushes what the plugin holds of it; returns when all of it is settled and recorded.
    fn settle(&mut self) -> Result<(), DlqError> {
        let batch = mem::take(&mut self.batch);
        let keys = mem::take(&mut self.keys);
        let first = self.first;
        self.first += keys.len() as u64;
        if keys.is_empty() {
            return Ok(());
        }
        let Outlet { processor, .. } = &mut *self.outlet;
        let processed = processor.process(batch).and_then(|()| processor.flush());
        let mut stopped = processed.err().map(|Stop(reason)| reason);
        let mut done = Vec::with_capacity(keys.len());
        while done.len() < keys.len() && stopped.is_none() {
            let Outlet { settled, stopped: stop, .. } = &mut *self.outlet;
            let next = async {
                tokio::select! {
                    biased;
                    batch = settled.recv() => batch.ok_or("the sink is closed".to_owned()),
                    reason = stop.recv() => Err(reason.unwrap_or_default()),
                }
            };
            match Handle::current().block_on(next) {
                Ok(batch) => self.settled(&batch, first, &keys, &mut done),
                Err(reason) => stopped = Some(reason),
            }
        }
        // What was settled before a stop is done, too.
        while let Ok(batch) = self.outlet.settled.try_recv() {
            self.settled(&batch, first, &keys, &mut done);
        }
        if self.record {
            self.journal.add(&done)?;
        }
        stopped.map_or(Ok(()), |reason| Err(DlqError::Stopped(reason)))
    }

    fn settled(&mut self, batch: &Batch, first: u64, keys: &[String], done: &mut Vec<String>) {
        let Tally { committed, dropped, dead_lettered } = batch.tally;
        self.report.tally.committed += committed;
        self.report.tally.dropped += dropped;
        self.report.tally.dead_lettered += dead_lettered;
        done.extend(
            batch.sequences.iter().filter_map(|sequence| keys.get((sequence - first) as usize).cloned()),
        );
    }
}
