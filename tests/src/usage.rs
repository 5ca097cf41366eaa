//! What a process takes of the machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of one process, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The most memory that was resident so far, in bytes.
    pub peak: u64,
    /// The memory that is resident, in bytes.
    pub resident: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Time on the processors so far.
    pub cpu: Duration,
}

impl Usage {
    /// Asks the system about a process of this machine.
    pub fn of(id: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            let value = value.with_context(|| format!("no {name}"))?;
            Ok(value.trim().trim_end_matches(" kB").parse()?)
        };
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name of the program, in parentheses, may have blanks; user and system time are fields 14 and 15.
        let fields = stat.rsplit_once(')').context("no name")?.1;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().context("no time"))
            .sum::<Result<u64>>()?;
        // A tick is 10 ms on every Linux (USER_HZ).
        Ok(Usage {
            peak: field("VmHWM:")? << 10,
            resident: field("VmRSS:")? << 10,
            threads: field("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{id}/fd"))?.count() as u64,
            cpu: Duration::from_millis(10 * ticks),
        })
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Usage { resident, threads, descriptors, .. } = self;
        write!(f, "{} MiB, {descriptors} descriptors, {threads} threads", resident >> 20)
    }
}
