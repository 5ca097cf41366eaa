//! What a persistent session must not forget when the process ends: the QoS 2 identifiers that are committed and not released,
//! and the filters that were subscribed to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::{Database, ReadableTable, TableDefinition};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::error::MqttError;
use crate::message::QoS;
use crate::metrics::SourceMetrics;
use crate::state_dir;
use crate::status::{Part, Status};

const RECEIVED: TableDefinition<u16, ()> = TableDefinition::new("received");
const SESSION: TableDefinition<&str, &str> = TableDefinition::new("session");
const OWNER: &str = "owner";
const SUBSCRIBED: &str = "subscribed";
/// The ids of a session are at most 65,535; redb's default cache of 1 GiB would be a waste.
const CACHE: usize = 1 << 20;
/// Before a write that failed is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The filters of a session and the QoS that each was granted with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscribed {
    pub qos: QoS,
    pub filters: Vec<String>,
}

/// One change of what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A QoS 2 message is committed.
    Received {
        packet_id: u16,
        /// Which message; the session checks that the identifier still names it.
        sequence: u64,
    },
    /// A QoS 2 identifier is released.
    Released {
        packet_id: u16,
        /// On which connection; the PUBCOMP leaves on no other.
        connection: u64,
    },
    /// The broker has no session: nothing is known.
    Clear,
    /// These filters are subscribed to, and no other.
    Subscribed(Subscribed),
}

/// A file that only one process has open.
#[derive(Debug)]
pub(super) struct Store {
    /// `None` after an error: redb wants to be opened again.
    database: Mutex<Option<Database>>,
    path: PathBuf,
}

/// What was stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub received: Vec<u16>,
    pub subscribed: Option<Subscribed>,
}

impl Store {
    /// Opens or makes the file. What is in it counts only if `owner`, which names broker and client id, is the same as when it
    /// was written: another session has other identifiers.
    pub fn open(path: PathBuf, owner: &str) -> Result<(Self, Stored), MqttError> {
        let open = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            if let Some(folder) = path.parent() {
                state_dir::create(folder)?;
            }
            let database = database(&path)?;
            let stored = load(&database, owner)?;
            Ok((Mutex::new(Some(database)), stored))
        };
        let (database, stored) = open().map_err(|source| error(&path, source))?;
        Ok((Store { database, path }, stored))
    }

    /// Makes `changes` durable, all or none, in their order, as often as it takes, and gives them back. Meanwhile `status` says why
    /// not, and `metrics` how often it failed.
    ///
    /// # Errors
    /// Only a panic.
    pub async fn apply(
        self: Arc<Self>,
        mut changes: Vec<Change>,
        source: Arc<str>,
        status: Status,
        metrics: Arc<SourceMetrics>,
    ) -> Result<Vec<Change>, MqttError> {
        let (mut delay, most) = RETRY;
        let mut failed = false;
        loop {
            let store = self.clone();
            let write = move || (store.write(&changes), changes);
            let done = tokio::task::spawn_blocking(write).await;
            let (result, back) = done.map_err(|panic| MqttError::Io(std::io::Error::other(panic)))?;
            changes = back;
            let Err(error) = result else { break };
            SourceMetrics::add(&metrics.store_failures, 1);
            let path = self.path.display();
            let reason = format!(
                "cannot write {path}: {error}; nothing that needs it is acknowledged until that succeeds"
            );
            warn!(source = &*source, next_attempt_in_ms = delay.as_millis() as u64, "MQTT session: {reason}");
            status.not_ready(Part::Session, reason);
            failed = true;
            sleep(delay).await;
            delay = (2 * delay).min(most);
        }
        if failed {
            info!(source = &*source, "MQTT session: written again");
            status.ready(Part::Session);
        }
        Ok(changes)
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let mut place = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        // Put back only when all went well.
        let database = match place.take() {
            Some(database) => database,
            None => database(&self.path)?,
        };
        let transaction = database.begin_write()?;
        {
            let mut session = transaction.open_table(SESSION)?;
            let mut received = transaction.open_table(RECEIVED)?;
            for change in changes {
                match change {
                    Change::Received { packet_id, .. } => {
                        received.insert(packet_id, ())?;
                    }
                    Change::Released { packet_id, .. } => {
                        received.remove(packet_id)?;
                    }
                    Change::Clear => {
                        received.retain(|_, ()| false)?;
                        session.remove(SUBSCRIBED)?;
                    }
                    Change::Subscribed(subscribed) => {
                        session.insert(SUBSCRIBED, encode(subscribed).as_str())?;
                    }
                }
            }
        }
        transaction.commit()?;
        *place = Some(database);
        Ok(())
    }
}

fn database(path: &Path) -> Result<Database, redb::DatabaseError> {
    state_dir::make_whole(path, |path| Database::builder().set_cache_size(CACHE).create(path))
}

fn load(database: &Database, owner: &str) -> Result<Stored, redb::Error> {
    let transaction = database.begin_write()?;
    let mut stored = Stored::default();
    {
        let mut session = transaction.open_table(SESSION)?;
        let mut received = transaction.open_table(RECEIVED)?;
        let same = session.get(OWNER)?.is_some_and(|value| value.value() == owner);
        if same {
            for entry in received.iter()? {
                stored.received.push(entry?.0.value());
            }
            stored.subscribed = session.get(SUBSCRIBED)?.and_then(|value| decode(value.value()));
        } else {
            received.retain(|_, ()| false)?;
            session.remove(SUBSCRIBED)?;
            session.insert(OWNER, owner)?;
        }
    }
    transaction.commit()?;
    Ok(stored)
}

fn error(path: &Path, source: Box<dyn std::error::Error + Send + Sync>) -> MqttError {
    MqttError::Store { path: path.to_owned(), source }
}

/// A filter has no NUL (MQTT-4.7.3-2), so NUL separates.
fn encode(subscribed: &Subscribed) -> String {
    format!("{}\0{}", subscribed.qos as u8, subscribed.filters.join("\0"))
}

fn decode(value: &str) -> Option<Subscribed> {
    let (qos, filters) = value.split_once('\0')?;
    let qos = match qos {
        "0" => QoS::AtMostOnce,
        "1" => QoS::AtLeastOnce,
        "2" => QoS::ExactlyOnce,
        _ => return None,
    };
    Some(Subscribed { qos, filters: filters.split('\0').map(str::to_owned).collect() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_survives_and_belongs_to_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("session.redb");
        let subscribed = Subscribed { qos: QoS::ExactlyOnce, filters: vec!["a/+".into(), "b\n#".into()] };
        let received = |packet_id| Change::Received { packet_id, sequence: 0 };

        let (store, stored) = Store::open(path.clone(), "me").unwrap();
        assert_eq!(stored, Stored::default());
        store
            .write(&[
                received(7),
                Change::Clear,
                received(9),
                Change::Subscribed(subscribed.clone()),
                received(65_535),
            ])
            .unwrap();
        store.write(&[Change::Released { packet_id: 9, connection: 1 }]).unwrap();
        drop(store);

        let (store, stored) = Store::open(path.clone(), "me").unwrap();
        assert_eq!(stored, Stored { received: vec![65_535], subscribed: Some(subscribed) });
        let in_use = Store::open(path.clone(), "me").unwrap_err();
        assert!(crate::error::chain(&in_use).contains("already open"), "{}", crate::error::chain(&in_use));
        drop(store);

        let (store, stored) = Store::open(path.clone(), "another").unwrap();
        assert_eq!(stored, Stored::default());
        drop(store);
        assert_eq!(Store::open(path, "another").unwrap().1, Stored::default());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_tried_again_and_the_status_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.redb");
        let (store, _) = Store::open(path.clone(), "me").unwrap();
        // As after an error of the disk: it has to be opened again, and that does not work either.
        store.database.lock().unwrap().take();
        let obstacle = database(&path).unwrap();
        let status = Status::default();
        let changes = vec![Change::Received { packet_id: 7, sequence: 0 }];
        let metrics = Arc::new(SourceMetrics::default());
        let applied = Arc::new(store).apply(changes.clone(), "s".into(), status.clone(), metrics.clone());
        let writing = tokio::spawn(applied);
        while status.reasons().is_empty() {
            tokio::task::yield_now().await;
        }
        let reason = status.reasons().join("\n");
        assert!(reason.starts_with("session: cannot write ") && reason.contains("already open"), "{reason}");
        assert!(!writing.is_finished());
        assert!(metrics.snapshot().store_failures > 0);
        drop(obstacle);
        assert_eq!(writing.await.unwrap().unwrap(), changes);
        assert!(status.reasons().is_empty());
        assert_eq!(Store::open(path, "me").unwrap().1.received, [7]);
    }
}
