//! A file system that can be full or read-only: a tmpfs in a mount namespace of its own, which the kernel removes with the last
//! process in it, whatever becomes of the test.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::packages::is_root;
use crate::process::Process;

/// Mounts, says so, and keeps the namespace for as long as it lives.
const HOLD: &str = r#"mount -t tmpfs -o size="$1"k none "$2" && echo mounted && exec sleep infinity"#;

pub struct SmallDisk {
    holder: Process,
    folder: TempDir,
}

impl SmallDisk {
    /// One of so many KiB.
    pub fn mount(kib: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "sh", "-c", HOLD, "sh", &kib.to_string()]).arg(folder.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("no unshare")?;
        let said = child.stdout.take().context("no output")?;
        let holder = Process::new(child, Signal::SIGKILL, Duration::from_secs(5));
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        if line.trim() != "mounted" {
            bail!("cannot mount a small disk: run this as root, or allow user namespaces without privileges");
        }
        Ok(SmallDisk { holder, folder })
    }

    /// Where a process of the namespace finds it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A command that becomes the one that follows it, inside of the namespace.
    pub fn enter(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        let mut words = vec!["nsenter", "--target", &holder];
        if !is_root() {
            words.extend(["--user", "--preserve-credentials"]);
        }
        // Entering leads to the root folder.
        words.extend(["--mount", "sh", "-c", r#"cd "${FOLDER:-/}" && exec "$@""#, "sh"]);
        words.into_iter().map(str::to_owned).collect()
    }

    /// Leaves no space on it.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.inside("filler"))?;
        let page = [1; 4 << 10];
        loop {
            match filler.write_all(&page) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("cannot fill the small disk"),
            }
        }
    }

    /// Makes space again.
    pub fn clear(&self) -> Result<()> {
        fs::remove_file(self.inside("filler")).context("cannot clear the small disk")
    }

    /// Removes a file.
    pub fn forget(&self, file: &str) -> Result<()> {
        fs::remove_file(self.inside(file)).with_context(|| format!("no {file} on the small disk"))
    }

    /// Lets nobody write to it, or everybody again.
    pub fn read_only(&self, yes: bool) -> Result<()> {
        let [first, rest @ ..] = &self.enter()[..] else { bail!("no command") };
        let options = if yes { "remount,ro" } else { "remount,rw" };
        let status =
            Command::new(first).args(rest).args(["mount", "-o", options]).arg(self.path()).status()?;
        if !status.success() {
            bail!("mount -o {options} ended with {status}");
        }
        Ok(())
    }

    /// A file of it from outside of the namespace.
    fn inside(&self, file: &str) -> PathBuf {
        let path = self.path().strip_prefix("/").unwrap_or(self.path());
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(path).join(file)
    }
}
