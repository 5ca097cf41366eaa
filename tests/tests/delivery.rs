//! Nothing is lost when Rivven or the host stop. What is killed and restarted again and again is in `faults.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::config::{self, TOPIC};
use rivven_integration_tests::host::Host;
use rivven_integration_tests::rivven::{Record, Rivven};
use rivven_integration_tests::wait::{wait_for, wait_until};
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
const CLIENT: &str = "the-host";

fn numbered(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Message> + Send {
    numbers.map(|n| Message::new(format!("fleet/{}", n % 5), n.to_string()))
}

/// How often each number is there.
fn counts(records: &[Record]) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.text().parse().unwrap()).or_default() += 1;
    }
    counts
}

/// How many PUBACKs the broker has received from the host.
async fn pubacks(broker: &Broker) -> u64 {
    broker.logs().await.unwrap().matches(&format!("Received PUBACK from {CLIENT}")).count() as u64
}

/// Waits until every number is in Rivven, and returns how often each is.
async fn all_of(rivven: &Rivven, numbers: std::ops::Range<u64>) -> BTreeMap<u64, u64> {
    let wanted: BTreeSet<u64> = numbers.collect();
    let mut missing = wanted.clone();
    let found = wait_until("every message is in Rivven", TIMEOUT, async || {
        let found = counts(&rivven.consume_all(TOPIC).await.ok()?);
        missing = wanted.iter().filter(|n| !found.contains_key(n)).copied().collect();
        missing.is_empty().then_some(found)
    });
    match found.await {
        Ok(found) => found,
        Err(error) => panic!("{error}: {} are missing, first {:?}", missing.len(), missing.first()),
    }
}

fn persistent_source(broker: &Broker) -> Value {
    let mut source = config::source(&broker.url(), &["fleet/#"]);
    config::persistent(&mut source, CLIENT);
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rivven_nothing_is_acknowledged_and_later_everything_arrives() {
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let mut rivven = Rivven::reserve().unwrap();
    let mut host = Host::start(&config::with_source(&rivven, persistent_source(&broker))).unwrap();
    host.wait_for_log("subscribed", TIMEOUT).await.unwrap();
    let reason = host.not_ready("sink").await.unwrap();
    assert!(!reason.contains("mqtt:"), "the broker is well: {reason}");

    publish(broker.port(), QoS::AtLeastOnce, numbered(0..300)).await.unwrap();
    let ledger =
        host.wait_for_ledger("all are received", TIMEOUT, |ledger| ledger.received == 300).await.unwrap();
    assert_eq!(ledger.in_flight, 300);
    assert_eq!(host.get("/health").await.unwrap().status, 200);
    assert_eq!(pubacks(&broker).await, 0);

    rivven.start().await.unwrap();
    host.ready().await.unwrap();
    let found = all_of(&rivven, 0..300).await;
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    host.wait_for_ledger("all are settled", TIMEOUT, |ledger| ledger.committed == 300).await.unwrap();
    wait_for("the broker has 300 PUBACKs", TIMEOUT, async || pubacks(&broker).await == 300).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_rivven_loses_nothing() {
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let mut rivven = Rivven::launch().await.unwrap();
    let mut host = Host::start(&config::with_source(&rivven, persistent_source(&broker))).unwrap();
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, numbered(0..100)).await.unwrap();
    host.wait_for_ledger("the first are committed", TIMEOUT, |ledger| ledger.committed == 100).await.unwrap();

    rivven.stop().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, numbered(100..400)).await.unwrap();
    host.not_ready("sink").await.unwrap();
    let ledger =
        host.wait_for_ledger("all are received", TIMEOUT, |ledger| ledger.received == 400).await.unwrap();
    assert_eq!((ledger.committed, ledger.in_flight), (100, 300));

    rivven.start().await.unwrap();
    host.ready().await.unwrap();
    all_of(&rivven, 0..400).await;
    let ledger =
        host.wait_for_ledger("all are settled", TIMEOUT, |ledger| ledger.in_flight == 0).await.unwrap();
    assert_eq!(ledger.committed, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_rivven_pauses_the_broker_at_the_window() {
    const WINDOW: u64 = 100;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = persistent_source(&broker);
    source["config"]["max_inflight"] = WINDOW.into();
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    host.ready().await.unwrap();

    rivven.freeze().unwrap();
    publish(broker.port(), QoS::AtLeastOnce, numbered(0..1_000)).await.unwrap();
    let ledger = host
        .wait_for_ledger("the window is full", TIMEOUT, |ledger| ledger.in_flight >= WINDOW)
        .await
        .unwrap();
    assert_eq!((ledger.received, ledger.committed), (WINDOW, 0));
    rivven.thaw().unwrap();
    all_of(&rivven, 0..1_000).await;
    let ledger =
        host.wait_for_ledger("all are settled", TIMEOUT, |ledger| ledger.in_flight == 0).await.unwrap();
    assert_eq!(ledger.committed, 1_000);
}

/// A source with a last will, and a subscriber that would see it.
async fn with_will(broker: &Broker) -> (Value, Client) {
    let mut source = persistent_source(broker);
    source["config"]["last_will"] = json!({ "topic": "wills", "payload": "died" });
    let mut witness = Client::connect(broker.port(), "witness").await.unwrap();
    witness.subscribe("wills", QoS::AtLeastOnce).await.unwrap();
    (source, witness)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_disconnects_so_that_the_will_does_not_fire() {
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let (source, mut witness) = with_will(&broker).await;
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, numbered(0..3_000)).await.unwrap();
    host.wait_for_ledger("it is at work", TIMEOUT, |ledger| ledger.received > 0).await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));

    // Whatever was taken is settled, and in Rivven exactly once: nothing broke.
    let ledger = host.final_ledger().unwrap();
    assert_eq!(ledger.in_flight, 0);
    assert_eq!(rivven.count(TOPIC).await.unwrap(), ledger.committed);
    // Had the will fired, it would come before this.
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("wills", "still here")]).await.unwrap();
    assert_eq!(witness.message(TIMEOUT).await.unwrap().payload, "still here");

    // What was not taken waits in the session.
    host.restart().unwrap();
    let found = all_of(&rivven, 0..3_000).await;
    assert!(found.values().all(|count| *count == 1), "a clean drain repeats nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_grace_ends_messages_stay_with_the_broker() {
    let broker = Broker::launch().await.unwrap();
    let mut rivven = Rivven::reserve().unwrap();
    let mut config = config::with_source(&rivven, persistent_source(&broker));
    config["settings"]["shutdown_grace_ms"] = 200.into();
    let mut host = Host::start(&config).unwrap();
    host.wait_for_log("subscribed", TIMEOUT).await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, numbered(0..10)).await.unwrap();
    host.wait_for_ledger("all are received", TIMEOUT, |ledger| ledger.received == 10).await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(1));
    assert_eq!(host.final_ledger().unwrap().in_flight, 10);

    rivven.start().await.unwrap();
    host.restart().unwrap();
    let found = all_of(&rivven, 0..10).await;
    assert!(found.values().all(|count| *count == 1), "{found:?}");
}
