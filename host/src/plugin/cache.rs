//! Compiled code, kept so that a plugin starts at once.
//!
//! An entry is machine code that runs unchecked. So it is only taken from a folder that nobody else can write to, and only if
//! it is, byte for byte, what was put there for this component and this engine; anything else is compiled again. Whoever can
//! forge an entry under these conditions can as well replace the host.

use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use nix::unistd::Uid;
use sha2::{Digest, Sha256};
use tracing::warn;
use wasmtime::Engine;

use super::component::hex;
use crate::state_dir;

/// The first bytes of an entry; the digit is its format.
const MAGIC: &[u8; 8] = b"RVNcode1";
const HEADER: usize = MAGIC.len() + 32 + 32;
/// The most that all entries may take, in bytes; those that were not used for longest go first.
const MAX_BYTES: u64 = 1 << 30;

/// A folder of compiled code.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    capacity: u64,
}

/// Which code: of which component, for which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// `component` is the SHA-256 of the component's file.
    pub fn new(component: &[u8; 32], engine: &Engine) -> Self {
        // Of the version of wasmtime, its settings and those of the processor.
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.write(component);
        Key(hasher.0.finalize().into())
    }
}

/// The folder of compiled code of a user, as the XDG Base Directory Specification has it.
pub(super) fn users_cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(folder.join("rivven-mqtt/compiled"))
}

impl Cache {
    /// Uses `folder`, which is made if it is not there. A folder that others can write to or that is not ours is not used, with a
    /// warning.
    pub fn open(folder: &Path) -> Option<Self> {
        match private(folder) {
            Ok(()) => Some(Cache { folder: folder.into(), capacity: MAX_BYTES }),
            Err(error) => {
                warn!(folder = %folder.display(), %error, "compiled plugins are not cached; each start compiles them");
                None
            }
        }
    }

    /// The code for `key`, if it is there and whole.
    pub fn get(&self, key: Key) -> Option<Vec<u8>> {
        match self.read(key) {
            Ok(code) => Some(code),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let file = self.path(key);
                warn!(file = %file.display(), %error, "the cached code of a plugin is not used; it is compiled again");
                None
            }
        }
    }

    fn read(&self, key: Key) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(key))?;
        owned(&file.metadata()?)?;
        let mut header = [0; HEADER];
        file.read_exact(&mut header)?;
        let mut code = Vec::new();
        file.read_to_end(&mut code)?;
        if header != self::header(key, &code) {
            return Err(io::Error::other("it is damaged"));
        }
        // For `prune`; an entry that looks old is compiled again one day, and no more.
        let _ = file.set_modified(SystemTime::now());
        Ok(code)
    }

    /// Keeps `code` for `key`: all of it or nothing.
    pub fn put(&self, key: Key, code: &[u8]) {
        if let Err(error) = self.write(key, code) {
            let folder = self.folder.display();
            warn!(%folder, %error, "the compiled code of a plugin cannot be cached; the next start compiles it again");
        }
    }

    fn write(&self, key: Key, code: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let part = format!("{}-{}.part", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let part = self.folder.join(part);
        let written = (|| {
            // What a process of the same number left behind is overwritten.
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
            file.write_all(&header(key, code))?;
            file.write_all(code)?;
            fs::rename(&part, self.path(key))
        })();
        if written.is_err() {
            // Nothing more can be done about it; `prune` finds it.
            let _ = fs::remove_file(&part);
        }
        written?;
        self.prune()
    }

    /// Removes the oldest entries until the rest is within the capacity. Another process may do the same.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            if let Ok(metadata) = file.metadata() {
                files.push((metadata.modified()?, metadata.len(), file.path()));
            }
        }
        files.sort_unstable_by(|(one, ..), (other, ..)| other.cmp(one));
        let mut bytes = 0;
        for (_, length, path) in files {
            bytes += length;
            if bytes > self.capacity {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    fn path(&self, key: Key) -> PathBuf {
        self.folder.join(hex(&key.0)).with_extension("code")
    }
}

/// What stands before `code` in its entry: the format, whose it is, and the checksum of all that.
fn header(key: Key, code: &[u8]) -> [u8; HEADER] {
    let checksum = Sha256::new().chain_update(MAGIC).chain_update(key.0).chain_update(code).finalize();
    let mut header = [0; HEADER];
    let parts = MAGIC.iter().chain(&key.0).chain(&checksum);
    header.iter_mut().zip(parts).for_each(|(byte, part)| *byte = *part);
    header
}

/// Makes `folder`, and checks that it is a folder of this user that only this user can use.
fn private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        state_dir::create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Of a link itself, not of where it leads.
    let metadata = fs::symlink_metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    owned(&metadata)?;
    match metadata.mode() & 0o077 {
        0 => Ok(()),
        _ => Err(io::Error::other(format!(
            "others may use it (mode {:03o}): chmod 700 it",
            metadata.mode() & 0o777
        ))),
    }
}

fn owned(metadata: &Metadata) -> io::Result<()> {
    match metadata.uid() == Uid::effective().as_raw() {
        true => Ok(()),
        false => Err(io::Error::other(format!("it belongs to the user {}", metadata.uid()))),
    }
}

struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.clone().finalize().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plugin::sandbox::engine;

    const KEY: Key = Key([7; 32]);

    fn folder(base: &tempfile::TempDir) -> PathBuf {
        base.path().join("state/compiled")
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
    }

    #[test]
    fn what_was_put_is_there_for_the_next_process_and_for_nobody_else() {
        let base = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder(&base)).unwrap();
        assert_eq!(cache.get(KEY), None);
        cache.put(KEY, b"code");
        let again = Cache::open(&folder(&base)).unwrap();
        assert_eq!(again.get(KEY).as_deref(), Some(&b"code"[..]));
        assert_eq!(again.get(Key([8; 32])), None);
        assert_eq!(fs::metadata(folder(&base)).unwrap().mode() & 0o777, 0o700);
        assert_eq!(files(&folder(&base)), [cache.path(KEY)]);
    }

    #[test]
    fn a_damaged_or_renamed_entry_is_not_used_and_is_replaced() {
        let base = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder(&base)).unwrap();
        cache.put(KEY, b"code");
        let whole = fs::read(cache.path(KEY)).unwrap();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            fs::write(cache.path(KEY), damaged).unwrap();
            assert_eq!(cache.get(KEY), None, "byte {index}");
        }
        for length in [0, 1, HEADER - 1, HEADER, whole.len() - 1] {
            fs::write(cache.path(KEY), &whole[..length]).unwrap();
            assert_eq!(cache.get(KEY), None, "{length} bytes");
        }
        let other = Key([8; 32]);
        fs::write(cache.path(other), &whole).unwrap();
        assert_eq!(cache.get(other), None);
        cache.put(KEY, b"code");
        assert_eq!(cache.get(KEY).as_deref(), Some(&b"code"[..]));
    }

    #[test]
    fn a_folder_that_is_not_private_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let shared = base.path().join("shared");
        fs::create_dir(&shared).unwrap();
        for mode in [0o755, 0o701, 0o770] {
            fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
            assert!(Cache::open(&shared).is_none(), "{mode:o}");
        }
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Cache::open(&shared).is_some());
        let link = base.path().join("link");
        std::os::unix::fs::symlink(&shared, &link).unwrap();
        assert!(Cache::open(&link).is_none());
        let file = base.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(Cache::open(&file).is_none());
    }

    #[test]
    fn the_entries_used_longest_ago_make_room() {
        let base = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(&folder(&base)).unwrap();
        cache.capacity = 3 * (HEADER as u64 + 100);
        let keys: Vec<Key> = (0..4).map(|n| Key([n; 32])).collect();
        let age = |key: Key, seconds| {
            let time = SystemTime::now() - std::time::Duration::from_secs(seconds);
            File::options().write(true).open(cache.path(key)).unwrap().set_modified(time).unwrap();
        };
        for (seconds, &key) in (1..).zip(&keys[..3]) {
            cache.put(key, &[0; 100]);
            age(key, 100 * seconds);
        }
        // The oldest is used once more; so the next one goes.
        assert!(cache.get(keys[2]).is_some());
        cache.put(keys[3], &[0; 100]);
        let there: Vec<bool> = keys.iter().map(|&key| cache.get(key).is_some()).collect();
        assert_eq!(there, [true, false, true, true]);
    }

    #[test]
    fn another_component_and_another_engine_are_another_key() {
        let (one, other) = (engine(512 << 10).unwrap(), engine(512 << 10).unwrap());
        assert_eq!(Key::new(&[1; 32], &one), Key::new(&[1; 32], &other));
        assert_ne!(Key::new(&[1; 32], &one), Key::new(&[2; 32], &one));
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(false);
        let different = Engine::new(&config).unwrap();
        assert_ne!(Key::new(&[1; 32], &one), Key::new(&[1; 32], &different));
    }
}
