//! The short form of each fault campaign. `make faults` runs them in full.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::campaign::{self, CAMPAIGNS, soak};
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::fault_proxy::{Fault, FaultProxy};
use rumqttc::QoS;
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Runs campaigns, side by side. Whatever seed found something is in the message.
async fn hold(names: &[&str]) {
    let seed = fastrand::u64(0..1_000_000);
    let runs = names.iter().map(|name| campaign::named(name).unwrap().run_short(seed));
    for row in futures_util::future::join_all(runs).await {
        assert!(row.held(), "{row}");
        assert!(row.published > 0, "nothing was published: {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_loses_nothing() {
    hold(&["host-killed", "host-killed-qos-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_host_loses_and_repeats_nothing() {
    hold(&["host-stopped", "host-stopped-qos-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_may_restart() {
    hold(&["broker-restarted", "broker-restarted-clean"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rivven_may_restart_or_not_answer() {
    hold(&["rivven-restarted", "rivven-frozen", "rivven-half-open", "rivven-black-hole"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_may_be_bad() {
    hold(&["mqtt-half-open", "mqtt-black-hole", "rivven-delay", "rivven-slow", "clock-set-back"]).await;
    hold(&["mqtt-cut", "mqtt-one-byte", "rivven-cut", "rivven-one-byte"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_of_qos_2_may_be_cut_anywhere() {
    hold(&["qos-2-handshake", "mqtt-delay", "mqtt-slow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_folder_may_take_nothing() {
    hold(&["state-dir-full", "state-dir-read-only"]).await;
}

/// Every campaign has a short form above.
#[test]
fn no_campaign_is_left_out() {
    let this = include_str!("faults.rs");
    for campaign in CAMPAIGNS {
        assert!(this.contains(&format!("\"{}\"", campaign.name)), "{} has no short form", campaign.name);
    }
}

/// Half a minute of the soak.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_lives_on() {
    let row = soak::run(Duration::from_secs(20), 7).await;
    assert!(row.held(), "{row}");
}

/// The proxy does to the bytes what its faults are called.
#[tokio::test(flavor = "multi_thread")]
async fn the_fault_proxy_does_what_it_says() {
    let broker = Broker::launch().await.unwrap();
    let proxy = FaultProxy::listen(broker.port()).await.unwrap();
    let mut subscriber = Client::connect(proxy.port(), "subscriber").await.unwrap();
    subscriber.subscribe("a", QoS::AtMostOnce).await.unwrap();
    // How long a message of so many bytes takes.
    let send = async |bytes: usize| {
        publish(broker.port(), QoS::AtLeastOnce, [Message::new("a", vec![b'x'; bytes])]).await.unwrap();
        Instant::now()
    };
    for (fault, bytes, least) in [
        (Fault::None, 10, Duration::ZERO),
        (Fault::Delay(Duration::from_millis(200)), 10, Duration::from_millis(100)),
        (Fault::OneByte, 5_000, Duration::ZERO),
        (Fault::Rate(10_000), 5_000, Duration::from_millis(200)),
    ] {
        proxy.set(fault);
        let sent = send(bytes).await;
        assert_eq!(subscriber.message(TIMEOUT).await.unwrap().payload.len(), bytes);
        assert!(sent.elapsed() >= least, "{fault:?} took {:?}", sent.elapsed());
    }

    proxy.set(Fault::BlackHole);
    send(10).await;
    subscriber.message(Duration::from_millis(300)).await.unwrap_err();
    tokio::time::timeout(Duration::from_millis(300), Client::connect(proxy.port(), "late"))
        .await
        .unwrap_err();
    // What was sent is not lost with it.
    proxy.set(Fault::None);
    assert_eq!(subscriber.message(TIMEOUT).await.unwrap().payload.len(), 10);

    proxy.half_open();
    send(10).await;
    subscriber.message(Duration::from_millis(300)).await.unwrap_err();
    let mut subscriber = Client::connect(proxy.port(), "another").await.unwrap();
    subscriber.subscribe("a", QoS::AtMostOnce).await.unwrap();
    send(11).await;
    assert_eq!(subscriber.message(TIMEOUT).await.unwrap().payload.len(), 11);

    proxy.cut_after(20);
    send(100).await;
    proxy.has_cut(TIMEOUT).await.unwrap();
    let error = subscriber.message(TIMEOUT).await.unwrap_err();
    assert!(format!("{error:#}").contains("inside a packet"), "{error:#}");
}
