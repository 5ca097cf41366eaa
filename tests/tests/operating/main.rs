//! What somebody on call relies on: each event is counted, `/ready` names each state, the alerts and the page about operating
//! are true, and the state folder is one host's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alerts;
mod events;
mod readiness;
mod state;

use std::time::Duration;

use rivven_integration_tests::config::{self, SOURCE};
use rivven_integration_tests::host::Host;
use rivven_integration_tests::http::Metrics;
use rivven_integration_tests::wait::wait_until;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A source with some keys set.
fn with(url: &str, keys: Value) -> Value {
    let mut source = config::source(url, &["a/#"]);
    for (key, value) in keys.as_object().unwrap() {
        source["config"][key] = value.clone();
    }
    source
}

/// A host with one source whose records go nowhere.
fn start(source: Value) -> Host {
    Host::start_with(&config::without_rivven(source), &["--sink", "discard", "--log-level", "debug"]).unwrap()
}

/// The value of a metric of [`SOURCE`], with more labels as they are written.
fn of_source(metrics: &Metrics, name: &str, labels: &str) -> Option<f64> {
    let labels = if labels.is_empty() { String::new() } else { format!(",{labels}") };
    metrics.0.get(&format!("rivven_mqtt_source_{name}{{source=\"{SOURCE}\"{labels}}}")).copied()
}

/// Waits for a scrape of which `condition` is true.
async fn scrape(host: &Host, what: &str, condition: impl Fn(&Metrics) -> bool) -> Metrics {
    let mut last = None;
    let found = wait_until(what, TIMEOUT, async || {
        let metrics = host.metrics().await.ok()?;
        let found = condition(&metrics).then(|| metrics.clone());
        last = Some(metrics);
        found
    });
    let found = found.await;
    found.unwrap_or_else(|error| panic!("{error:#}; the last scrape: {last:#?}"))
}

/// Waits until a metric of the source has this value.
async fn reaches(host: &Host, name: &str, labels: &str, value: f64) -> Metrics {
    let what = format!("{name}{{{labels}}} is {value}");
    scrape(host, &what, |metrics| of_source(metrics, name, labels) == Some(value)).await
}

/// A client whose session stays.
fn persistent() -> Value {
    json!({ "client_id": "me", "clean_session": false })
}
