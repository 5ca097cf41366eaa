//! The folder of what must survive a restart: made for this user only, and used by one host at a time.

use std::fs::{DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::error::HostError;

/// Locked by the host that uses the folder, and holds the number of its process.
const LOCK: &str = "lock";

/// Makes `folder`, and what is missing above it, for this user only. One that is there already stays as it is.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The store of one kind that belongs to a source.
pub(crate) fn store(folder: &Path, kind: &str, source: &str) -> PathBuf {
    let mut file = format!("{kind}-");
    for byte in source.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => file.push(byte.into()),
            _ => file.push_str(&format!("_{byte:02x}")),
        }
    }
    file.push_str(".redb");
    folder.join(file)
}

/// Opens `file` with `make`; where there is none yet, it is made under another name first. One that was only begun, because the
/// disk was full or the process was killed, could never be opened again.
///
/// # Errors
/// That of `make`, or of what the system says about the folder.
pub(crate) fn make_whole<T, E: From<io::Error>>(
    file: &Path,
    make: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    make_whole_with(file, make, sync_folder)
}

fn make_whole_with<T, E: From<io::Error>>(
    file: &Path,
    make: impl FnOnce(&Path) -> Result<T, E>,
    sync: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<T, E> {
    let made = if file.try_exists()? {
        make(file)?
    } else {
        let begun = file.with_extension("begun");
        if begun.try_exists()? {
            std::fs::remove_file(&begun)?;
        }
        let made = make(&begun)?;
        std::fs::rename(&begun, file)?;
        made
    };
    // Before anything is kept in it: after a power loss it must not have its old name again, under which it is deleted. Where
    // it was there, perhaps nobody lived to do this.
    sync(file.parent().unwrap_or(Path::new("")))?;
    Ok(made)
}

/// Makes the names in a folder last.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder)?.sync_all() {
        // Some file systems have no such thing.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
    }
}

/// What others than the owner may do with a file or a folder: the mode, when that is anything.
pub(crate) fn open_to_others(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

/// That a folder is this host's. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes `folder` for this host, and makes it where it is missing. `None`, with a warning, where no file can be locked in it:
/// whoever has to keep something there says what does not work.
///
/// # Errors
/// Another host has it.
pub(crate) fn lock(folder: &Path) -> Result<Option<Lock>, HostError> {
    let taken = create(folder).and_then(|()| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))
    });
    let locked = match taken {
        Err(error) => Err(error),
        Ok(mut file) => match file.try_lock() {
            Ok(()) => sign(&mut file).map(|()| Lock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // The other host may be about to write its number.
                let _ = file.take(20).read_to_string(&mut process);
                let process = process.trim().parse().ok();
                return Err(HostError::StateInUse { folder: folder.to_owned(), process });
            }
            Err(TryLockError::Error(error)) => Err(error),
        },
    };
    match locked {
        Ok(lock) => Ok(Some(lock)),
        Err(error) => {
            warn!(folder = %folder.display(), %error, "settings.state_dir cannot be locked against a second host");
            Ok(None)
        }
    }
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_for_one_host() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("deep/state");
        let held = lock(&folder).unwrap().unwrap();
        assert_eq!(fs::metadata(folder.join(LOCK)).unwrap().mode() & 0o777, 0o600);
        let error = lock(&folder).unwrap_err().to_string();
        let process = std::process::id();
        assert!(error.contains(&folder.display().to_string()), "{error}");
        assert!(error.contains(&format!("process {process}")), "{error}");
        drop(held);
        // What was in it does not matter.
        fs::write(folder.join(LOCK), "a longer text than the number of a process").unwrap();
        let _held = lock(&folder).unwrap().unwrap();
        assert_eq!(fs::read_to_string(folder.join(LOCK)).unwrap(), format!("{process}\n"));
    }

    #[test]
    fn a_folder_that_cannot_be_locked_is_gone_without() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(lock(&file.join("below")).unwrap().is_none());
        for (mode, expected) in [(0o700, None), (0o600, None), (0o640, Some(0o640)), (0o701, Some(0o701))] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_others(&fs::metadata(&file).unwrap()), expected);
        }
    }

    #[test]
    fn a_source_name_makes_a_file_name() {
        let name = |name| store(Path::new("s"), "mqtt", name).display().to_string();
        assert_eq!(name("iot-1"), "s/mqtt-iot-1.redb");
        assert_eq!(name("../A_b"), "s/mqtt-_2e_2e_2f_41_5fb.redb");
    }

    #[test]
    fn what_was_only_begun_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mqtt-iot.redb");
        let full = |file: &Path| -> io::Result<()> {
            std::fs::write(file, [0; 4_096])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        make_whole(&file, full).unwrap_err();
        let open = |file: &Path| redb::Database::create(file);
        drop(make_whole(&file, open).unwrap());
        drop(make_whole(&file, open).unwrap());
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [file]);
    }

    #[test]
    fn the_name_of_a_store_lasts_before_anything_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mqtt-iot.redb");
        let make = |file: &Path| fs::write(file, "");
        // Also where it was there: whoever renamed it may have been killed before the folder was synced.
        for attempt in 0..2 {
            let broken = |synced: &Path| {
                assert_eq!((synced, file.exists()), (folder.path(), true), "{attempt}");
                Err(io::ErrorKind::StorageFull.into())
            };
            let error = make_whole_with(&file, make, broken).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        make_whole(&file, make).unwrap();
        sync_folder(Path::new("")).unwrap();
        sync_folder(&folder.path().join("none")).unwrap_err();
    }

    #[test]
    fn the_folder_is_private_unless_it_was_there() {
        let base = tempfile::tempdir().unwrap();
        let mode = |folder: &Path| std::fs::metadata(folder).unwrap().mode() & 0o777;
        let folder = base.path().join("a/b");
        create(&folder).unwrap();
        assert_eq!((mode(&base.path().join("a")), mode(&folder)), (0o700, 0o700));
        let shared = base.path().join("shared");
        DirBuilder::new().mode(0o750).create(&shared).unwrap();
        create(&shared).unwrap();
        assert_eq!(mode(&shared), 0o750);
    }
}
