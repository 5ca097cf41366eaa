//! Which dead letters have been replayed.

use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition};

use super::letter::Entry;
use crate::error::DlqError;

const REPLAYED: TableDefinition<&str, ()> = TableDefinition::new("replayed");
/// Below the state folder.
const FILE: &str = "replayed.redb";
/// redb's default cache of 1 GiB would be a waste.
const CACHE: usize = 1 << 20;

/// A file that only one process has open.
#[derive(Debug)]
pub struct Journal {
    /// None while nothing was ever replayed.
    database: Option<Database>,
    path: PathBuf,
}

impl Journal {
    /// The journal in the state folder, to write to.
    ///
    /// # Errors
    ///
    /// The file cannot be made or opened, or another process has it.
    pub fn open(state_dir: &Path) -> Result<Self, DlqError> {
        let path = state_dir.join(FILE);
        let failed = |source| DlqError::Journal { path: path.clone(), source };
        crate::state_dir::create(state_dir).map_err(|error| failed(error.into()))?;
        let make = |path: &Path| Database::builder().set_cache_size(CACHE).create(path);
        let database = crate::state_dir::make_whole(&path, make).map_err(|error| refused(&path, error))?;
        let begin = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(REPLAYED)?;
            Ok(transaction.commit()?)
        };
        begin().map_err(|error| failed(error.into()))?;
        Ok(Journal { database: Some(database), path })
    }

    /// The same, to look into it. Makes no file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn read(state_dir: &Path) -> Result<Self, DlqError> {
        match state_dir.join(FILE).exists() {
            true => Self::open(state_dir),
            false => Ok(Journal { database: None, path: state_dir.join(FILE) }),
        }
    }

    /// Whether `entry` has been replayed.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn has(&self, entry: &Entry) -> Result<bool, DlqError> {
        let Some(database) = &self.database else { return Ok(false) };
        let look = || -> Result<bool, redb::Error> {
            Ok(database.begin_read()?.open_table(REPLAYED)?.get(entry.key().as_str())?.is_some())
        };
        look().map_err(|error| self.failed(error))
    }

    /// Letters with these [keys](Entry::key) are replayed; durable on return.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn add(&self, keys: &[String]) -> Result<(), DlqError> {
        let Some(database) = &self.database else { return Ok(()) };
        let write = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(REPLAYED)?;
                for key in keys {
                    table.insert(key.as_str(), ())?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: redb::Error) -> DlqError {
        DlqError::Journal { path: self.path.clone(), source: error.into() }
    }
}

fn refused(path: &Path, error: DatabaseError) -> DlqError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => DlqError::ReplayRuns { path: path.into() },
        error => DlqError::Journal { path: path.into(), source: error.into() },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::letter::tests::entry;
    use super::*;

    #[test]
    fn what_was_replayed_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [1, 2].map(|offset| entry(offset, "{}"));
        assert!(!Journal::read(folder.path()).unwrap().has(&one).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let journal = Journal::open(folder.path()).unwrap();
        journal.add(&[one.key()]).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(DlqError::ReplayRuns { .. })));
        drop(journal);
        let journal = Journal::read(folder.path()).unwrap();
        assert_eq!((journal.has(&one).unwrap(), journal.has(&other).unwrap()), (true, false));
    }
}
