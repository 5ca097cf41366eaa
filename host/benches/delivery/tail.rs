//! Waits for lines that another process appends to a file, as promptly as a socket wakes its reader.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

/// A file that is being written.
pub struct Tail {
    file: File,
    changes: OwnedFd,
    /// What was read and is not a whole line yet.
    rest: String,
}

impl Tail {
    /// Follows `path` from its beginning.
    pub fn follow(path: &Path) -> Result<Self> {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: inotify_init1 takes flags only.
        let changes = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
        ensure!(changes >= 0, "inotify: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made and is nobody else's.
        let changes = unsafe { OwnedFd::from_raw_fd(changes) };
        // SAFETY: `name` is a string that ends with NUL.
        let watch = unsafe { libc::inotify_add_watch(changes.as_raw_fd(), name.as_ptr(), libc::IN_MODIFY) };
        ensure!(watch >= 0, "inotify: {}", io::Error::last_os_error());
        Ok(Tail { file: File::open(path)?, changes, rest: String::new() })
    }

    /// Calls `with` for each line that is there, or waits for some.
    pub fn lines(&mut self, patience: Duration, mut with: impl FnMut(&str) -> Result<()>) -> Result<()> {
        while self.file.read_to_string(&mut self.rest)? == 0 {
            self.wait(patience)?;
        }
        let whole = self.rest.rfind('\n').map_or(0, |end| end + 1);
        self.rest[..whole].lines().try_for_each(&mut with)?;
        self.rest.drain(..whole);
        Ok(())
    }

    /// Waits for a change since the last wait. A change between a read and this wait is one, so none is missed.
    fn wait(&self, patience: Duration) -> Result<()> {
        let fd = self.changes.as_raw_fd();
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as i32) };
        if ready == 0 {
            bail!("nothing was written for {patience:?}");
        }
        let mut events = [0u8; 4096];
        // SAFETY: `events` is writable for its whole length.
        let read = unsafe { libc::read(fd, events.as_mut_ptr().cast(), events.len()) };
        ensure!(ready > 0 && read > 0, "inotify: {}", io::Error::last_os_error());
        Ok(())
    }
}
