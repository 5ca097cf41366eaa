//! The metrics that a plugin reports through `rivven:connect/metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Upper bounds of a histogram's buckets: 1, 2.5 and 5 in each power of ten from 0.001 to 10,000. One more bucket has no bound.
pub const BUCKETS: [f64; 22] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0,
    500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];

/// The metrics of the plugin of one source, at most as many as configured; what is beyond is dropped and counted.
#[derive(Debug)]
pub struct PluginMetrics {
    limit: usize,
    values: Mutex<MetricValues>,
    dropped: AtomicU64,
}

/// The values at one moment, by name.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct MetricValues {
    /// For `rivven_mqtt_plugin_counter_total`.
    pub counters: BTreeMap<String, u64>,
    /// For `rivven_mqtt_plugin_gauge`.
    pub gauges: BTreeMap<String, f64>,
    /// For `rivven_mqtt_plugin_histogram`.
    pub histograms: BTreeMap<String, Histogram>,
}

/// The observations of one histogram.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Histogram {
    /// How many observations fell in each bucket of [`BUCKETS`] (not cumulated), and last those beyond the greatest bound.
    pub counts: [u64; BUCKETS.len() + 1],
    /// The sum of the observations.
    pub sum: f64,
}

impl Histogram {
    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn record(&mut self, value: f64) {
        let bucket = BUCKETS.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }
}

impl MetricValues {
    pub(super) fn len(&self) -> usize {
        self.counters.len() + self.gauges.len() + self.histograms.len()
    }
}

impl PluginMetrics {
    /// Room for `limit` distinct metrics; a name that is used for two kinds counts twice.
    pub fn new(limit: usize) -> Self {
        PluginMetrics { limit, values: Mutex::default(), dropped: AtomicU64::new(0) }
    }

    /// A copy of all values.
    pub fn snapshot(&self) -> MetricValues {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls that were dropped because of an illegal name, too many names, or an observation that is not a number.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(super) fn add(&self, name: &str, value: u64) {
        self.update(name, |values| &mut values.counters, |counter| *counter = counter.wrapping_add(value));
    }

    pub(super) fn set(&self, name: &str, value: f64) {
        self.update(name, |values| &mut values.gauges, |gauge| *gauge = value);
    }

    pub(super) fn record(&self, name: &str, value: f64) {
        if value.is_nan() {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        self.update(name, |values| &mut values.histograms, |histogram| histogram.record(value));
    }

    fn update<T: Default>(
        &self,
        name: &str,
        kind: impl Fn(&mut MetricValues) -> &mut BTreeMap<String, T>,
        change: impl FnOnce(&mut T),
    ) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = kind(&mut values).get_mut(name) {
            return change(value);
        }
        if !legal(name) || values.len() >= self.limit {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        change(kind(&mut values).entry(name.to_owned()).or_default());
    }
}

fn legal(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_by_kind_and_name() {
        let metrics = PluginMetrics::new(10);
        metrics.add("readings", 2);
        metrics.add("readings", 3);
        metrics.set("readings", 0.5);
        for value in [0.001, 0.0011, 7.0, 1e9] {
            metrics.record("seconds", value);
        }
        let values = metrics.snapshot();
        assert_eq!((values.counters["readings"], values.gauges["readings"]), (5, 0.5));
        let seconds = &values.histograms["seconds"];
        assert_eq!(
            (seconds.counts[0], seconds.counts[1], seconds.counts[12], seconds.counts[22]),
            (1, 1, 1, 1)
        );
        assert_eq!((seconds.count(), seconds.sum), (4, 1e9 + 7.0021));
        assert_eq!(metrics.dropped(), 0);
    }

    #[test]
    fn names_are_checked_and_bounded() {
        let metrics = PluginMetrics::new(2);
        for name in ["", "Upper", "with space", "a\"b", "é", &"a".repeat(65)] {
            metrics.add(name, 1);
        }
        assert_eq!((metrics.dropped(), metrics.snapshot()), (6, MetricValues::default()));
        metrics.add(&"a".repeat(64), 1);
        metrics.set("b_2", 1.0);
        metrics.record("c", 1.0);
        metrics.add("b_2", 1);
        metrics.set("b_2", 2.0);
        metrics.record("b_2", f64::NAN);
        assert_eq!((metrics.dropped(), metrics.snapshot().len()), (9, 2));
        assert_eq!(metrics.snapshot().gauges["b_2"], 2.0);
    }
}
