//! Who used the processors: this process by thread name, given other processes, and everybody else.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc` (`USER_HZ`, 100 on every Linux).
const TICKS: f64 = 100.0;

/// A reading of the CPU clocks.
pub struct Cpu {
    at: Instant,
    threads: BTreeMap<String, u64>,
    all: f64,
    ours: f64,
    pids: Vec<u32>,
}

/// What was used between two readings.
#[derive(Clone)]
pub struct Usage {
    /// CPU time of this process by thread name; threads of one name are summed.
    pub threads: BTreeMap<String, Duration>,
    /// Cores that were used by processes that do not belong to the benchmark.
    pub others: f64,
}

impl Cpu {
    /// Reads the clocks. `pids` are the benchmark's other processes.
    pub fn read(pids: &[u32]) -> Self {
        let ours = pids.iter().copied().chain([std::process::id()]).map(process).sum();
        Cpu { at: Instant::now(), threads: threads(), all: all(), ours, pids: pids.to_vec() }
    }

    /// What was used since this reading.
    pub fn usage(&self) -> Usage {
        let now = Cpu::read(&self.pids);
        let elapsed = (now.at - self.at).as_secs_f64();
        let used = |name: &String, nanos: u64| nanos.saturating_sub(*self.threads.get(name).unwrap_or(&0));
        Usage {
            threads: now
                .threads
                .iter()
                .map(|(name, &n)| (name.clone(), Duration::from_nanos(used(name, n))))
                .collect(),
            others: (((now.all - self.all) - (now.ours - self.ours)) / elapsed).max(0.0),
        }
    }
}

/// Nanoseconds on a processor by thread name.
fn threads() -> BTreeMap<String, u64> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let nanos = read("schedstat").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0u64);
        *threads.entry(read("comm").trim().to_owned()).or_default() += nanos;
    }
    threads
}

/// Seconds that the processors of this machine were busy, the time that a hypervisor took away included.
fn all() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal
    [0, 1, 2, 5, 6, 7].iter().filter_map(|&i| fields.get(i)).sum::<f64>() / TICKS
}

/// Seconds that a process used.
fn process(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in parentheses; user and system time are fields 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).flat_map(str::parse::<f64>).sum::<f64>() / TICKS
}
