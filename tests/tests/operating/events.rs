//! Each event is made to happen, and read from `/metrics`.

use std::time::{SystemTime, UNIX_EPOCH};

use rivven_integration_tests::config;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::http::Metrics;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;
use rumqttc::v5::mqttbytes::v5::{Disconnect, DisconnectReasonCode, Packet};
use rumqttc::{ConnectReturnCode, QoS, SubscribeReasonCode};
use serde_json::{Value, json};

use crate::{TIMEOUT, of_source, persistent, reaches, scrape, start, with};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_rivven_is_shown_until_it_is_committed() {
    let broker = Scripted::listen().await.unwrap();
    let mut rivven = Rivven::reserve().unwrap();
    let source = with(&broker.url(), json!({ "max_inflight": 50 }));
    let host = Host::start(&config::with_source(&rivven, source)).unwrap();
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish_many(QoS::AtLeastOnce, 3, "a/1", b"1234567").await.unwrap();

    let waiting = reaches(&host, "unacknowledged", "", 3.0).await;
    let value = |metrics: &Metrics, name: &str| of_source(metrics, name, "").unwrap();
    assert_eq!(value(&waiting, "messages_in_flight"), 3.0);
    assert_eq!(value(&waiting, "in_flight_bytes"), 30.0);
    assert_eq!(value(&waiting, "window_messages"), 50.0);
    assert_eq!(value(&waiting, "last_commit_timestamp_seconds"), 0.0);
    let age = value(&waiting, "oldest_unacknowledged_seconds");
    assert!((0.0..30.0).contains(&age), "{age}");
    // It is the age at the scrape, though nothing happens in the source.
    scrape(&host, "it grows older", |metrics| value(metrics, "oldest_unacknowledged_seconds") > age + 0.05)
        .await;
    let failing =
        scrape(&host, "the sink fails", |metrics| metrics.0["rivven_mqtt_sink_failing"] > 0.0).await;
    assert!(failing.0["rivven_mqtt_sink_failures_total"] > 0.0);
    assert_eq!(failing.0["rivven_mqtt_sink_connections"], 0.0);
    let status: Value = serde_json::from_str(&host.get("/status").await.unwrap().body).unwrap();
    assert!(status["sources"][0]["oldest_unacknowledged_seconds"].as_f64().unwrap() > age, "{status:#}");
    assert_eq!(status["sources"][0]["subscriptions"], json!({ "a/#": 1 }));

    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    rivven.start().await.unwrap();
    for id in 1..=3 {
        session.puback(id).await.unwrap();
    }
    let done = reaches(&host, "unacknowledged", "", 0.0).await;
    assert_eq!(value(&done, "messages_in_flight"), 0.0);
    assert_eq!(value(&done, "in_flight_bytes"), 0.0);
    assert_eq!(value(&done, "oldest_unacknowledged_seconds"), 0.0);
    let committed = value(&done, "last_commit_timestamp_seconds");
    assert!(committed >= before && committed < before + 60.0, "{committed} after {before}");
    let works = |metrics: &Metrics| metrics.0["rivven_mqtt_sink_failing"] == 0.0;
    let works = scrape(&host, "the sink works", works).await;
    assert!(works.0["rivven_mqtt_sink_connections"] >= 1.0, "{works:?}");
    rivven.stop().await.unwrap();
    session.publish(QoS::AtLeastOnce, 9, "a/1", b"1").await.unwrap();
    let failures = works.0["rivven_mqtt_sink_failures_total"];
    let again = |metrics: &Metrics| metrics.0["rivven_mqtt_sink_failures_total"] > failures;
    scrape(&host, "the sink fails again", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redeliveries_duplicates_and_oversized_packets_are_counted() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = with(&broker.url(), persistent());
    source["config"]["qos"] = "exactly_once".into();
    source["config"]["max_packet_size"] = 1024.into();
    let host = start(source);
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.redeliver(QoS::AtLeastOnce, 1, "a/1", b"again").await.unwrap();
    session.puback(1).await.unwrap();
    session.publish(QoS::ExactlyOnce, 2, "a/1", b"once").await.unwrap();
    session.pubrec(2).await.unwrap();
    session.redeliver(QoS::ExactlyOnce, 2, "a/1", b"once").await.unwrap();
    session.pubrec(2).await.unwrap();
    session.publish(QoS::AtLeastOnce, 3, "a/big", &[7; 2000]).await.unwrap();
    session.puback(3).await.unwrap();
    let metrics = reaches(&host, "messages_dead_lettered_total", "", 1.0).await;
    for (name, expected) in [
        ("redeliveries_total", 1.0),
        ("duplicates_suppressed_total", 1.0),
        ("oversized_total", 1.0),
        ("messages_received_total", 3.0),
        ("messages_committed_total", 2.0),
    ] {
        assert_eq!(of_source(&metrics, name, ""), Some(expected), "{name}");
    }
    for line in [
        "redelivered (DUP), processed again source=\"iot\" messages=1",
        "a QoS 2 message came again, not processed again source=\"iot\" packet_id=2",
        "skipped an oversized packet source=\"iot\" topic=\"a/big\"",
    ] {
        host.wait_for_log(line, TIMEOUT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnects_are_counted_by_reason_and_subscriptions_shown_by_filter() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = with(&broker.url(), json!({}));
    source["config"]["topics"] = json!(["a/#", "b/+"]);
    let host = start(source);
    let filters = |metrics: &Metrics| {
        ["a/#", "b/+"].map(|filter| of_source(metrics, "subscription_qos", &format!("filter=\"{filter}\"")))
    };
    let failed = async |reason: &str, count: u32| {
        let label = format!("reason=\"{reason}\"");
        let metrics = reaches(&host, "reconnects_total", &label, count.into()).await;
        assert_eq!(
            metrics.sum("rivven_mqtt_source_reconnects_total").unwrap(),
            metrics.sum("rivven_mqtt_source_errors_total").unwrap(),
        );
        metrics
    };

    let (mut session, _) = broker.accept().await.unwrap();
    let starting = reaches(&host, "errors_total", "", 0.0).await;
    assert_eq!(filters(&starting), [Some(-1.0); 2]);
    session.connack(false, ConnectReturnCode::BadUserNamePassword).await.unwrap();
    failed("login", 1).await;
    let (mut session, _) = broker.accept().await.unwrap();
    session.connack(false, ConnectReturnCode::ServiceUnavailable).await.unwrap();
    failed("refused", 1).await;

    let (mut session, _) = broker.accept().await.unwrap();
    session.connack(false, ConnectReturnCode::Success).await.unwrap();
    let subscribe = session.subscribe().await.unwrap();
    let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce), SubscribeReasonCode::Failure];
    session.suback(&subscribe, codes).await.unwrap();
    let refused = failed("subscription", 1).await;
    assert_eq!(filters(&refused), [Some(-1.0), Some(-2.0)]);
    host.not_ready("subscription to `b/+`").await.unwrap();
    let status: Value = serde_json::from_str(&host.get("/status").await.unwrap().body).unwrap();
    assert_eq!(status["sources"][0]["subscriptions"], json!({ "a/#": null, "b/+": "refused" }));
    assert_eq!(status["sources"][0]["reconnects"]["login"], 1, "{status:#}");

    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    let granted = reaches(&host, "ready", "", 1.0).await;
    assert_eq!(filters(&granted), [Some(1.0); 2]);
    // No packet has this type (section 2.2.1).
    session.raw(&[0xf0, 0]).await.unwrap();
    let malformed = failed("protocol", 1).await;
    assert_eq!(filters(&malformed), [Some(-1.0); 2]);

    // Closed without a word: the third time in a row somebody else is suspected.
    for round in 1..=2 {
        let (session, ..) = broker.accept_fresh().await.unwrap();
        reaches(&host, "ready", "", 1.0).await;
        drop(session);
        failed("closed", round).await;
    }
    let (session, ..) = broker.accept_fresh().await.unwrap();
    reaches(&host, "ready", "", 1.0).await;
    drop(session);
    failed("flapping", 1).await;
    drop(broker);
    scrape(&host, "nothing listens", |metrics| {
        of_source(metrics, "reconnects_total", "reason=\"connect\"") > Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_taken_over_is_counted_and_one_that_is_resumed_shows_its_subscriptions() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(with(&broker.url(), json!({ "mqtt_version": "5.0" })));
    let (mut session, _) = Session5::accept_fresh(&broker).await.unwrap();
    reaches(&host, "ready", "", 1.0).await;
    session.send(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::SessionTakenOver))).await.unwrap();
    reaches(&host, "reconnects_total", "reason=\"taken_over\"", 1.0).await;
    // The next connection is not answered, so that the reason stays.
    host.not_ready("another client connected with the client id").await.unwrap();
    host.wait_for_log("took the session over", TIMEOUT).await.unwrap();

    let broker = Scripted::listen().await.unwrap();
    let host = start(with(&broker.url(), persistent()));
    let (session, ..) = broker.accept_fresh().await.unwrap();
    reaches(&host, "subscription_qos", "filter=\"a/#\"", 1.0).await;
    // Stored, or the next connection would subscribe again.
    reaches(&host, "ready", "", 1.0).await;
    drop(session);
    reaches(&host, "subscription_qos", "filter=\"a/#\"", -1.0).await;
    let (_session, _) = broker.accept_resumed().await.unwrap();
    reaches(&host, "subscription_qos", "filter=\"a/#\"", 1.0).await;
}
