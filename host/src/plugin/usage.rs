//! How much of its limits a plugin uses, so that they can be tuned. Written once for each call, without a lock.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::guest::PluginHost;
use super::metrics::MetricValues;
use super::{CompileCost, Fault};
use crate::config::Limits;

/// What the plugin of one source has used, in all its workers and over reloads.
#[derive(Debug)]
pub struct PluginUsage {
    limits: Limits,
    calls: AtomicU64,
    nanos: AtomicU64,
    longest: AtomicU64,
    times: [AtomicU64; TIMES],
    faults: [AtomicU64; Fault::KINDS.len()],
    peak_memory: AtomicU64,
    outputs: AtomicU64,
    most_outputs: AtomicU64,
    most_output_bytes: AtomicU64,
    component: AtomicU64,
    compile_nanos: AtomicU64,
    compile_memory: AtomicU64,
}

/// What a plugin has used and reported at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginSample {
    /// What the plugin is called.
    pub name: Arc<str>,
    /// SHA-256 of the component that runs.
    pub sha256: Option<Arc<str>>,
    /// Loads of a component that succeeded, and that failed.
    pub loads: (u64, u64),
    /// Calls of `init`, `process` and `flush`.
    pub calls: u64,
    /// Wall time of all calls.
    pub time: Duration,
    /// Wall time that half of the calls did not exceed; at most a quarter too great.
    pub p50: Duration,
    /// Wall time that 99 % of the calls did not exceed; at most a quarter too great.
    pub p99: Duration,
    /// Calls that faulted, by [`Fault::KINDS`].
    pub faults: [(&'static str, u64); Fault::KINDS.len()],
    /// Records that came out.
    pub outputs: u64,
    /// The limits, and what was used of them.
    pub limits: Vec<LimitUse>,
    /// Bytes of the keys and values in its state.
    pub state_bytes: usize,
    /// Log lines over the budget.
    pub log_lines_dropped: u64,
    /// Metrics that the plugin reports itself.
    pub values: MetricValues,
    /// Calls for more of them than allowed, or with an illegal name.
    pub values_dropped: u64,
}

/// How much of one limit was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitUse {
    /// The key of the limit in the configuration; it tells the unit.
    pub name: &'static str,
    /// The limit.
    pub limit: f64,
    /// The most that was used at a time. `None` where it cannot be measured.
    pub used: Option<f64>,
}

const MIB: f64 = (1 << 20) as f64;

impl PluginUsage {
    /// Nothing used of `limits`.
    pub fn new(limits: &Limits) -> Self {
        let zero = AtomicU64::default;
        PluginUsage {
            limits: *limits,
            calls: zero(),
            nanos: zero(),
            longest: zero(),
            times: array::from_fn(|_| zero()),
            faults: array::from_fn(|_| zero()),
            peak_memory: zero(),
            outputs: zero(),
            most_outputs: zero(),
            most_output_bytes: zero(),
            component: zero(),
            compile_nanos: zero(),
            compile_memory: zero(),
        }
    }

    /// A component of so many bytes was compiled.
    pub(super) fn loaded(&self, component: usize, cost: CompileCost) {
        self.component.store(component as u64, Relaxed);
        self.compile_nanos.store(nanos(cost.time), Relaxed);
        self.compile_memory.store(cost.memory as u64, Relaxed);
    }

    /// A call has ended.
    pub(super) fn called(&self, time: Duration, memory: usize, fault: Option<&Fault>) {
        let nanos = nanos(time);
        self.calls.fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
        self.longest.fetch_max(nanos, Relaxed);
        if let Some(count) = self.times.get(bucket(nanos)) {
            count.fetch_add(1, Relaxed);
        }
        self.peak_memory.fetch_max(memory as u64, Relaxed);
        let Some(fault) = fault else { return };
        if let Some(count) = self.faults.get(fault.kind_index()) {
            count.fetch_add(1, Relaxed);
        }
        match fault {
            Fault::TooManyOutputs { outputs, .. } => {
                self.most_outputs.fetch_max(*outputs as u64, Relaxed);
            }
            Fault::OutputTooLarge { limit } => {
                self.most_output_bytes.fetch_max(*limit as u64, Relaxed);
            }
            _ => {}
        }
    }

    /// A call gave records: of each the message, if they have one, and how many bytes all of them are.
    pub(super) fn gave(&self, of: &[u32], outputs: usize, bytes: usize) {
        self.outputs.fetch_add(outputs as u64, Relaxed);
        self.most_output_bytes.fetch_max(bytes as u64, Relaxed);
        // All of them together are seldom more than one message had before.
        if of.len() as u64 > self.most_outputs.load(Relaxed) {
            let most = of.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
            self.most_outputs.fetch_max(most as u64, Relaxed);
        }
    }

    fn quantiles<const N: usize>(&self, of: [f64; N]) -> [Duration; N] {
        let counts: Vec<u64> = self.times.iter().map(|count| count.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        of.map(|quantile| {
            let rank = (quantile * total as f64).ceil() as u64;
            let mut below = 0;
            let bucket = counts.iter().position(|count| {
                below += count;
                total > 0 && below >= rank
            });
            bucket.map_or(Duration::ZERO, |bucket| Duration::from_nanos(upper_bound(bucket)))
        })
    }
}

impl PluginHost {
    /// What the plugin has used and reported until now.
    pub fn sample(&self) -> PluginSample {
        let usage = &*self.usage;
        let values = self.metrics.snapshot();
        let [p50, p99] = usage.quantiles([0.5, 0.99]);
        let faults = array::from_fn(|index| {
            let count = usage.faults.get(index).map_or(0, |count| count.load(Relaxed));
            (Fault::KINDS.get(index).copied().unwrap_or_default(), count)
        });
        PluginSample {
            name: self.name.clone(),
            sha256: self.loads.live(),
            loads: self.loads.counts(),
            calls: usage.calls.load(Relaxed),
            time: Duration::from_nanos(usage.nanos.load(Relaxed)),
            p50,
            p99,
            faults,
            outputs: usage.outputs.load(Relaxed),
            limits: self.limits(&values),
            state_bytes: self.state.bytes(),
            log_lines_dropped: self.log.dropped(),
            values,
            values_dropped: self.metrics.dropped(),
        }
    }

    fn limits(&self, values: &MetricValues) -> Vec<LimitUse> {
        let PluginUsage { limits, .. } = &*self.usage;
        let read = |value: &AtomicU64| value.load(Relaxed) as f64;
        let entry = |name, limit, used| LimitUse { name, limit, used: Some(used) };
        let unknown = |name, limit: usize| LimitUse { name, limit: limit as f64, used: None };
        let usage = &*self.usage;
        vec![
            entry("memory_mb", limits.memory as f64 / MIB, read(&usage.peak_memory) / MIB),
            entry("deadline_ms", limits.deadline.as_secs_f64() * 1e3, read(&usage.longest) / 1e6),
            entry("outputs_per_message", limits.outputs_per_message as f64, read(&usage.most_outputs)),
            entry("output_bytes", limits.output_bytes as f64, read(&usage.most_output_bytes)),
            unknown("stack_kb", limits.stack >> 10),
            entry("log_lines_per_second", limits.log_lines_per_second.into(), self.log.busiest() as f64),
            entry("metrics", limits.metrics as f64, values.len() as f64),
            entry("state_mb", limits.state as f64 / MIB, self.state.bytes() as f64 / MIB),
            entry("component_mb", limits.component as f64 / MIB, read(&usage.component) / MIB),
            entry("compile_seconds", limits.compile_time.as_secs_f64(), read(&usage.compile_nanos) / 1e9),
            entry("compile_mb", limits.compile_memory as f64 / MIB, read(&usage.compile_memory) / MIB),
            unknown("instances", limits.instances),
            unknown("handles", limits.handles),
        ]
    }
}

/// Four buckets for each power of two of nanoseconds.
const TIMES: usize = 4 * 64;

fn bucket(nanos: u64) -> usize {
    let octave = nanos.max(4).ilog2();
    let quarter = (nanos.max(4) >> (octave - 2)) & 3;
    4 * octave as usize + quarter as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / 4, bucket as u128 % 4);
    let bound = ((5 + quarter) << octave >> 2) - 1;
    u64::try_from(bound).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn used(sample: &PluginSample, name: &str) -> f64 {
        sample.limits.iter().find(|limit| limit.name == name).unwrap().used.unwrap()
    }

    #[test]
    fn every_time_is_in_a_bucket_that_is_at_most_a_quarter_wide() {
        for nanos in (0..60).flat_map(|n| [1 << n, (1 << n) + 1, (3 << n) - 1, (1 << n) * 7 / 4]) {
            let bucket = bucket(nanos);
            assert!(bucket < TIMES);
            let bound = upper_bound(bucket);
            assert!(nanos <= bound && bound <= nanos.max(4) + nanos / 4, "{nanos}: {bound}");
        }
        assert_eq!((bucket(u64::MAX), upper_bound(TIMES - 1)), (TIMES - 1, u64::MAX));
    }

    #[test]
    fn the_quantiles_are_those_of_the_calls() {
        let limits = Limits { deadline: Duration::from_millis(400), ..Limits::default() };
        let host = PluginHost::new("test", &limits);
        assert_eq!((host.sample().p50, host.sample().p99), (Duration::ZERO, Duration::ZERO));
        for millis in 1..=100 {
            host.usage.called(Duration::from_millis(millis), millis as usize, None);
        }
        let fault = Fault::Deadline(limits.deadline);
        host.usage.called(Duration::from_millis(300), 1, Some(&fault));
        let sample = host.sample();
        let within = |time: Duration, exact: f64| (exact..exact * 1.25).contains(&(time.as_secs_f64() * 1e3));
        assert!(within(sample.p50, 51.0) && within(sample.p99, 100.0), "{sample:?}");
        assert_eq!((sample.calls, sample.time), (101, Duration::from_millis(5_350)));
        assert_eq!((used(&sample, "deadline_ms"), used(&sample, "memory_mb")), (300.0, 100.0 / MIB));
        let deadline: Vec<_> = sample.faults.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(deadline, [&("deadline", 1)]);
    }

    #[test]
    fn the_most_outputs_are_those_of_one_message_and_their_bytes_those_of_one_call() {
        let host = PluginHost::new("test", &Limits::default());
        host.usage.gave(&[0, 1, 1, 1, 2], 5, 50);
        host.usage.gave(&[0, 1], 2, 70);
        host.usage.gave(&[], 4, 60);
        let sample = host.sample();
        assert_eq!((sample.outputs, used(&sample, "outputs_per_message")), (11, 3.0));
        assert_eq!(used(&sample, "output_bytes"), 70.0);
        let fault = Fault::TooManyOutputs { outputs: 1_001, limit: 1_000 };
        host.usage.called(Duration::ZERO, 0, Some(&fault));
        assert_eq!(used(&host.sample(), "outputs_per_message"), 1_001.0);
    }

    #[test]
    fn every_limit_of_the_configuration_is_reported_under_its_key() {
        let host = PluginHost::new("test", &Limits::default());
        let names: Vec<_> = host.sample().limits.iter().map(|limit| limit.name).collect();
        let keys: Vec<_> = crate::config::keys::LIMITS.iter().map(|key| key.name).collect();
        assert_eq!(names, keys);
    }
}
