//! What plugins write to `state`, made durable before the messages that it comes from are acknowledged.
//!
//! A journal belongs to one source and lies between its sink and its driver. A settled batch passes through it that wrote something,
//! or that was processed while something was not durable. It waits until what it wrote is in the store, and until all is that was
//! published before it: a later write may build on an earlier one, and a batch that wrote nothing may have been dropped because of
//! what it read. So after a crash the store is what some first commits
//! of the source have made of it, and all that was acknowledged is among them. Whatever has gathered while the last transaction
//! was synced shares the next one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Release};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::error::JournalError;
use crate::message::{Batch, StateCommit};
use crate::plugin::StateStore;
use crate::processor::StateQueue;
use crate::state_dir;
use crate::status::{Part, Status};

/// Plugin and key, and the value.
const STATE: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("state");
/// The values are in memory already; redb's default of 1 GiB would be a waste.
const CACHE: usize = 8 << 20;
/// Before a commit that failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A key and its value.
type Value = (Arc<str>, Arc<[u8]>);

type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The store of one source, which only one process has open.
pub(crate) struct Journal {
    path: PathBuf,
    open: Open,
    /// `None` after an error: redb wants to be opened again.
    database: Option<Database>,
    retry: (Duration, Duration),
}

impl Journal {
    /// Opens or makes the store of `source` in `folder`.
    pub fn open(folder: &Path, source: &str) -> Result<Self, JournalError> {
        let path = state_dir::store(folder, "state", source);
        let file = path.clone();
        state_dir::create(folder)
            .map_err(|source| JournalError::Open { path: path.clone(), source: source.into() })?;
        Self::with(
            path,
            Box::new(move || {
                state_dir::make_whole(&file, |file| {
                    let file = OpenOptions::new()
                        .read(true)
                        .write(true)
                        .create(true)
                        .truncate(false)
                        .mode(0o600)
                        .open(file)?;
                    Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)
                })
            }),
        )
    }

    fn with(path: PathBuf, open: Open) -> Result<Self, JournalError> {
        let database = open().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => JournalError::InUse { path: path.clone() },
            error => JournalError::Open { path: path.clone(), source: error.into() },
        })?;
        Ok(Journal { path, open, database: Some(database), retry: RETRY })
    }

    /// Loads what is durable of a plugin into its store. More than its limit is taken too: a limit may be lowered, and two workers
    /// can go beyond it together.
    pub fn load(&self, plugin: &str, store: &StateStore) -> Result<(), JournalError> {
        store.load(self.values(plugin)?);
        if store.bytes() > store.limit() {
            warn!(
                plugin,
                "its state in {} has {} bytes, more than its limit of {}: nothing is added until it deletes some; raise \
                 `limits.state_mb`",
                self.path.display(),
                store.bytes(),
                store.limit()
            );
        }
        Ok(())
    }

    fn values(&self, plugin: &str) -> Result<Vec<Value>, JournalError> {
        let read = || -> Result<Vec<Value>, redb::Error> {
            let Some(database) = &self.database else { return Ok(Vec::new()) };
            let table = match database.begin_read()?.open_table(STATE) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            let mut values = Vec::new();
            // A key is never empty, and a name sorts before itself with something behind it.
            for entry in table.range((plugin, "")..)? {
                let (key, value) = entry?;
                let (owner, key) = key.value();
                if owner != plugin {
                    break;
                }
                values.push((key.into(), value.value().into()));
            }
            Ok(values)
        };
        read().map_err(|error| JournalError::Open { path: self.path.clone(), source: error.into() })
    }

    /// Runs on a thread of its own until all that can send to it are gone, or nobody takes batches from `back` any more.
    pub fn start(
        self,
        source: &str,
        status: Status,
        back: UnboundedSender<Box<Batch>>,
    ) -> io::Result<(StateQueue, JoinHandle<()>)> {
        let (sender, settled) = unbounded_channel();
        let queue = StateQueue { settled: sender, durable: Arc::default() };
        let durable = queue.durable.clone();
        let runtime = Handle::current();
        let name = source.to_owned();
        let thread = std::thread::Builder::new()
            .name(format!("{source}-state"))
            .spawn(move || self.run(&name, settled, &durable, &status, &back, &runtime))?;
        Ok((queue, thread))
    }

    fn run(
        mut self,
        source: &str,
        mut settled: UnboundedReceiver<Box<Batch>>,
        durable: &AtomicU64,
        status: &Status,
        back: &UnboundedSender<Box<Batch>>,
        runtime: &Handle,
    ) {
        let mut order = Order::default();
        while let Some(batch) = settled.blocking_recv() {
            order.add(batch);
            while let Ok(batch) = settled.try_recv() {
                order.add(batch);
            }
            let due = order.take();
            if !due.is_empty() && !self.commit_at_last(source, &due, status, back, runtime) {
                return;
            }
            durable.store(order.next, Release);
            for batch in due.into_iter().map(|(_, batch)| batch).chain(order.take_readers()) {
                // A driver that is gone acknowledges nothing any more; the broker will send the messages again.
                let _ = back.send(batch);
            }
        }
    }

    /// Commits, as often as it takes. Whether it has: not when nobody waits for it any more.
    fn commit_at_last(
        &mut self,
        source: &str,
        due: &[Due],
        status: &Status,
        back: &UnboundedSender<Box<Batch>>,
        runtime: &Handle,
    ) -> bool {
        let (mut delay, most) = self.retry;
        let mut failed = false;
        while let Err(error) = self.commit(due.iter().map(|(commit, _)| commit)) {
            let path = self.path.display();
            let reason = format!("cannot write {path}: {error}; nothing is acknowledged until that succeeds");
            warn!(source, next_attempt_in_ms = delay.as_millis() as u64, "state of plugins: {reason}");
            status.not_ready(Part::State, reason);
            failed = true;
            if runtime.block_on(async { timeout(delay, back.closed()).await }).is_ok() {
                return false;
            }
            delay = (2 * delay).min(most);
        }
        if failed {
            info!(source, "state of plugins: written again");
            status.ready(Part::State);
        }
        true
    }

    /// Makes `commits` durable, all or none.
    fn commit<'a>(&mut self, commits: impl Iterator<Item = &'a StateCommit>) -> Result<(), redb::Error> {
        // Of several values of a key the last one counts.
        let mut changes = BTreeMap::new();
        for writes in commits.flat_map(|commit| &commit.writes) {
            for (key, value) in &writes.changes {
                changes.insert((&*writes.plugin, &**key), value.as_deref());
            }
        }
        // Put back only when all went well.
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(STATE)?;
            for (key, value) in changes {
                match value {
                    Some(value) => table.insert(key, value)?,
                    None => table.remove(key)?,
                };
            }
        }
        transaction.commit()?;
        self.database = Some(database);
        Ok(())
    }
}

/// A settled batch whose turn it is, and what it wrote.
type Due = (StateCommit, Box<Batch>);

/// Settled batches by the commits that come before them.
#[derive(Default)]
struct Order {
    /// How many commits have been taken.
    next: u64,
    writers: BTreeMap<u64, Due>,
    /// Those that wrote nothing. In boxes they travel.
    #[allow(clippy::vec_box, reason = "moving a batch into and out of a box would copy it")]
    readers: BTreeMap<u64, Vec<Box<Batch>>>,
}

impl Order {
    fn add(&mut self, mut batch: Box<Batch>) {
        match batch.state.take() {
            Some(commit) if !commit.writes.is_empty() => {
                self.writers.insert(commit.number, (commit, batch));
            }
            commit => {
                let number = commit.map_or(0, |commit| commit.number);
                self.readers.entry(number).or_default().push(batch);
            }
        }
    }

    /// The commits whose predecessors are all taken.
    fn take(&mut self) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(next) = self.writers.remove(&self.next) {
            due.push(next);
            self.next += 1;
        }
        due
    }

    /// The batches that wait for no others than those that are taken.
    fn take_readers(&mut self) -> impl Iterator<Item = Box<Batch>> + use<> {
        let waiting = self.readers.split_off(&(self.next + 1));
        std::mem::replace(&mut self.readers, waiting).into_values().flatten()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "journal_tests.rs"]
mod tests;
