//! The driver and rules of the specification that are about more than one packet; each test names the section.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5::{self, RetainForwardRule};
use socket2::SockRef;
use tempfile::tempdir;

use super::testing::*;
use crate::config::{Retained, Version};
use crate::message::QoS;

/// 3.1.1 sections 2.3.1 and 4.6: every identifier that there is, all of them in flight at once, committed in any order.
#[tokio::test]
async fn all_65535_identifiers_are_in_flight_and_acknowledged_in_receive_order() {
    const ALL: u16 = u16::MAX;
    let (broker, port) = Broker::new().await;
    let mut running = start_with(port, |settings| {
        settings.max_inflight = ALL.into();
        settings.max_batch = 100;
    });
    let mut peer = broker.welcome_and_grant(1).await;
    // The greatest first, so that the order is not that of the numbers.
    let ids: Vec<u16> = (1..=ALL).rev().collect();
    let packets: Vec<u8> = ids.iter().flat_map(|id| publish(false, "a", b"", 1, *id)).collect();
    let sent = tokio::spawn(async move {
        peer.send(&packets).await;
        peer
    });
    let mut batches = running.pipeline.batches(ALL.into()).await;
    assert_eq!(running.metrics.ledger().in_flight(), u64::from(ALL));
    let mut peer = sent.await.unwrap();
    fastrand::Rng::with_seed(1).shuffle(&mut batches);
    batches.into_iter().for_each(|batch| running.pipeline.settle(batch));
    for id in ids {
        peer.expect(&[puback(id)]).await;
    }
    assert_eq!(running.metrics.ledger().in_flight(), 0);
    assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 1);
}

/// 3.1.1 section 3.3.1.3: RETAIN marks what comes because the subscription is new. It is acknowledged in its turn.
#[tokio::test]
async fn skipped_retained_messages_are_acknowledged_in_their_turn_and_go_nowhere() {
    for version in [Version::V4, Version::V5] {
        let (broker, port) = Broker::new().await;
        let mut running = start_with(port, |settings| {
            (settings.version, settings.retained, settings.qos) = (version, Retained::Skip, QoS::ExactlyOnce);
            settings.max_packet_size = 1_000;
            // Fewer than come: what is skipped takes no room.
            settings.max_inflight = 2;
        });
        let v5 = version == Version::V5;
        let mut peer = broker.accept().await;
        peer.raw().await.unwrap();
        peer.send(if v5 { &[0x20, 3, 0, 0, 0][..] } else { &[0x20, 2, 0, 0] }).await;
        let subscribe = peer.raw().await.unwrap();
        // Retain handling 2: none at all (5.0 section 3.8.3.1).
        assert_eq!(*subscribe.last().unwrap(), if v5 { 0x22 } else { 2 });
        peer.send(if v5 { &[0x90, 4, 0, 1, 0, 2][..] } else { &[0x90, 3, 0, 1, 2] }).await;
        let retained = |qos, id, payload: &[u8]| {
            let mut packet = publish(v5, "a/old", payload, qos, id);
            packet[0] |= 1;
            packet
        };
        let mut packets = publish(v5, "a/live", b"1", 1, 1);
        packets.extend((2..50).flat_map(|id| retained(1 + (id % 2) as u8, id, b"old")));
        packets.extend(retained(0, 0, b"old"));
        packets.extend(retained(2, 50, &[7; 300_000]));
        packets.extend(publish(v5, "a/live", b"2", 2, 51));
        peer.send(&packets).await;
        let batches = running.pipeline.batches(2).await;
        let topics: Vec<_> =
            batches.iter().flat_map(|b| b.messages().map(|m| m.topic()).collect::<Vec<_>>()).collect();
        assert_eq!(topics, ["a/live", "a/live"]);
        batches.into_iter().for_each(|batch| running.pipeline.settle(batch));
        peer.expect(&[puback(1)]).await;
        for id in 2..50 {
            peer.expect(&[if id % 2 == 0 { puback(id) } else { pubrec(id) }]).await;
        }
        peer.expect(&[pubrec(50), pubrec(51)]).await;
        let ledger = running.metrics.ledger();
        assert_eq!((ledger.received, ledger.settled.committed, ledger.settled.dropped), (52, 2, 50));
        peer.send(&pubrel(50)).await;
        peer.expect(&[pubcomp(50)]).await;
        assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 1);
    }
}

/// A topic name that is illegal (section 4.7.3) does not slip in because its message is skipped.
#[tokio::test]
async fn a_skipped_message_is_checked_as_any_other() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.retained = Retained::Skip);
    let mut peer = broker.welcome_and_grant(1).await;
    let mut packet = publish(false, "a/+", b"", 1, 1);
    packet[0] |= 1;
    peer.send(&packet).await;
    running.not_ready_because("PUBLISH from the MQTT broker: the topic name is not UTF-8").await;
    assert_eq!(peer.raw().await, None);
    assert_eq!(running.metrics.ledger().received, 0);
}

/// 3.1.1 section 3.8.4: a SUBSCRIBE brings the retained messages of its filters again, so only what is new is asked for. On 5.0
/// the broker does that (section 3.8.3.1, retain handling 1).
#[tokio::test]
async fn filters_that_a_session_has_bring_no_retained_messages_again() {
    for version in [Version::V4, Version::V5] {
        let (broker, port) = Broker::new().await;
        let folder = tempdir().unwrap();
        let start_with = |topics: &[&str]| {
            let mut settings = settings(port);
            (settings.clean_session, settings.retained, settings.version) =
                (false, Retained::NewOnly, version);
            settings.topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
            start(driver(settings, folder.path()))
        };
        let v5 = version == Version::V5;
        let connack = |present: u8| if v5 { vec![0x20, 3, present, 0, 0] } else { vec![0x20, 2, present, 0] };
        let asked = |packet: &[u8]| -> Vec<(String, RetainForwardRule)> {
            let mut bytes = bytes::BytesMut::from(packet);
            if v5 {
                let Ok(v5::Packet::Subscribe(subscribe)) = v5::Packet::read(&mut bytes, None) else {
                    panic!("no SUBSCRIBE")
                };
                subscribe
                    .filters
                    .into_iter()
                    .map(|filter| (filter.path, filter.retain_forward_rule))
                    .collect()
            } else {
                let Ok(v4::Packet::Subscribe(subscribe)) = v4::Packet::read(&mut bytes, 1 << 20) else {
                    panic!("no SUBSCRIBE")
                };
                let rule = RetainForwardRule::OnNewSubscribe;
                subscribe.filters.into_iter().map(|filter| (filter.path, rule.clone())).collect()
            }
        };
        let new = |filters: &[&str]| -> Vec<_> {
            filters.iter().map(|path| ((*path).to_owned(), RetainForwardRule::OnNewSubscribe)).collect()
        };

        let running = start_with(&["a", "b"]);
        let mut peer = broker.accept().await;
        peer.raw().await.unwrap();
        peer.send(&connack(0)).await;
        assert_eq!(asked(&peer.raw().await.unwrap()), new(&["a", "b"]));
        peer.send(if v5 { &[0x90, 5, 0, 1, 0, 1, 1][..] } else { &[0x90, 4, 0, 1, 1, 1] }).await;
        running.ready().await;
        let stopped = tokio::spawn(stop(running));
        assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
        drop(peer);
        soon(stopped).await.unwrap().unwrap();

        // `a` goes, `c` is new.
        let running = start_with(&["b", "c"]);
        let mut peer = broker.accept().await;
        peer.raw().await.unwrap();
        peer.send(&connack(1)).await;
        let expected = if v5 { new(&["b", "c"]) } else { new(&["c"]) };
        assert_eq!(asked(&peer.raw().await.unwrap()), expected);
        assert_eq!(peer.raw().await.unwrap()[0], 0xa2);
        peer.send(if v5 { &[0x90, 5, 0, 1, 0, 1, 1][..] } else { &[0x90, 3, 0, 1, 1] }).await;
        peer.send(if v5 { &[0xb0, 4, 0, 2, 0, 0][..] } else { &[0xb0, 2, 0, 2] }).await;
        running.ready().await;
        let stopped = tokio::spawn(stop(running));
        assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
        drop(peer);
        soon(stopped).await.unwrap().unwrap();
    }
}

/// 5.0 section 3.2.2.3.6: no packet greater than the server takes is sent to it.
#[tokio::test]
async fn a_subscribe_greater_than_the_broker_takes_is_named_and_not_sent() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.version = Version::V5);
    let mut peer = broker.accept().await;
    peer.raw().await.unwrap();
    // A maximum packet size of 10, where our SUBSCRIBE has 11 bytes.
    peer.send(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 10]).await;
    running
        .not_ready_because(
            "subscription to `a/#`: SUBSCRIBE has 11 bytes, and the broker takes packets of at most 10",
        )
        .await;
    assert_eq!(peer.raw().await, None);
    let mut peer = broker.accept().await;
    peer.raw().await.unwrap();
    peer.send(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 11]).await;
    assert_eq!(peer.raw().await.unwrap()[0], 0x82);
}

/// 3.1.1 section 3.1.4: a broker that throws out a client whose acknowledgement it has not read resets the connection.
#[tokio::test]
async fn a_client_id_that_flaps_is_named_also_where_connections_are_reset() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |_| {});
    for _ in 0..3 {
        let stream = soon(broker.0.accept()).await.unwrap().0;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        let mut peer = Peer::new(Box::new(stream));
        peer.raw().await.unwrap();
        peer.send(&[0x20, 2, 0, 0]).await;
        peer.raw().await.unwrap();
        peer.send(&[0x90, 3, 0, 1, 1]).await;
        running.ready().await;
    }
    running.not_ready_because("does another client use the client id `me`?").await;
}

/// 5.0 section 3.2.2.3.14: 0 turns keep-alive off, so nothing is sent, however long nothing comes.
#[tokio::test]
async fn a_server_keep_alive_is_obeyed() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| {
        settings.version = Version::V5;
        settings.keep_alive = Duration::from_millis(20);
    });
    let mut peer = broker.accept().await;
    peer.raw().await.unwrap();
    peer.send(&[0x20, 6, 0, 0, 3, 0x13, 0, 0]).await;
    assert_eq!(peer.raw().await.unwrap()[0], 0x82);
    peer.send(&[0x90, 4, 0, 1, 0, 1]).await;
    running.ready().await;
    let silence = tokio::time::timeout(Duration::from_millis(200), peer.raw()).await;
    assert!(silence.is_err(), "{silence:?}");
}

/// 3.1.1 section 3.1.2.4 and [MQTT-3.2.2-3]: the broker has a session of which this host knows nothing, because its state folder
/// is new: what it released or sent before is answered, and everything is subscribed to.
#[tokio::test]
async fn a_session_that_only_the_broker_knows_is_taken_up() {
    let (broker, port) = Broker::new().await;
    let folder = tempdir().unwrap();
    let mut settings = settings(port);
    (settings.clean_session, settings.qos) = (false, QoS::ExactlyOnce);
    let mut running = start(driver(settings, folder.path()));
    let mut peer = broker.welcome(true).await;
    // First of all a PUBREL, before anything was subscribed to.
    peer.send(&pubrel(65_535)).await;
    let mut again = publish(false, "a/b", b"again", 2, 65_535);
    again[0] |= 8;
    peer.send(&again).await;
    let Some(v4::Packet::Subscribe(subscribe)) = peer.v4().await else { panic!("no SUBSCRIBE") };
    assert_eq!(subscribe.filters[0].path, "a/#");
    peer.expect(&[pubcomp(65_535)]).await;
    peer.send(&[0x90, 3, 0, 1, 2]).await;
    let batch = running.pipeline.batch().await;
    assert!(batch.message(0).flags().duplicate());
    running.pipeline.settle(batch);
    peer.expect(&[pubrec(65_535)]).await;
    running.ready().await;
}

/// SUBACK (section 3.9.3 of 3.1.1) and UNSUBACK answer each filter, in their order.
#[tokio::test]
async fn a_suback_with_more_or_fewer_codes_than_filters_is_named() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.topics = vec!["a".into(), "b".into()]);
    for (suback, says) in [
        (&[0x90, 3, 0, 1, 1][..], "SUBACK from the MQTT broker: 1 codes for 2 filters"),
        (&[0x90, 5, 0, 1, 1, 1, 1], "SUBACK from the MQTT broker: 3 codes for 2 filters"),
        (&[0x90, 4, 0, 9, 1, 1], "SUBACK from the MQTT broker: unknown packet identifier 9"),
        (&[0x90, 4, 0, 1, 1, 3], "SUBACK from the MQTT broker: "),
        (&[0xb0, 2, 0, 2], "UNSUBACK from the MQTT broker: unknown packet identifier 2"),
    ] {
        let mut peer = broker.welcome(false).await;
        peer.raw().await.unwrap();
        peer.send(suback).await;
        running.not_ready_because(says).await;
        assert_eq!(peer.raw().await, None);
    }
    let mut peer = broker.welcome(false).await;
    peer.raw().await.unwrap();
    peer.send(&[0x90, 4, 0, 1, 1, 1]).await;
    running.ready().await;
    // Once more, though nothing was asked for.
    peer.send(&[0x90, 4, 0, 1, 1, 1]).await;
    running.not_ready_because("SUBACK from the MQTT broker: nothing was asked for").await;
}

/// 4.3.3 of 3.1.1: a PUBREL before our PUBREC says that the broker has finished with the message. It is answered, and the message
/// is committed without another word.
#[tokio::test]
async fn a_pubrel_that_comes_before_the_commit_ends_the_exchange() {
    let (broker, port) = Broker::new().await;
    for persistent in [false, true] {
        let folder = tempdir().unwrap();
        let mut settings = settings(port);
        (settings.clean_session, settings.qos) = (!persistent, QoS::ExactlyOnce);
        let folder = if persistent { folder.path() } else { Path::new("/nonexistent") };
        let mut running = start(driver(settings, folder));
        let mut peer = broker.welcome_and_grant(2).await;
        peer.send(&publish(false, "a/b", b"1", 2, 1)).await;
        let first = running.pipeline.batch().await;
        peer.send(&pubrel(1)).await;
        peer.expect(&[pubcomp(1)]).await;
        // The identifier is free again.
        peer.send(&publish(false, "a/b", b"2", 2, 1)).await;
        let second = running.pipeline.batch().await;
        running.pipeline.settle(first);
        running.pipeline.settle(second);
        peer.expect(&[pubrec(1)]).await;
        peer.send(&pubrel(1)).await;
        peer.expect(&[pubcomp(1)]).await;
        assert_eq!(running.metrics.ledger().settled.committed, 2);
    }
}

/// 3.1.1 section 3.1.4: a client need not wait for the CONNACK. A broker that has accepted the CONNECT by then would publish the will
/// when it saw the bare end of the connection (section 3.1.2.5).
#[tokio::test]
async fn a_shutdown_before_the_connack_says_disconnect_too() {
    for version in [Version::V4, Version::V5] {
        let (broker, port) = Broker::new().await;
        let running = start_with(port, |settings| settings.version = version);
        let mut peer = broker.accept().await;
        assert_eq!(peer.raw().await.unwrap()[0], 0x10);
        let stopped = tokio::spawn(stop(running));
        assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
        assert_eq!(peer.raw().await, None);
        drop(peer);
        soon(stopped).await.unwrap().unwrap();
    }
}

/// 3.1.1 section 3.1.2.10: the keep-alive counts from CONNACK on, so a broker that takes its time with the SUBACK is pinged.
#[tokio::test]
async fn a_slow_suback_does_not_stop_the_pings() {
    let (broker, port) = Broker::new().await;
    let running = start_with(port, |settings| settings.keep_alive = Duration::from_millis(300));
    let mut peer = broker.welcome(false).await;
    assert_eq!(peer.raw().await.unwrap()[0], 0x82);
    for _ in 0..2 {
        assert_eq!(peer.raw().await.unwrap(), [0xc0, 0]);
        peer.send(&[0xd0, 0]).await;
    }
    peer.send(&[0x90, 3, 0, 1, 1]).await;
    running.ready().await;
    assert_eq!(running.metrics.mqtt.connections.load(Relaxed), 1);
}
