//! The driver against a scripted broker on a real socket.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tempfile::tempdir;

use super::epoch_nanos;
use super::testing::*;
use crate::config::Version;
use crate::error::{MqttError, chain};
use crate::message::{QoS, Tally, Work};

/// A persistent session at QoS 2 with its state in `folder`.
fn start_persistent(port: u16, folder: &std::path::Path) -> Running {
    let mut settings = settings(port);
    settings.clean_session = false;
    settings.qos = QoS::ExactlyOnce;
    start(driver(settings, folder))
}

#[tokio::test]
async fn connects_subscribes_acknowledges_in_receive_order_and_says_goodbye() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |settings| settings.max_batch = 2);
    let mut peer = broker.accept().await;
    let Some(v4::Packet::Connect(connect)) = peer.v4().await else { panic!("no CONNECT") };
    assert_eq!((connect.client_id.as_str(), connect.clean_session, connect.keep_alive), ("me", true, 60));
    peer.send(&[0x20, 2, 0, 0]).await;
    let Some(v4::Packet::Subscribe(subscribe)) = peer.v4().await else { panic!("no SUBSCRIBE") };
    assert_eq!((subscribe.filters[0].path.as_str(), subscribe.filters[0].qos as u8), ("a/#", 1));
    // A broker may send messages before the SUBACK (3.1.1 section 3.8.4).
    let packets: Vec<u8> =
        (1..=6).flat_map(|id| publish(false, "a/b", &[id as u8], (id != 3).into(), id)).collect();
    peer.send(&packets).await;
    peer.send(&[0x90, 3, 0, 1, 1]).await;
    let mut batches = running.pipeline.batches(6).await;
    running.ready().await;
    assert!(batches.iter().all(|batch| batch.len() <= 2));
    let payloads: Vec<u8> =
        batches.iter().flat_map(|b| b.messages().map(|m| m.payload()[0]).collect::<Vec<_>>()).collect();
    assert_eq!(payloads, [1, 2, 3, 4, 5, 6]);
    // Committed in another order than received.
    for batch in batches.drain(1..).rev() {
        running.pipeline.settle(batch);
    }
    let mut first = batches.remove(0);
    first.tally = Tally { dropped: first.len() as u64, ..Tally::default() };
    running.pipeline.back.as_ref().unwrap().send(first).unwrap();
    peer.expect(&[puback(1), puback(2), puback(4), puback(5), puback(6)]).await;
    let ledger = running.metrics.ledger();
    assert_eq!((ledger.received, ledger.received_bytes, ledger.in_flight()), (6, 6 * 4, 0));
    assert!(ledger.settled.committed > 0 && ledger.settled.dropped > 0);
    assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 1);
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    assert_eq!(peer.raw().await, None);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn speaks_mqtt_5() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |settings| {
        settings.version = Version::V5;
        settings.max_inflight = 10;
    });
    let mut peer = broker.accept().await;
    let Some(v5::Packet::Connect(connect, _, _)) = peer.v5().await else { panic!("no CONNECT") };
    assert_eq!(connect.properties.unwrap().receive_maximum, Some(10));
    // CONNACK with a server keep-alive of 300 s and an assigned client id.
    peer.send(&[0x20, 11, 0, 0, 8, 0x13, 1, 44, 0x12, 0, 2, b'm', b'e']).await;
    assert!(matches!(peer.v5().await, Some(v5::Packet::Subscribe(_))));
    peer.send(&[0x90, 4, 0, 1, 0, 1]).await;
    // PUBLISH with a content type.
    peer.send(&[0x32, 14, 0, 3, b'a', b'/', b'b', 0, 7, 5, 3, 0, 2, b'c', b't', b'!']).await;
    let batch = running.pipeline.batch().await;
    assert_eq!((batch.message(0).topic(), batch.message(0).payload()), ("a/b", &b"!"[..]));
    assert_eq!(batch.message(0).properties(), Some(&[3, 0, 2, b'c', b't'][..]));
    running.pipeline.settle(batch);
    peer.expect(&[puback(7)]).await;
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_new_connection_subscribes_again_and_gets_no_acknowledgement_of_the_old_one() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |_| {});
    let mut peer = broker.welcome_and_grant(1).await;
    peer.send(&publish(false, "a/b", b"old", 1, 1)).await;
    let old = running.pipeline.batch().await;
    drop(peer);
    let mut peer = broker.welcome_and_grant(1).await;
    // The same packet identifier names another message now.
    peer.send(&publish(false, "a/b", b"new", 1, 1)).await;
    let new = running.pipeline.batch().await;
    running.pipeline.settle(old);
    peer.send(&publish(false, "a/b", b"newer", 1, 2)).await;
    let newer = running.pipeline.batch().await;
    running.pipeline.settle(newer);
    running.pipeline.settle(new);
    peer.expect(&[puback(1), puback(2)]).await;
    assert_eq!(running.metrics.ledger().in_flight(), 0);
    assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 2);
    assert_eq!(running.metrics.mqtt.disconnections.load(Relaxed), 1);
    peer.send(&[0xd0, 0]).await;
    let metrics = running.metrics.clone();
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
    assert_eq!(metrics.mqtt.disconnections.load(Relaxed), 2);
}

#[tokio::test]
async fn exactly_once_survives_reconnects_and_restarts() {
    let (broker, port) = Broker::new().await;
    let folder = tempdir().unwrap();
    let mut running = start_persistent(port, folder.path());
    let mut peer = broker.welcome_and_grant(2).await;
    running.ready().await;
    peer.send(&publish(false, "a/b", b"one", 2, 1)).await;
    let one = running.pipeline.batch().await;
    drop(peer);

    // It comes again while it is still in the host: not processed again, PUBREC after the commit. The session is known to have
    // our subscription, so the first packet after CONNECT is that PUBREC.
    let mut peer = broker.welcome(true).await;
    peer.send(&publish(false, "a/b", b"one", 2, 1)).await;
    peer.send(&publish(false, "a/b", b"two", 2, 2)).await;
    let two = running.pipeline.batch().await;
    assert_eq!(two.message(0).payload(), b"two");
    running.pipeline.settle(two);
    running.pipeline.settle(one);
    peer.expect(&[pubrec(1), pubrec(2)]).await;
    peer.send(&pubrel(1)).await;
    peer.expect(&[pubcomp(1)]).await;
    assert_eq!(running.metrics.duplicates_suppressed.load(Relaxed), 1);
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();

    // Another process. Identifier 1 was released and names a new message; 2 was not, and is the old one.
    let mut running = start_persistent(port, folder.path());
    let mut peer = broker.welcome(true).await;
    peer.send(&pubrel(9)).await;
    peer.send(&publish(false, "a/b", b"two", 2, 2)).await;
    peer.send(&publish(false, "a/b", b"three", 2, 1)).await;
    let three = running.pipeline.batch().await;
    assert_eq!((three.len(), three.message(0).payload()), (1, &b"three"[..]));
    running.pipeline.settle(three);
    peer.expect(&[pubcomp(9), pubrec(2), pubrec(1)]).await;
    peer.send(&[pubrel(2), pubrel(1)].concat()).await;
    peer.expect(&[pubcomp(2), pubcomp(1)]).await;
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();

    // The broker has lost the session: nothing is known, and everything is subscribed to.
    let mut running = start_persistent(port, folder.path());
    let mut peer = broker.welcome_and_grant(2).await;
    peer.send(&publish(false, "a/b", b"four", 2, 2)).await;
    let four = running.pipeline.batch().await;
    running.pipeline.settle(four);
    peer.expect(&[pubrec(2)]).await;
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn changed_filters_are_subscribed_to_and_stale_ones_are_not_kept() {
    let (broker, port) = Broker::new().await;
    let folder = tempdir().unwrap();
    let running = start_persistent(port, folder.path());
    let mut peer = broker.welcome_and_grant(2).await;
    running.ready().await;
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();

    let mut settings = settings(port);
    (settings.clean_session, settings.qos) = (false, QoS::ExactlyOnce);
    settings.topics = vec!["b".into(), "c".into()];
    let running = start(driver(settings, folder.path()));
    let mut peer = broker.welcome(true).await;
    let Some(v4::Packet::Subscribe(subscribe)) = peer.v4().await else { panic!("no SUBSCRIBE") };
    assert_eq!(subscribe.filters.iter().map(|filter| filter.path.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    let Some(v4::Packet::Unsubscribe(unsubscribe)) = peer.v4().await else { panic!("no UNSUBSCRIBE") };
    assert_eq!(unsubscribe.topics, ["a/#"]);
    peer.send(&[0x90, 4, 0, 1, 2, 2, 0xb0, 2, 0, 2]).await;
    running.ready().await;
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_window_stops_reading_but_not_pinging() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |settings| {
        settings.max_inflight = 3;
        settings.keep_alive = Duration::from_millis(20);
    });
    let mut peer = broker.welcome_and_grant(1).await;
    let packets: Vec<u8> = (1..=8).flat_map(|id| publish(false, "a/b", &[id as u8], 1, id)).collect();
    peer.send(&packets).await;
    let batches = running.pipeline.batches(3).await;
    // No answer to any of these pings is read, and that ends nothing.
    for _ in 0..4 {
        assert_eq!(peer.raw().await.unwrap(), [0xc0, 0]);
        assert_eq!(running.metrics.ledger().in_flight(), 3);
    }
    assert!(running.pipeline.work[0].try_recv().is_err(), "more than the window");
    peer.send(&[0xd0, 0]).await;
    batches.into_iter().for_each(|batch| running.pipeline.settle(batch));
    let mut acknowledged = 0;
    while acknowledged < 8 {
        assert!(running.metrics.ledger().in_flight() <= 3);
        match running.pipeline.work[0].try_recv() {
            Ok(Work::Batch(batch)) => running.pipeline.settle(batch),
            _ => match peer.raw().await.unwrap().as_slice() {
                [0x40, ..] => acknowledged += 1,
                _ => peer.send(&[0xd0, 0]).await,
            },
        }
    }
    assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 1);
}

#[tokio::test]
async fn what_waits_for_room_has_come_when_it_was_read() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |settings| settings.max_inflight = 1);
    let mut peer = broker.welcome_and_grant(1).await;
    peer.send(&[publish(false, "a/b", b"first", 1, 1), publish(false, "a/b", b"second", 1, 2)].concat())
        .await;
    let first = running.pipeline.batch().await;
    let came = first.message(0).received_at();
    let waited = epoch_nanos() - came;
    running.pipeline.settle(first);
    let second = running.pipeline.batch().await;
    assert_eq!(second.message(0).received_at(), came);
    let counts = running.metrics.mqtt.snapshot();
    assert!(counts.receive_latency_us >= waited / 1_000, "{counts:?}");
    assert_eq!((counts.batch_count, counts.batch_size_min, counts.batch_size_max), (2, 1, 1));
}

#[tokio::test]
async fn a_broker_that_answers_no_ping_is_lost() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.keep_alive = Duration::from_millis(20));
    let mut peer = broker.welcome_and_grant(1).await;
    assert_eq!(peer.raw().await.unwrap(), [0xc0, 0]);
    running.not_ready_because("the MQTT broker did not answer a ping within 10 ms").await;
}

#[tokio::test]
async fn an_oversized_packet_is_skipped_and_dead_lettered_and_the_connection_stays() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |settings| settings.max_packet_size = 1_000);
    let mut peer = broker.welcome_and_grant(1).await;
    peer.send(&publish(false, "a/1", b"before", 1, 1)).await;
    let big = publish(false, "a/big", &vec![7; 700_000], 1, 2);
    peer.send(&big).await;
    let small_but_oversized = publish(false, "a/big", &[7; 1_001], 1, 3);
    peer.send(&[small_but_oversized, publish(false, "a/4", b"after", 1, 4)].concat()).await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let batch = running.pipeline.batch().await;
        for message in batch.messages() {
            seen.push((message.topic().to_owned(), message.payload().to_vec(), batch.oversized));
        }
        assert!(batch.oversized.is_none() || batch.len() == 1);
        running.pipeline.settle(batch);
    }
    assert_eq!(
        seen,
        [
            ("a/1".to_owned(), b"before".to_vec(), None),
            ("a/big".to_owned(), Vec::new(), Some(big.len())),
            ("a/big".to_owned(), Vec::new(), Some(1_013)),
            ("a/4".to_owned(), b"after".to_vec(), None),
        ]
    );
    peer.expect(&[puback(1), puback(2), puback(3), puback(4)]).await;
    assert_eq!(running.metrics.oversized.load(Relaxed), 2);
    assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 1);
}

#[tokio::test]
async fn a_refused_or_downgraded_subscription_is_named_and_tried_again() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |_| {});
    let mut refused = broker.welcome_and_grant(0x80).await;
    running.not_ready_because("subscription to `a/#`: the broker refuses it").await;
    assert_eq!(refused.raw().await, None);
    let _downgraded = broker.welcome_and_grant(0).await;
    running.not_ready_because("subscription to `a/#`: the broker grants only QoS 0, not 1").await;
    let _granted = broker.welcome_and_grant(1).await;
    running.ready().await;
}

#[tokio::test]
async fn why_a_connection_ended_is_named() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.version = Version::V5);
    for (script, reason) in [
        (&[0x20, 3, 0, 0x86, 0][..], "refused the login: the user name or the password is wrong (code 0x86)"),
        (&[0x20, 3, 0, 0, 0, 0xe0, 1, 0x8e], "another client connected with the client id `me`"),
        (&[0x20, 3, 0, 0, 0, 0xe0, 0], "the MQTT broker disconnected: without a reason (code 0x00)"),
        (&[0x20, 3, 0, 0, 0, 0xf0, 0], "AUTH from the MQTT broker: enhanced authentication is not supported"),
        (&[0x20, 3, 1, 0, 0], "it speaks of a session, but a clean one was asked for"),
        (&[0x32, 5, 0, 1, b'a', 0, 1], "PUBLISH from the MQTT broker: it came before CONNACK"),
        (
            &[0x20, 3, 0, 0, 0, 0x32, 6, 0, 1, b'a', 0, 0, 0],
            "PUBLISH from the MQTT broker: the packet identifier is 0",
        ),
        (&[0x20, 3, 0, 0, 0, 0x36, 6, 0, 1, b'a', 0, 1, 0], "PUBLISH from the MQTT broker: QoS 3"),
        (
            &[0x20, 3, 0, 0, 0, 0x30, 7, 0, 0, 3, 0x23, 0, 1, b'x'],
            "PUBLISH from the MQTT broker: the topic name is empty",
        ),
        (
            &[0x20, 3, 0, 0, 0, 0xd0, 0xff, 0xff, 0xff, 0xff],
            "PINGRESP from the MQTT broker: the remaining length",
        ),
        (&[0x20, 3, 0, 0, 0, 0x90, 0x80, 0x80, 8], "SUBACK from the MQTT broker: it is longer than 64 KiB"),
    ] {
        let mut peer = broker.accept().await;
        peer.raw().await;
        peer.try_send(script).await;
        running.not_ready_because(reason).await;
        if reason.contains("identifier is 0") {
            assert_eq!(peer.raw().await.unwrap(), [0xe0, 1, 0x81]);
            assert_eq!(peer.raw().await, None);
        }
    }
    let stopped = tokio::spawn(stop(running));
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn attempts_end_with_the_last_cause() {
    let (broker, port) = Broker::new().await;
    drop(broker);
    let running = start_with(port, |settings| settings.retry.max_attempts = 3);
    let error = soon(running.result).await.unwrap().unwrap_err();
    assert!(matches!(error, MqttError::GaveUp { attempts: 3, .. }));
    let text = chain(&error);
    assert!(text.contains(&format!("cannot connect to the MQTT broker at 127.0.0.1:{port}: ")), "{text}");
}

#[tokio::test]
async fn an_attempt_is_bounded() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.connect_timeout = Duration::from_millis(30));
    let _silent = broker.accept().await;
    running.not_ready_because("did not answer within 30 ms: still waiting for CONNACK").await;
    let _no_suback = broker.welcome(false).await;
    running.not_ready_because("still waiting for SUBACK").await;
}

#[tokio::test]
async fn a_drain_acknowledges_what_is_committed_meanwhile() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |_| {});
    let mut peer = broker.welcome_and_grant(1).await;
    peer.send(&publish(false, "a/b", b"1", 1, 1)).await;
    let batch = running.pipeline.batch().await;
    running.stop.send(true).unwrap();
    // The worker is let go once nothing is pending.
    assert!(soon(running.pipeline.work[0].recv()).await.is_none());
    peer.send(&publish(false, "a/b", b"2", 1, 2)).await;
    running.pipeline.settle(batch);
    peer.expect(&[puback(1)]).await;
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    assert_eq!(peer.raw().await, None);
    drop(peer);
    soon(running.result).await.unwrap().unwrap();
    assert_eq!(running.metrics.ledger().received, 1);
}

#[tokio::test]
async fn a_drain_ends_with_its_grace_and_leaves_the_rest_unacknowledged() {
    let (broker, port) = Broker::new().await;
    let mut driver = driver(settings(port), std::path::Path::new("/nonexistent"));
    driver.grace = Duration::from_millis(30);
    let mut running = start(driver);
    let mut peer = broker.welcome_and_grant(1).await;
    peer.send(&publish(false, "a/b", b"1", 1, 1)).await;
    let _never_settled = running.pipeline.batch().await;
    running.stop.send(true).unwrap();
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(running.result).await.unwrap().unwrap();
    assert_eq!(running.metrics.ledger().in_flight(), 1);
}

#[tokio::test]
async fn a_drain_outlives_its_connection() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |_| {});
    let mut peer = broker.welcome_and_grant(1).await;
    peer.send(&publish(false, "a/b", b"1", 1, 1)).await;
    let batch = running.pipeline.batch().await;
    running.stop.send(true).unwrap();
    drop(peer);
    assert!(soon(running.pipeline.work[0].recv()).await.is_none());
    running.pipeline.settle(batch);
    soon(running.result).await.unwrap().unwrap();
    assert_eq!(running.metrics.ledger().in_flight(), 0);
}

#[tokio::test]
async fn workers_that_are_gone_end_the_source() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |_| {});
    let _peer = broker.welcome_and_grant(1).await;
    running.ready().await;
    running.pipeline.work.clear();
    let error = soon(running.result).await.unwrap().unwrap_err();
    assert!(matches!(error, MqttError::WorkersGone), "{error}");
}

/// A worker says why it stops the source, and ends. The driver may see the end first.
#[tokio::test]
async fn a_worker_that_stops_the_source_is_no_worker_that_is_gone() {
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |_| {});
    let mut peer = broker.welcome_and_grant(1).await;
    running.ready().await;
    // The driver's turn comes before the word that it is to stop: it is woken by the first, and this task waits for one turn.
    running.pipeline.work.clear();
    tokio::task::yield_now().await;
    running.stop.send(true).unwrap();
    running.pipeline.back = None;
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(running.result).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_id_that_flaps_is_named() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |_| {});
    for _ in 0..3 {
        let _kicked_out = broker.welcome_and_grant(1).await;
        running.ready().await;
    }
    running.not_ready_because("does another client use the client id `me`?").await;
}
