//! `/metrics`: the Prometheus text format, version 0.0.4.
//!
//! Written here and not by a registry of shared counters, because the counts of a source have to be of one moment, or the loss
//! equation would not balance in a scrape.

mod link;
mod plugins;

use std::fmt::{Display, Write};

use crate::metrics::Snapshot;
use crate::plugin::PluginSample;
use crate::sink::SinkSample;

/// What `Content-Type` says of a [`render`]ed page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What one source has counted at one moment.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    /// The source's name.
    pub source: &'a str,
    /// Its counts.
    pub counts: Snapshot,
    /// Whether it is ready.
    pub ready: bool,
    /// What its plugins have used and reported.
    pub plugins: Vec<PluginSample>,
}

/// One series: its labels beside `source`, and its value.
type Series<'a> = (Vec<(&'a str, &'a str)>, f64);

/// A metric of every source: its name after `rivven_mqtt_`, its type, what it means, and where it is in a sample.
type Family = (&'static str, &'static str, &'static str, fn(&Sample<'_>) -> f64);

const FAMILIES: &[Family] = &[
    (
        "source_messages_received_total",
        "counter",
        "Messages that entered the host; a redelivery counts again, a suppressed QoS 2 duplicate does not",
        |s| s.counts.ledger.received as f64,
    ),
    (
        "source_bytes_received_total",
        "counter",
        "Bytes of the topics and payloads of received messages",
        |s| s.counts.ledger.received_bytes as f64,
    ),
    ("source_messages_committed_total", "counter", "Messages of which all records are committed", |s| {
        s.counts.ledger.settled.committed as f64
    }),
    ("source_messages_dropped_total", "counter", "Messages that were dropped on purpose", |s| {
        s.counts.ledger.settled.dropped as f64
    }),
    ("source_messages_dead_lettered_total", "counter", "Messages whose dead letter is committed", |s| {
        s.counts.ledger.settled.dead_lettered as f64
    }),
    ("source_messages_in_flight", "gauge", "Messages received and not settled", |s| {
        s.counts.ledger.in_flight() as f64
    }),
    (
        "source_ready",
        "gauge",
        "1 when the source has its subscriptions, its plugin and its sink, else 0",
        |s| f64::from(u8::from(s.ready)),
    ),
    ("source_connections_total", "counter", "Connections that the MQTT broker accepted", |s| {
        s.counts.mqtt.connections as f64
    }),
    ("source_disconnections_total", "counter", "Accepted connections to the MQTT broker that ended", |s| {
        s.counts.mqtt.disconnections as f64
    }),
    (
        "source_errors_total",
        "counter",
        "Connection attempts and connections that failed, malformed packets",
        |s| s.counts.mqtt.errors as f64,
    ),
    (
        "source_duplicates_suppressed_total",
        "counter",
        "QoS 2 messages that arrived again and were not processed twice",
        |s| s.counts.duplicates_suppressed as f64,
    ),
    ("source_redeliveries_total", "counter", "Messages with the DUP flag that were processed", |s| {
        s.counts.redeliveries as f64
    }),
    ("source_oversized_total", "counter", "Packets greater than max_packet_size", |s| {
        s.counts.oversized as f64
    }),
    (
        "source_receive_latency_seconds_total",
        "counter",
        "Seconds from the last byte of a packet to the hand-over of its message, summed over messages",
        |s| s.counts.mqtt.receive_latency_us as f64 / 1e6,
    ),
    (
        "source_receive_latency_avg_ms",
        "gauge",
        "The same in milliseconds, as an average over all messages",
        |s| s.counts.mqtt.avg_receive_latency_ms(),
    ),
    ("source_batches_total", "counter", "Batches handed to plugin workers", |s| {
        s.counts.mqtt.batch_count as f64
    }),
    ("source_batch_messages_total", "counter", "Messages of these batches", |s| {
        s.counts.mqtt.batch_size_sum as f64
    }),
    ("source_batch_size_min", "gauge", "Messages of the smallest batch; 0 if there was none", |s| {
        s.counts.mqtt.batch_size_min as f64
    }),
    ("source_batch_size_max", "gauge", "Messages of the greatest batch", |s| {
        s.counts.mqtt.batch_size_max as f64
    }),
    (
        "source_plugin_faults_total",
        "counter",
        "Calls of the plugin that trapped, exceeded a limit or broke its contract",
        |s| s.counts.plugin_faults as f64,
    ),
    ("source_quarantined", "gauge", "1 while a plugin is in quarantine because it faults too often", |s| {
        s.counts.quarantined as f64
    }),
    ("source_plugin_seconds_total", "counter", "Seconds spent in the plugin", |s| s.counts.plugin_seconds),
    (
        "source_records_written_total",
        "counter",
        "Records that the sink has committed, dead letters included",
        |s| s.counts.records_written as f64,
    ),
    ("source_sink_retries_total", "counter", "Records that the sink had to write again", |s| {
        s.counts.sink_retries as f64
    }),
    (
        "source_last_commit_timestamp_seconds",
        "gauge",
        "When a message was last committed or dead-lettered, in seconds since the Unix epoch; 0 before the first",
        |s| s.counts.last_commit,
    ),
    (
        "source_oldest_unacknowledged_seconds",
        "gauge",
        "How long the oldest message has been in the host that is not acknowledged; 0 if there is none",
        |s| s.counts.link.oldest.as_secs_f64(),
    ),
    (
        "source_unacknowledged",
        "gauge",
        "Messages of the present connection that are not acknowledged: unsettled, or behind one that is",
        |s| s.counts.link.unacknowledged as f64,
    ),
    ("source_window_messages", "gauge", "Messages that may be in flight: max_inflight", |s| {
        s.counts.link.window as f64
    }),
    ("source_in_flight_bytes", "gauge", "Bytes of the topics and payloads in flight", |s| {
        s.counts.link.in_flight_bytes as f64
    }),
    (
        "source_store_failures_total",
        "counter",
        "Times that the state of a persistent session could not be made durable",
        |s| s.counts.store_failures as f64,
    ),
];

/// A metric of the sink of all sources.
type OfSink = (&'static str, &'static str, &'static str, fn(SinkSample) -> u64);

const OF_SINK: &[OfSink] = &[
    ("sink_connections", "gauge", "Open connections to Rivven", |sink| sink.connections),
    (
        "sink_failing",
        "gauge",
        "Parts of the sink whose last attempt failed: writers to Rivven and topics that are not there yet, or the output",
        |sink| sink.failing,
    ),
    ("sink_failures_total", "counter", "Attempts of the sink that failed and are made again", |sink| {
        sink.failures
    }),
];

/// The page for these sources and the sink of all of them.
pub fn render(samples: &[Sample<'_>], sink: SinkSample) -> String {
    let mut page = Page::default();
    for (name, kind, help, value) in FAMILIES {
        page.family(name, kind, help);
        for sample in samples {
            page.line(name, &[("source", sample.source)], value(sample));
        }
    }
    link::render(&mut page, samples);
    plugins::render(&mut page, samples);
    for (name, kind, help, value) in OF_SINK {
        page.family(name, kind, help);
        page.line(name, &[], value(sink));
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = write!(self.0, "# HELP rivven_mqtt_{name} {help}\n# TYPE rivven_mqtt_{name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "rivven_mqtt_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A number as the format has it: `NaN`, `+Inf`, `-Inf`.
struct Float(f64);

impl Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            value if value == f64::INFINITY => f.write_str("+Inf"),
            value if value == f64::NEG_INFINITY => f.write_str("-Inf"),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use openmetrics_parser::PrometheusType;
    use openmetrics_parser::prometheus::parse_prometheus;

    use super::*;
    use crate::config::Limits;
    use crate::message::{QoS, Tally};
    use crate::metrics::{Ledger, LinkSnapshot, MqttSourceMetricsSnapshot, Subscription};
    use crate::plugin::{BUCKETS, Histogram, PluginHost};

    /// Has the page read by a parser of the format, and returns its series by name and labels.
    pub(crate) fn parse(page: &str) -> BTreeMap<String, f64> {
        let parsed = parse_prometheus(page).unwrap_or_else(|error| panic!("{error}\n{page}"));
        for (name, family) in &parsed.families {
            assert!(!family.help.is_empty(), "{name} has no HELP");
            assert_eq!(family.family_type == PrometheusType::Counter, name.ends_with("_total"), "{name}");
        }
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                (series.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_page_is_valid_and_complete() {
        let settled = Tally { committed: 5, dropped: 3, dead_lettered: 1 };
        let counts = Snapshot {
            ledger: Ledger { received: 10, received_bytes: 1 << 40, settled },
            mqtt: MqttSourceMetricsSnapshot {
                messages_received: 10,
                connections: 3,
                receive_latency_us: 2_500_000,
                batch_size_min: 1,
                batch_size_max: 6,
                batch_size_sum: 10,
                batch_count: 4,
                ..MqttSourceMetricsSnapshot::default()
            },
            link: LinkSnapshot {
                reconnects: vec![("login", 2), ("ping", 0)],
                subscriptions: vec![
                    ("x/#".into(), Subscription::Granted(QoS::ExactlyOnce)),
                    ("y".into(), Subscription::Refused),
                    ("z \"".into(), Subscription::Unanswered),
                ],
                window: 1_000,
                unacknowledged: 20,
                in_flight_bytes: 300,
                oldest: Duration::from_millis(1_500),
            },
            plugin_seconds: 0.25,
            sink_retries: 7,
            quarantined: 1,
            last_commit: 1_764_403_200.5,
            store_failures: 1,
            ..Snapshot::default()
        };
        let host = PluginHost::named("a", "p", &Limits { memory: 3 << 20, ..Limits::default() });
        let mut plugin = host.sample();
        (plugin.values_dropped, plugin.state_bytes) = (9, 77);
        (plugin.sha256, plugin.loads) = (Some("ab12".into()), (3, 1));
        (plugin.p99, plugin.faults[1].1) = (Duration::from_millis(250), 2);
        plugin.limits[0].used = Some(1.5);
        let values = &mut plugin.values;
        values.counters.insert("seen".into(), u64::MAX);
        values.gauges.insert("level".into(), f64::INFINITY);
        let mut histogram = Histogram { sum: 2.5, ..Histogram::default() };
        (histogram.counts[0], histogram.counts[3], histogram.counts[BUCKETS.len()]) = (1, 2, 4);
        values.histograms.insert("size".into(), histogram);
        let sink = SinkSample { connections: 4, failing: 2, failures: 8 };
        let samples = [
            Sample { source: "a", counts, ready: true, plugins: vec![plugin] },
            Sample { source: "b", counts: Snapshot::default(), ready: false, plugins: vec![] },
        ];
        let page = render(&samples, sink);
        let series = parse(&page);
        for (name, expected) in [
            ("source_messages_received_total{source=\"a\"}", 10.0),
            ("source_messages_received_total{source=\"b\"}", 0.0),
            ("source_bytes_received_total{source=\"a\"}", (1u64 << 40) as f64),
            ("source_messages_committed_total{source=\"a\"}", 5.0),
            ("source_messages_dropped_total{source=\"a\"}", 3.0),
            ("source_messages_dead_lettered_total{source=\"a\"}", 1.0),
            ("source_messages_in_flight{source=\"a\"}", 1.0),
            ("source_ready{source=\"a\"}", 1.0),
            ("source_connections_total{source=\"a\"}", 3.0),
            ("source_receive_latency_seconds_total{source=\"a\"}", 2.5),
            ("source_receive_latency_avg_ms{source=\"a\"}", 250.0),
            ("source_batches_total{source=\"a\"}", 4.0),
            ("source_batch_messages_total{source=\"a\"}", 10.0),
            ("source_batch_size_min{source=\"a\"}", 1.0),
            ("source_batch_size_max{source=\"a\"}", 6.0),
            ("source_plugin_seconds_total{source=\"a\"}", 0.25),
            ("source_sink_retries_total{source=\"a\"}", 7.0),
            ("source_last_commit_timestamp_seconds{source=\"a\"}", 1_764_403_200.5),
            ("source_last_commit_timestamp_seconds{source=\"b\"}", 0.0),
            ("source_oldest_unacknowledged_seconds{source=\"a\"}", 1.5),
            ("source_unacknowledged{source=\"a\"}", 20.0),
            ("source_window_messages{source=\"a\"}", 1_000.0),
            ("source_in_flight_bytes{source=\"a\"}", 300.0),
            ("source_store_failures_total{source=\"a\"}", 1.0),
            ("source_reconnects_total{source=\"a\",reason=\"login\"}", 2.0),
            ("source_reconnects_total{source=\"a\",reason=\"ping\"}", 0.0),
            ("source_subscription_qos{source=\"a\",filter=\"x/#\"}", 2.0),
            ("source_subscription_qos{source=\"a\",filter=\"y\"}", -2.0),
            ("source_subscription_qos{source=\"a\",filter=\"z \\\"\"}", -1.0),
            ("sink_connections", 4.0),
            ("sink_failing", 2.0),
            ("sink_failures_total", 8.0),
            ("plugin_counter_total{source=\"a\",plugin=\"p\",name=\"seen\"}", u64::MAX as f64),
            ("plugin_gauge{source=\"a\",plugin=\"p\",name=\"level\"}", f64::INFINITY),
            ("plugin_histogram_bucket{source=\"a\",plugin=\"p\",name=\"size\",le=\"0.001\"}", 1.0),
            ("plugin_histogram_bucket{source=\"a\",plugin=\"p\",name=\"size\",le=\"10000\"}", 3.0),
            ("plugin_histogram_bucket{source=\"a\",plugin=\"p\",name=\"size\",le=\"+Inf\"}", 7.0),
            ("plugin_histogram_count{source=\"a\",plugin=\"p\",name=\"size\"}", 7.0),
            ("plugin_histogram_sum{source=\"a\",plugin=\"p\",name=\"size\"}", 2.5),
            ("plugin_metrics_dropped_total{source=\"a\",plugin=\"p\"}", 9.0),
            ("plugin_faults_total{source=\"a\",plugin=\"p\",kind=\"deadline\"}", 2.0),
            ("plugin_faults_total{source=\"a\",plugin=\"p\",kind=\"trap\"}", 0.0),
            ("plugin_call_seconds{source=\"a\",plugin=\"p\",quantile=\"0.99\"}", 0.25),
            ("plugin_call_seconds_count{source=\"a\",plugin=\"p\"}", 0.0),
            ("plugin_info{source=\"a\",plugin=\"p\",sha256=\"ab12\"}", 1.0),
            ("plugin_loads_total{source=\"a\",plugin=\"p\",result=\"ok\"}", 3.0),
            ("plugin_loads_total{source=\"a\",plugin=\"p\",result=\"error\"}", 1.0),
            ("source_quarantined{source=\"a\"}", 1.0),
            ("plugin_limit{source=\"a\",plugin=\"p\",limit=\"memory_mb\"}", 3.0),
            ("plugin_limit_used{source=\"a\",plugin=\"p\",limit=\"memory_mb\"}", 1.5),
            ("plugin_limit{source=\"a\",plugin=\"p\",limit=\"stack_kb\"}", 512.0),
            ("plugin_state_bytes{source=\"a\",plugin=\"p\"}", 77.0),
        ] {
            assert_eq!(series.get(&format!("rivven_mqtt_{name}")), Some(&expected), "{name} in\n{page}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let sample = Sample { source: "a\"\\\n", counts: Snapshot::default(), ready: true, plugins: vec![] };
        let page = render(&[sample], SinkSample::default());
        assert!(page.contains("source_ready{source=\"a\\\"\\\\\\n\"} 1\n"), "{page}");
    }
}
