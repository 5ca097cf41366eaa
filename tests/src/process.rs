//! A child process that ends with the value that owns it.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// A child process. Dropping it sends a signal and waits; when that takes longer than its patience, SIGKILL.
#[derive(Debug)]
pub struct Process {
    child: Child,
    signal: Signal,
    patience: Duration,
}

impl Process {
    /// Takes over `child`; `signal` is what it is ended with, `patience` how long it may take to obey.
    pub fn new(child: Child, signal: Signal, patience: Duration) -> Self {
        Process { child, signal, patience }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. One that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match signal::kill(Pid::from_raw(self.child.id() as i32), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => {
                Err(error).with_context(|| format!("cannot send {signal} to process {}", self.child.id()))
            }
        }
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a child process")
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("process {} ends", self.child.id());
        wait_until(&what, timeout, async || self.status().transpose()).await?
    }

    /// Asks it to end and waits until it has.
    pub async fn end(&mut self) -> Result<ExitStatus> {
        self.signal(self.signal)?;
        self.ended(self.patience).await
    }

    fn end_now(&mut self) -> Result<()> {
        if self.status()?.is_some() {
            return Ok(());
        }
        // A process that is stopped would not see the other signal.
        self.signal(Signal::SIGCONT)?;
        self.signal(self.signal)?;
        let start = Instant::now();
        while start.elapsed() < self.patience {
            if self.status()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()?;
        if self.patience > Duration::ZERO {
            bail!("process {} had to be killed", self.child.id());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told; the next run finds its ports elsewhere.
        let _ = self.end_now();
    }
}
