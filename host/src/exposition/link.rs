//! The part of the page about connections that takes more labels than `source`.

use super::{Page, Sample, Series};
use crate::metrics::{LinkSnapshot, Subscription};

/// A family of connections: its name after `rivven_mqtt_`, its type, what it means, and the series of a source.
type Family = (&'static str, &'static str, &'static str, fn(&LinkSnapshot) -> Vec<Series<'_>>);

const FAMILIES: &[Family] = &[
    (
        "source_reconnects_total",
        "counter",
        "Connections and attempts to connect that failed, by reason; together they are source_errors_total",
        |link| link.reconnects.iter().map(|&(why, count)| (vec![("reason", why)], count as f64)).collect(),
    ),
    (
        "source_subscription_qos",
        "gauge",
        "QoS that a topic filter is granted with: 0, 1 or 2; -1 not subscribed at present, -2 refused or granted with less",
        |link| {
            let series = link.subscriptions.iter().map(|(filter, state)| {
                let value = match state {
                    Subscription::Granted(qos) => f64::from(*qos as u8),
                    Subscription::Unanswered => -1.0,
                    Subscription::Refused => -2.0,
                };
                (vec![("filter", filter.as_str())], value)
            });
            series.collect()
        },
    ),
];

pub(super) fn render(page: &mut Page, samples: &[Sample<'_>]) {
    for (name, kind, help, series) in FAMILIES {
        page.family(name, kind, help);
        for sample in samples {
            for (labels, value) in series(&sample.counts.link) {
                page.line(name, &[&[("source", sample.source)], &labels[..]].concat(), value);
            }
        }
    }
}
