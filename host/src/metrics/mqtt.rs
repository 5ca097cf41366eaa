//! What the MQTT side of a source counts, as the library shows it: atomics that whoever reads them may set back to zero.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// The counts of a source's MQTT side since it was made, or since they were last reset. No lock: every count is an atomic of
/// its own, and the driver touches them once for each read and once for each batch, never once for each message.
#[derive(Debug)]
pub struct MqttSourceMetrics {
    /// Messages that entered the host; a redelivery counts again, a suppressed QoS 2 duplicate does not.
    pub messages_received: AtomicU64,
    /// Bytes of their topics and payloads.
    pub bytes_received: AtomicU64,
    /// CONNACKs that accepted a connection.
    pub connections: AtomicU64,
    /// Accepted connections that ended, for whatever reason.
    pub disconnections: AtomicU64,
    /// Connection attempts and connections that failed, malformed packets among the reasons.
    pub errors: AtomicU64,
    /// Microseconds from the last byte of a packet to the hand-over of its message, summed over messages. What a message waits
    /// because its consumer is behind is in it, the wait for a message is not.
    pub receive_latency_us: AtomicU64,
    /// `u64::MAX` while there is no batch.
    batch_size_min: AtomicU64,
    batch_size_max: AtomicU64,
    batch_size_sum: AtomicU64,
    batch_count: AtomicU64,
}

impl Default for MqttSourceMetrics {
    fn default() -> Self {
        MqttSourceMetrics {
            messages_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            disconnections: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            receive_latency_us: AtomicU64::new(0),
            batch_size_min: AtomicU64::new(u64::MAX),
            batch_size_max: AtomicU64::new(0),
            batch_size_sum: AtomicU64::new(0),
            batch_count: AtomicU64::new(0),
        }
    }
}

impl MqttSourceMetrics {
    /// All counts are zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a batch of `size` messages.
    #[inline]
    pub fn record_batch_size(&self, size: u64) {
        self.batch_size_min.fetch_min(size, Relaxed);
        self.batch_size_max.fetch_max(size, Relaxed);
        self.batch_size_sum.fetch_add(size, Relaxed);
        self.batch_count.fetch_add(1, Relaxed);
    }

    /// A batch is handed over at `now`. Its messages came at `received_at`, both in nanoseconds since the Unix epoch.
    #[inline]
    pub(crate) fn handed_over(&self, received_at: &[u64], now: u64) {
        let size = received_at.len() as u64;
        self.record_batch_size(size);
        // One pass that the compiler makes vectors of: the sums wrap, their difference does not. It is negative when the clock
        // was set back meanwhile.
        let came = received_at.iter().fold(0, |sum: u64, at| sum.wrapping_add(*at));
        let nanos = now.wrapping_mul(size).wrapping_sub(came).cast_signed().max(0).cast_unsigned();
        self.receive_latency_us.fetch_add(nanos.saturating_add(500) / 1_000, Relaxed);
    }

    /// All counts as they stand. Each is exact; while the driver is at work they may be one batch apart from each other.
    #[inline]
    pub fn snapshot(&self) -> MqttSourceMetricsSnapshot {
        self.collect(|count, _| count.load(Relaxed))
    }

    /// Sets all counts to zero.
    pub fn reset(&self) {
        self.snapshot_and_reset();
    }

    /// All counts as they stand, which are zero then. Each count is taken and set to zero in one step, so that whatever is
    /// counted meanwhile is in this snapshot or in the next one, also when several threads do this at once.
    pub fn snapshot_and_reset(&self) -> MqttSourceMetricsSnapshot {
        self.collect(|count, zero| count.swap(zero, Relaxed))
    }

    #[inline]
    fn collect(&self, take: impl Fn(&AtomicU64, u64) -> u64) -> MqttSourceMetricsSnapshot {
        let min = take(&self.batch_size_min, u64::MAX);
        MqttSourceMetricsSnapshot {
            messages_received: take(&self.messages_received, 0),
            bytes_received: take(&self.bytes_received, 0),
            connections: take(&self.connections, 0),
            disconnections: take(&self.disconnections, 0),
            errors: take(&self.errors, 0),
            receive_latency_us: take(&self.receive_latency_us, 0),
            batch_size_min: if min == u64::MAX { 0 } else { min },
            batch_size_max: take(&self.batch_size_max, 0),
            batch_size_sum: take(&self.batch_size_sum, 0),
            batch_count: take(&self.batch_count, 0),
        }
    }
}

/// The counts of a [`MqttSourceMetrics`] at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MqttSourceMetricsSnapshot {
    /// Messages that entered the host; a redelivery counts again, a suppressed QoS 2 duplicate does not.
    pub messages_received: u64,
    /// Bytes of their topics and payloads.
    pub bytes_received: u64,
    /// CONNACKs that accepted a connection.
    pub connections: u64,
    /// Accepted connections that ended, for whatever reason.
    pub disconnections: u64,
    /// Connection attempts and connections that failed.
    pub errors: u64,
    /// Microseconds from the last byte of a packet to the hand-over of its message, summed over messages.
    pub receive_latency_us: u64,
    /// Messages of the smallest batch; 0 if there was none.
    pub batch_size_min: u64,
    /// Messages of the greatest batch.
    pub batch_size_max: u64,
    /// Messages of all batches.
    pub batch_size_sum: u64,
    /// Batches.
    pub batch_count: u64,
}

/// Name after the prefix, type and meaning of what [`MqttSourceMetricsSnapshot::to_prometheus_format`] shows, in order.
const FAMILIES: [(&str, &str, &str); 6] = [
    ("messages_received_total", "counter", "Total messages received"),
    ("bytes_received_total", "counter", "Total bytes received"),
    ("connections_total", "counter", "Total connections"),
    ("disconnections_total", "counter", "Total disconnections"),
    ("errors_total", "counter", "Total errors"),
    ("receive_latency_avg_ms", "gauge", "Average receive latency"),
];

impl MqttSourceMetricsSnapshot {
    /// Milliseconds from the last byte of a packet to the hand-over of its message, on average; 0 without messages.
    #[inline]
    pub fn avg_receive_latency_ms(&self) -> f64 {
        ratio(self.receive_latency_us as f64, self.messages_received as f64) / 1_000.0
    }

    /// Messages of a batch on average; 0 without batches.
    #[inline]
    pub fn avg_batch_size(&self) -> f64 {
        ratio(self.batch_size_sum as f64, self.batch_count as f64)
    }

    /// Messages a second, when the snapshot is of `elapsed_secs` seconds; 0 when these are not greater than 0.
    #[inline]
    pub fn messages_per_second(&self, elapsed_secs: f64) -> f64 {
        ratio(self.messages_received as f64, elapsed_secs)
    }

    /// Bytes a second, when the snapshot is of `elapsed_secs` seconds; 0 when these are not greater than 0.
    #[inline]
    pub fn bytes_per_second(&self, elapsed_secs: f64) -> f64 {
        ratio(self.bytes_received as f64, elapsed_secs)
    }

    /// Errors among messages and errors, in percent; 0 without either.
    #[inline]
    pub fn error_rate_percent(&self) -> f64 {
        let errors = self.errors as f64;
        ratio(errors, self.messages_received as f64 + errors) * 100.0
    }

    /// The Prometheus text format, version 0.0.4: metrics with the names `PREFIX_mqtt_source_...`, without labels. What a
    /// metric name must not contain is an underscore in the prefix.
    pub fn to_prometheus_format(&self, prefix: &str) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' };
        let mut prefix: String = prefix.chars().map(legal).collect();
        if prefix.starts_with(|c: char| c.is_ascii_digit()) {
            prefix.insert(0, '_');
        }
        let values = [
            self.messages_received.to_string(),
            self.bytes_received.to_string(),
            self.connections.to_string(),
            self.disconnections.to_string(),
            self.errors.to_string(),
            format!("{:.3}", self.avg_receive_latency_ms()),
        ];
        let mut text = String::with_capacity(1024);
        for ((name, kind, help), value) in FAMILIES.iter().zip(values) {
            let name = format!("{prefix}_mqtt_source_{name}");
            // Writing into a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
        text
    }
}

/// `part / whole`; 0 when `whole` is not a number greater than 0.
#[inline]
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use openmetrics_parser::prometheus::parse_prometheus;
    use openmetrics_parser::{PrometheusType, PrometheusValue};

    use super::*;

    #[test]
    fn no_count_is_lost_between_snapshot_and_reset() {
        const THREADS: u64 = 4;
        const EACH: u64 = 100_000;
        let metrics = MqttSourceMetrics::new();
        let done = AtomicBool::new(false);
        // Two threads take the counts away at once while four count.
        let sums = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut sum, mut rounds) = (MqttSourceMetricsSnapshot::default(), 0);
                        while !done.load(Relaxed) {
                            add(&mut sum, metrics.snapshot_and_reset());
                            rounds += 1;
                        }
                        assert!(rounds > 1);
                        sum
                    })
                })
                .collect();
            let counters: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        for n in 0..EACH {
                            metrics.messages_received.fetch_add(2, Relaxed);
                            metrics.bytes_received.fetch_add(3, Relaxed);
                            metrics.connections.fetch_add(1, Relaxed);
                            metrics.disconnections.fetch_add(1, Relaxed);
                            metrics.errors.fetch_add(1, Relaxed);
                            // A message that waited 2 us and one that did not.
                            metrics.handed_over(&[n * 1_000, (n + 2) * 1_000], (n + 2) * 1_000);
                        }
                    })
                })
                .collect();
            counters.into_iter().for_each(|counter| counter.join().unwrap());
            done.store(true, Relaxed);
            takers.into_iter().map(|taker| taker.join().unwrap()).collect::<Vec<_>>()
        });
        let mut all = metrics.snapshot_and_reset();
        sums.into_iter().for_each(|sum| add(&mut all, sum));
        let total = THREADS * EACH;
        let expected = MqttSourceMetricsSnapshot {
            messages_received: 2 * total,
            bytes_received: 3 * total,
            connections: total,
            disconnections: total,
            errors: total,
            receive_latency_us: 2 * total,
            batch_size_min: 0,
            batch_size_max: 0,
            batch_size_sum: 2 * total,
            batch_count: total,
        };
        assert_eq!(all, expected);
        assert_eq!(metrics.snapshot(), MqttSourceMetricsSnapshot::default());
    }

    fn add(sum: &mut MqttSourceMetricsSnapshot, more: MqttSourceMetricsSnapshot) {
        sum.messages_received += more.messages_received;
        sum.bytes_received += more.bytes_received;
        sum.connections += more.connections;
        sum.disconnections += more.disconnections;
        sum.errors += more.errors;
        sum.receive_latency_us += more.receive_latency_us;
        sum.batch_size_sum += more.batch_size_sum;
        sum.batch_count += more.batch_count;
        // All batches have two messages, and a snapshot has the extremes of its own batches or none.
        assert!(matches!(more.batch_size_min, 0 | 2) && matches!(more.batch_size_max, 0 | 2), "{more:?}");
        sum.batch_size_min = 0;
        sum.batch_size_max = 0;
    }

    #[test]
    fn batches_and_latency() {
        let metrics = MqttSourceMetrics::new();
        assert_eq!(metrics.snapshot(), MqttSourceMetricsSnapshot::default());
        // 1.784e18 ns is a time of today: eleven of these do not fit into 64 bits.
        let now = 1_784_000_000_000_000_000;
        metrics.handed_over(&[now - 3_000; 50], now);
        metrics.handed_over(&[now - 1_000, now], now);
        // The clock was set back.
        metrics.handed_over(&[now + 1_000_000], now);
        metrics.messages_received.fetch_add(53, Relaxed);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.receive_latency_us, 150 + 1);
        assert_eq!(
            (snapshot.batch_size_min, snapshot.batch_size_max, snapshot.batch_size_sum, snapshot.batch_count),
            (1, 50, 53, 3)
        );
        metrics.reset();
        assert_eq!(metrics.snapshot(), MqttSourceMetricsSnapshot::default());
        metrics.record_batch_size(7);
        assert_eq!((metrics.snapshot().batch_size_min, metrics.snapshot().batch_size_max), (7, 7));
    }

    #[test]
    fn derived_values_are_numbers() {
        let nothing = MqttSourceMetricsSnapshot::default();
        for value in [
            nothing.avg_receive_latency_ms(),
            nothing.avg_batch_size(),
            nothing.messages_per_second(10.0),
            nothing.bytes_per_second(10.0),
            nothing.error_rate_percent(),
        ] {
            assert_eq!(value.to_bits(), 0.0f64.to_bits());
        }
        let some = MqttSourceMetricsSnapshot {
            messages_received: 900,
            bytes_received: 4_500,
            errors: 100,
            receive_latency_us: 1_800_000,
            batch_size_sum: 900,
            batch_count: 6,
            ..nothing
        };
        assert_eq!(some.avg_receive_latency_ms(), 2.0);
        assert_eq!(some.avg_batch_size(), 150.0);
        assert_eq!((some.messages_per_second(10.0), some.bytes_per_second(10.0)), (90.0, 450.0));
        assert_eq!(some.error_rate_percent(), 10.0);
        for elapsed in [0.0, -0.0, -1.0, f64::NAN, f64::NEG_INFINITY, f64::INFINITY] {
            assert_eq!((some.messages_per_second(elapsed), some.bytes_per_second(elapsed)), (0.0, 0.0));
        }
        let most = MqttSourceMetricsSnapshot { messages_received: u64::MAX, errors: u64::MAX, ..nothing };
        assert_eq!(most.error_rate_percent(), 50.0);
    }

    #[test]
    fn a_snapshot_survives_json_under_the_names_of_its_fields() {
        let snapshot = MqttSourceMetricsSnapshot {
            messages_received: 1,
            bytes_received: 2,
            connections: 3,
            disconnections: 4,
            errors: 5,
            receive_latency_us: 6,
            batch_size_min: 7,
            batch_size_max: 8,
            batch_size_sum: 9,
            batch_count: u64::MAX,
        };
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(
            json,
            "{\"messages_received\":1,\"bytes_received\":2,\"connections\":3,\"disconnections\":4,\"errors\":5,\
             \"receive_latency_us\":6,\"batch_size_min\":7,\"batch_size_max\":8,\"batch_size_sum\":9,\
             \"batch_count\":18446744073709551615}"
        );
        assert_eq!(serde_json::from_str::<MqttSourceMetricsSnapshot>(&json).unwrap(), snapshot);
    }

    #[test]
    fn the_text_is_that_of_the_page() {
        let snapshot = MqttSourceMetricsSnapshot {
            messages_received: 10_000,
            bytes_received: 500_000,
            connections: 3,
            disconnections: 2,
            errors: 1,
            receive_latency_us: 12_345_678,
            ..MqttSourceMetricsSnapshot::default()
        };
        assert_eq!(
            snapshot.to_prometheus_format("rivven"),
            "# HELP rivven_mqtt_source_messages_received_total Total messages received\n\
             # TYPE rivven_mqtt_source_messages_received_total counter\n\
             rivven_mqtt_source_messages_received_total 10000\n\
             # HELP rivven_mqtt_source_bytes_received_total Total bytes received\n\
             # TYPE rivven_mqtt_source_bytes_received_total counter\n\
             rivven_mqtt_source_bytes_received_total 500000\n\
             # HELP rivven_mqtt_source_connections_total Total connections\n\
             # TYPE rivven_mqtt_source_connections_total counter\n\
             rivven_mqtt_source_connections_total 3\n\
             # HELP rivven_mqtt_source_disconnections_total Total disconnections\n\
             # TYPE rivven_mqtt_source_disconnections_total counter\n\
             rivven_mqtt_source_disconnections_total 2\n\
             # HELP rivven_mqtt_source_errors_total Total errors\n\
             # TYPE rivven_mqtt_source_errors_total counter\n\
             rivven_mqtt_source_errors_total 1\n\
             # HELP rivven_mqtt_source_receive_latency_avg_ms Average receive latency\n\
             # TYPE rivven_mqtt_source_receive_latency_avg_ms gauge\n\
             rivven_mqtt_source_receive_latency_avg_ms 1.235\n"
        );
    }

    #[test]
    fn a_parser_reads_the_text_whatever_the_prefix() {
        let snapshot = MqttSourceMetricsSnapshot { messages_received: 7, ..Default::default() };
        for (prefix, name) in [("rivven", "rivven"), ("my-app.1", "my_app_1"), ("9", "_9"), ("", "")] {
            let page = parse_prometheus(&snapshot.to_prometheus_format(prefix)).unwrap();
            assert_eq!(page.families.len(), FAMILIES.len());
            for (metric, kind, help) in FAMILIES {
                let family = &page.families[&format!("{name}_mqtt_source_{metric}")];
                assert_eq!((family.family_type.to_string().as_str(), family.help.as_str()), (kind, help));
                assert_eq!(family.iter_samples().count(), 1);
            }
            let received = &page.families[&format!("{name}_mqtt_source_messages_received_total")];
            assert_eq!(received.family_type, PrometheusType::Counter);
            let sample = received.iter_samples().next().unwrap();
            let PrometheusValue::Counter(counter) = &sample.value else { panic!("{sample:?}") };
            assert_eq!(counter.value.as_i64(), Some(7));
        }
    }
}
