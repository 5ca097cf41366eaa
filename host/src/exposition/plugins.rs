//! The part of the page about plugins: what they use of their limits, and what they report themselves.

use super::{Float, Page, Sample, Series};
use crate::plugin::{BUCKETS, PluginSample};

/// A family of plugins: its name after `rivven_mqtt_`, its type, what it means, and the series of a sample.
type Family = (&'static str, &'static str, &'static str, fn(&PluginSample) -> Vec<Series<'_>>);

const FAMILIES: &[Family] = &[
    ("plugin_info", "gauge", "1 for the component that runs, by its SHA-256", |plugin| {
        plugin.sha256.iter().map(|sha256| (vec![("sha256", &**sha256)], 1.0)).collect()
    }),
    (
        "plugin_loads_total",
        "counter",
        "Loads of a component at the start and by reloads; after an error the one before runs on",
        |plugin| {
            let (succeeded, failed) = plugin.loads;
            vec![(vec![("result", "ok")], succeeded as f64), (vec![("result", "error")], failed as f64)]
        },
    ),
    ("plugin_faults_total", "counter", "Calls of plugins that faulted, by kind", |plugin| {
        plugin.faults.iter().map(|&(kind, count)| (vec![("kind", kind)], count as f64)).collect()
    }),
    ("plugin_outputs_total", "counter", "Records that plugins made", |plugin| {
        vec![(vec![], plugin.outputs as f64)]
    }),
    (
        "plugin_limit",
        "gauge",
        "Limits of plugins, under their names and in the units of the configuration",
        |plugin| plugin.limits.iter().map(|limit| (vec![("limit", limit.name)], limit.limit)).collect(),
    ),
    (
        "plugin_limit_used",
        "gauge",
        "The most that was used of a limit; divide it by plugin_limit",
        |plugin| {
            let used =
                plugin.limits.iter().filter_map(|limit| Some((vec![("limit", limit.name)], limit.used?)));
            used.collect()
        },
    ),
    (
        "plugin_state_bytes",
        "gauge",
        "Bytes of the keys and values in the state of plugins, with 128 for each",
        |plugin| vec![(vec![], plugin.state_bytes as f64)],
    ),
    ("plugin_log_lines_dropped_total", "counter", "Log lines of plugins over their budget", |plugin| {
        vec![(vec![], plugin.log_lines_dropped as f64)]
    }),
    ("plugin_metrics_dropped_total", "counter", "Metric calls of plugins that were dropped", |plugin| {
        vec![(vec![], plugin.values_dropped as f64)]
    }),
];

pub(super) fn render(page: &mut Page, samples: &[Sample<'_>]) {
    let plugins = samples.iter().flat_map(|s| s.plugins.iter().map(|plugin| (s.source, plugin)));
    let plugins: Vec<_> = plugins.collect();
    if plugins.is_empty() {
        return;
    }
    for (name, kind, help, series) in FAMILIES {
        page.family(name, kind, help);
        for &(source, plugin) in &plugins {
            for (labels, value) in series(plugin) {
                page.line(name, &[&of(source, plugin), &labels[..]].concat(), value);
            }
        }
    }
    page.family("plugin_call_seconds", "summary", "Wall time of the calls of plugins since the start");
    for &(source, plugin) in &plugins {
        for (quantile, time) in [("0.5", plugin.p50), ("0.99", plugin.p99)] {
            let labels = [&of(source, plugin)[..], &[("quantile", quantile)]].concat();
            page.line("plugin_call_seconds", &labels, time.as_secs_f64());
        }
        page.line("plugin_call_seconds_sum", &of(source, plugin), plugin.time.as_secs_f64());
        page.line("plugin_call_seconds_count", &of(source, plugin), plugin.calls);
    }
    reported(page, &plugins);
}

/// The metrics of `rivven:connect/metrics`.
fn reported(page: &mut Page, plugins: &[(&str, &PluginSample)]) {
    page.family("plugin_counter_total", "counter", "Counters of plugins");
    for &(source, plugin) in plugins {
        for (name, value) in &plugin.values.counters {
            page.line("plugin_counter_total", &named(source, plugin, name), value);
        }
    }
    page.family("plugin_gauge", "gauge", "Gauges of plugins");
    for &(source, plugin) in plugins {
        for (name, value) in &plugin.values.gauges {
            page.line("plugin_gauge", &named(source, plugin, name), Float(*value));
        }
    }
    page.family("plugin_histogram", "histogram", "Histograms of plugins");
    for &(source, plugin) in plugins {
        for (name, histogram) in &plugin.values.histograms {
            let labels = named(source, plugin, name);
            let mut count = 0;
            for (bound, of_bucket) in BUCKETS.iter().zip(histogram.counts) {
                count += of_bucket;
                let bound = bound.to_string();
                page.line("plugin_histogram_bucket", &[&labels[..], &[("le", &*bound)]].concat(), count);
            }
            let all = [&labels[..], &[("le", "+Inf")]].concat();
            page.line("plugin_histogram_bucket", &all, histogram.count());
            page.line("plugin_histogram_sum", &labels, Float(histogram.sum));
            page.line("plugin_histogram_count", &labels, histogram.count());
        }
    }
}

/// The labels of every series of a plugin.
fn of<'a>(source: &'a str, plugin: &'a PluginSample) -> [(&'a str, &'a str); 2] {
    [("source", source), ("plugin", &plugin.name)]
}

fn named<'a>(source: &'a str, plugin: &'a PluginSample, name: &'a str) -> [(&'a str, &'a str); 3] {
    let [source, plugin] = of(source, plugin);
    [source, plugin, ("name", name)]
}
