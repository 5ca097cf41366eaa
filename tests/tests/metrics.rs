//! What an operator sees over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, SOURCE};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::http::Ledger;
use rumqttc::QoS;
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_equation_balances_in_every_scrape_under_load() {
    const COUNT: u64 = 20_000;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#"]);
    source["config"]["client_id"] = "counts".into();
    config::plugin(&mut source, &guests::example("filter").unwrap(), json!({ "threshold": 50 }));
    source["plugin"]["workers"] = 2.into();
    let mut host = Host::start_with(&config::without_rivven(source), &["--sink", "file:out.jsonl"]).unwrap();
    host.ready().await.unwrap();
    let port = broker.port();
    let message = |n: u64| Message::new(format!("a/{}", n % 10), format!(r#"{{"value":{}}}"#, n % 100));
    let publisher =
        tokio::spawn(async move { publish(port, QoS::AtLeastOnce, (0..COUNT).map(message)).await });
    // Each look at the ledger fails when it does not balance.
    let done = |ledger: &Ledger| ledger.received == COUNT && ledger.in_flight == 0;
    let ledger = host.wait_for_ledger("all are settled", TIMEOUT, done).await.unwrap();
    publisher.await.unwrap().unwrap();
    let expected =
        Ledger { received: COUNT, committed: COUNT / 2, dropped: COUNT / 2, dead_lettered: 0, in_flight: 0 };
    assert_eq!(ledger, expected);

    let metrics = host.metrics().await.unwrap();
    let sum = |name: &str| metrics.sum(&format!("rivven_mqtt_source_{name}")).unwrap();
    assert_eq!(sum("records_written_total"), COUNT / 2);
    assert_eq!((sum("connections_total"), sum("ready"), sum("plugin_faults_total")), (1, 1, 0));
    assert!(sum("bytes_received_total") > COUNT * 10);
    assert!((1..=COUNT).contains(&sum("batches_total")));
    for series in metrics.0.keys().filter(|series| series.starts_with("rivven_mqtt_source_")) {
        assert!(series.contains(&format!(r#"source="{SOURCE}""#)), "{series} has no source");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_say_what_they_mean() {
    let mut broker = Broker::launch().await.unwrap();
    let config = config::without_rivven(config::source(&broker.url(), &["a"]));
    let mut host = Host::start_with(&config, &["--sink", "discard"]).unwrap();
    host.ready().await.unwrap();
    let metrics = host.get("/metrics").await.unwrap();
    assert!(
        metrics.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"),
        "{}",
        metrics.head
    );

    broker.stop().await.unwrap();
    let reason = host.not_ready("mqtt: ").await.unwrap();
    assert!(reason.contains(SOURCE), "{reason}");
    assert_eq!(reason.lines().count(), 1, "one line for each reason: {reason}");
    assert_eq!(host.get("/health").await.unwrap().status, 200);
    assert_eq!(host.metrics().await.unwrap().sum("rivven_mqtt_source_ready").unwrap(), 0);

    broker.start().await.unwrap();
    host.ready().await.unwrap();
    let metrics = host.metrics().await.unwrap();
    assert_eq!(metrics.sum("rivven_mqtt_source_connections_total").unwrap(), 2);
    assert!(metrics.sum("rivven_mqtt_source_disconnections_total").unwrap() >= 1);
    assert_eq!(host.get("/nothing").await.unwrap().status, 404);
}
