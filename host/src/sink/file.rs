//! Records as lines of JSON in a file or on stdout.
//!
//! A delivery is one write of whole lines, and is committed when the kernel has them, so a killed host loses nothing that it
//! acknowledged; with `fsync` it is committed when the disk has them. A line that a killed host left unfinished is cut at the
//! next start.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::future::{Future, ready};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, info, warn};

use super::{Backoff, Health, Sink, SinkSample};
use crate::config::BadMessage;
use crate::delivery::{Delivery, Origin};
use crate::error::SinkError;
use crate::metrics::SourceMetrics;
use crate::record::{Record, write_jsonl};
use crate::status::Status;

/// The whole sink is one part of its own health.
const OUTPUT: usize = 0;

/// Writes records as lines of JSON.
pub struct FileSink {
    output: Mutex<Output>,
    /// Set by `close`; a writer that waits for its next try is woken.
    closed: Mutex<bool>,
    closing: Condvar,
    health: Health,
}

impl FileSink {
    /// Appends to `file`, which is made when it is missing. A regular file is locked for as long as the sink lives, and a torn
    /// last line is cut from it.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, read or cut, or another process has it locked.
    pub fn open(file: &Path, fsync: bool) -> Result<Self, SinkError> {
        let failed = |source| SinkError::Open { file: file.to_owned(), source };
        let special = std::fs::metadata(file).is_ok_and(|metadata| !metadata.is_file());
        let mut options = OpenOptions::new();
        options.append(true).create(!special).read(!special);
        let mut opened = options.open(file).map_err(failed)?;
        if special {
            return Ok(Self::new(Output::stream(Box::new(opened))));
        }
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SinkError::InUse { file: file.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let torn = cut_torn_line(&mut opened).map_err(failed)?;
        if torn > 0 {
            warn!(file = %file.display(), bytes = torn, "cut an unfinished line from the end of the output");
        }
        let length = opened.metadata().map_err(failed)?.len();
        Ok(Self::new(Output { length: Some(length), fsync, ..Output::stream(Box::new(opened)) }))
    }

    /// Whether [`open`](Self::open) would work. Neither makes nor changes the file.
    ///
    /// # Errors
    ///
    /// As those of [`open`](Self::open).
    pub fn probe(file: &Path) -> Result<(), SinkError> {
        let failed = |source| SinkError::Open { file: file.to_owned(), source };
        match std::fs::metadata(file) {
            // A pipe would block until somebody reads it.
            Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => Ok(()),
            Ok(_) => {
                match OpenOptions::new().append(true).read(true).open(file).map_err(failed)?.try_lock() {
                    Ok(()) => Ok(()),
                    Err(TryLockError::WouldBlock) => Err(SinkError::InUse { file: file.to_owned() }),
                    Err(TryLockError::Error(source)) => Err(failed(source)),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
                let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
                rustix::fs::access(folder.unwrap_or(Path::new(".")), access)
                    .map_err(|error| failed(error.into()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes to stdout.
    ///
    /// # Errors
    ///
    /// Stdout is closed.
    pub fn stdout() -> Result<Self, SinkError> {
        let failed = |source| SinkError::Open { file: "stdout".into(), source };
        // A descriptor of our own has no buffer between us and the kernel.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(Self::new(Output::stream(Box::new(File::from(stdout)))))
    }

    /// Writes to `writer`.
    pub fn writer(writer: Box<dyn Write + Send>) -> Self {
        Self::new(Output::stream(Box::new(Stream(writer))))
    }

    fn new(output: Output) -> Self {
        FileSink {
            output: Mutex::new(output),
            closed: Mutex::new(false),
            closing: Condvar::new(),
            health: Health::default(),
        }
    }

    /// Tries until the lines are written or the sink is closed.
    fn write(&self, output: &mut Output) -> Result<(), SinkError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut written = 0;
        loop {
            if self.is_closed() {
                return Err(SinkError::Closed);
            }
            match output.append(&mut written) {
                Ok(()) => {
                    if self.health.recovered(OUTPUT) {
                        info!("the output takes records again");
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.health.failed(OUTPUT, "the reader of the output is gone".into());
                    return Err(SinkError::ReaderGone);
                }
                Err(error) => {
                    let reason = format!("cannot write records: {error}; trying again");
                    if self.health.failed(OUTPUT, reason) {
                        error!(%error, "cannot write records; trying again, nothing is acknowledged meanwhile");
                    }
                    let closed = self.closed();
                    let _ = self.closing.wait_timeout_while(closed, backoff.delay(), |closed| !*closed);
                }
            }
        }
    }

    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        *self.closed()
    }
}

impl Sink for FileSink {
    fn deliver(&self, mut delivery: Delivery) -> Result<(), SinkError> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return Err(SinkError::Closed);
        }
        // Messages whose records no sink can take.
        let mut refused = BTreeSet::new();
        let Some(records) = output.format(&delivery, &mut refused) else {
            // Stopped by `on_fault`: the source ends, and the delivery stays unacknowledged.
            return Ok(());
        };
        if !output.lines.is_empty() {
            self.write(&mut output)?;
        }
        drop(output);
        SourceMetrics::add(&delivery.shape.metrics.records_written, records);
        let tally = &mut delivery.batch.tally;
        let moved = (refused.len() as u64).min(tally.committed);
        tally.committed -= moved;
        match delivery.shape.on_fault {
            BadMessage::Drop => tally.dropped += moved,
            _ => tally.dead_lettered += moved,
        }
        delivery.settle();
        Ok(())
    }

    fn attach(&self, status: Status) {
        self.health.attach(status);
    }

    fn sample(&self) -> SinkSample {
        self.health.sample()
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        *self.closed() = true;
        self.closing.notify_all();
        Box::pin(ready(()))
    }
}

/// What lines are written to.
trait Target: Write + Send {
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

impl Target for File {
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Something that nothing can be taken back from.
struct Stream(Box<dyn Write + Send>);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Target for Stream {
    fn truncate(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

struct Output {
    target: Box<dyn Target>,
    /// Length in bytes of the whole lines in a regular file; none for a stream, from which nothing can be taken back.
    length: Option<u64>,
    /// A part of a line may follow them.
    torn: bool,
    fsync: bool,
    lines: Vec<u8>,
    value: Vec<u8>,
}

impl Output {
    fn stream(target: Box<dyn Target>) -> Self {
        Output { target, length: None, torn: false, fsync: false, lines: Vec::new(), value: Vec::new() }
    }

    /// Makes the lines of a delivery and says how many; none when the source has to stop. The messages of records that no sink
    /// can take are added to `refused`.
    fn format(&mut self, delivery: &Delivery, refused: &mut BTreeSet<u32>) -> Option<u64> {
        self.lines.clear();
        let mut records = 0;
        for origin in delivery.records() {
            let record = Record::new(delivery, origin);
            match record.topic() {
                Ok(topic) => self.line(&record, &topic),
                Err(reason) => {
                    let first = record.message().is_none_or(|message| refused.insert(message));
                    if !self.refuse(delivery, origin, &reason, first)? {
                        continue;
                    }
                }
            }
            records += 1;
        }
        Some(records)
    }

    /// Handles a record that can never be taken; says whether a dead letter was written, or nothing to stop.
    fn refuse(&mut self, delivery: &Delivery, origin: Origin, reason: &str, first: bool) -> Option<bool> {
        let source = delivery.shape.from.source.as_str();
        match delivery.shape.on_fault {
            BadMessage::DeadLetter if first => {
                let letter = Record::refused(delivery, origin, reason);
                self.line(&letter, &delivery.shape.record.dead_letter_topic);
                Some(true)
            }
            BadMessage::DeadLetter => Some(false),
            BadMessage::Drop => {
                warn!(source, reason, "dropped a record that cannot be written");
                Some(false)
            }
            BadMessage::Stop => {
                let _ = delivery.shape.stop.send(reason.to_owned());
                None
            }
        }
    }

    fn line(&mut self, record: &Record<'_>, topic: &str) {
        self.value.clear();
        record.value(&mut self.value);
        write_jsonl(topic, record.key().as_deref(), &self.value, &mut self.lines);
    }

    /// Writes the lines, all of them or (in a regular file) none. `written` is how many bytes of them a stream already has.
    fn append(&mut self, written: &mut usize) -> io::Result<()> {
        self.restore()?;
        let result = self.write_from(written);
        match (&result, &mut self.length) {
            (Ok(()), Some(length)) => *length += self.lines.len() as u64,
            (Err(_), Some(_)) => {
                *written = 0;
                self.torn = true;
                // Should this fail, it is done before the next try.
                let _ = self.restore();
            }
            _ => {}
        }
        result
    }

    /// Takes back what was written of lines that could not be finished.
    fn restore(&mut self) -> io::Result<()> {
        if let (true, Some(length)) = (self.torn, self.length) {
            self.target.truncate(length)?;
            self.torn = false;
        }
        Ok(())
    }

    fn write_from(&mut self, written: &mut usize) -> io::Result<()> {
        while let Some(rest) = self.lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.target.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => *written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.fsync { self.target.sync() } else { Ok(()) }
    }
}

/// Cuts what follows the last line break, and says how many bytes that was.
fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(length - end)
}

#[cfg(test)]
mod tests;
