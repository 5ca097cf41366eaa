//! The source against a scripted broker on a real socket.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;

use super::*;
use crate::message::QoS;
use crate::mqtt::testing::{Broker, Peer, puback, publish, soon};

pub(super) fn settings(port: u16) -> Mqtt {
    let mut settings = Mqtt::new(format!("127.0.0.1:{port}"), ["a/#"]).unwrap();
    settings.client_id = "me".into();
    settings.retry.initial = Duration::from_millis(10);
    settings.retry.max = Duration::from_millis(100);
    settings.empty_poll_delay = Duration::from_millis(10);
    settings
}

pub(super) fn source(port: u16) -> MqttSource {
    MqttSource::new(settings(port)).unwrap()
}

async fn read(source: &MqttSource) -> Event {
    soon(source.read()).await.unwrap().unwrap()
}

/// The next batch that is not empty.
pub(super) async fn read_batch(source: &MqttSource) -> EventBatch {
    soon(async {
        loop {
            let batch = source.read_batch().await.unwrap().unwrap();
            if !batch.is_empty() {
                return batch;
            }
        }
    })
    .await
}

/// Messages `ids` at QoS 1, each with its identifier as payload, in one write.
pub(super) async fn send(peer: &mut Peer, ids: std::ops::RangeInclusive<u16>) {
    let packets: Vec<u8> =
        ids.flat_map(|id| publish(false, "a/b", id.to_string().as_bytes(), 1, id)).collect();
    peer.send(&packets).await;
}

/// A broker with a connection over which the source reads `ids`.
async fn connected(
    source: &MqttSource,
    broker: &Broker,
    ids: std::ops::RangeInclusive<u16>,
) -> (Peer, Event) {
    let (mut peer, event) = tokio::join!(
        async {
            let mut peer = broker.welcome_and_grant(1).await;
            send(&mut peer, ids).await;
            peer
        },
        read(source)
    );
    // So that nothing is in flight on the wire when the test goes on.
    peer.send(&[0xd0, 0]).await;
    (peer, event)
}

/// The source says goodbye, and nothing before it.
pub(super) async fn goodbye(mut peer: Peer) {
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    assert_eq!(peer.raw().await, None);
}

#[tokio::test]
async fn asking_for_the_next_event_acknowledges_the_one_before() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let (mut peer, first) = connected(&source, &broker, 1..=3).await;
    assert_eq!((first.topic(), first.payload(), first.packet_id()), ("a/b", &b"1"[..], 1));
    assert_eq!((first.qos(), first.retain(), first.duplicate()), (QoS::AtLeastOnce, false, false));
    assert_eq!(read(&source).await.text(), Ok("2"));
    peer.expect(&[puback(1)]).await;
    assert_eq!(read(&source).await.json::<u8>().unwrap(), 3);
    peer.expect(&[puback(2)]).await;
    // The third is not acknowledged, whatever goes first.
    drop(source);
    goodbye(peer).await;
}

#[tokio::test]
async fn each_handle_owns_the_acknowledgement_of_what_it_read() {
    let (broker, port) = Broker::new().await;
    let one = source(port);
    let two = one.clone();
    let (mut peer, first) = connected(&one, &broker, 1..=4).await;
    assert_eq!((first.payload(), read(&two).await.payload()), (&b"1"[..], &b"2"[..]));
    // 2 is done before 1, and acknowledged after it.
    assert_eq!(read(&two).await.payload(), b"3");
    assert_eq!(read(&one).await.payload(), b"4");
    peer.expect(&[puback(1), puback(2)]).await;
    // The third was let go; behind it nothing leaves.
    drop(two);
    one.shutdown();
    assert!(soon(one.read()).await.unwrap().is_none());
    soon(async { tokio::join!(one.closed(), goodbye(peer)) }).await;
}

#[tokio::test]
async fn batches_are_acknowledged_when_they_say_so() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    // Nobody accepts the connection yet.
    assert!(soon(source.read_batch()).await.unwrap().unwrap().is_empty());
    let mut peer = broker.welcome_and_grant(1).await;
    send(&mut peer, 1..=2).await;
    let mut batch = read_batch(&source).await;
    if batch.len() == 1 {
        batch.ack();
        batch = read_batch(&source).await;
        assert_eq!(batch.len(), 1);
    }
    let last = batch.events().last().unwrap();
    assert_eq!(last.payload(), batch.messages().last().unwrap().payload());
    assert_eq!((last.payload(), last.message_id()), (&b"2"[..], 1));
    batch.ack();
    peer.expect(&[puback(1), puback(2)]).await;
    // After one event of a batch, the others are the next batch.
    send(&mut peer, 3..=5).await;
    assert_eq!(read(&source).await.payload(), b"3");
    let batch = read_batch(&source).await;
    assert_eq!((&batch).into_iter().next().unwrap().payload(), b"4");
    peer.expect(&[puback(3)]).await;
    drop(batch);
    assert!(soon(source.read_batch()).await.unwrap().is_some());
    source.shutdown();
    assert!(soon(source.read_batch()).await.unwrap().is_none());
    soon(async { tokio::join!(source.closed(), goodbye(peer)) }).await;
}

#[tokio::test]
async fn a_read_that_is_dropped_loses_nothing() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let (mut peer, _first) = connected(&source, &broker, 1..=1).await;
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(5), source.read()).await.is_err());
    }
    peer.expect(&[puback(1)]).await;
    send(&mut peer, 2..=2).await;
    assert_eq!(read(&source).await.payload(), b"2");
    // While one handle waits another is told to stop.
    let waiting = source.clone();
    let waiting = tokio::spawn(async move { waiting.read().await });
    tokio::task::yield_now().await;
    source.shutdown();
    assert!(source.is_shutting_down());
    assert!(soon(waiting).await.unwrap().unwrap().is_none());
    soon(async { tokio::join!(source.closed(), goodbye(peer)) }).await;
    assert!(source.read().await.unwrap().is_none());
}

#[tokio::test]
async fn a_shutdown_waits_for_what_readers_have() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let reader = source.clone();
    let (mut peer, _event) = connected(&reader, &broker, 1..=9).await;
    soon(async {
        while source.ledger().received < 9 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    source.shutdown();
    // Still being processed; then the reader asks for more.
    assert!(reader.read().await.unwrap().is_none());
    peer.expect(&[puback(1)]).await;
    soon(async { tokio::join!(source.closed(), goodbye(peer)) }).await;
    let ledger = source.ledger();
    assert_eq!((ledger.received, ledger.settled.committed), (9, 1));
}

#[tokio::test]
async fn before_the_first_read_there_is_nothing_to_close() {
    let source = source(1);
    source.shutdown();
    soon(source.closed()).await;
    assert!(source.read().await.unwrap().is_none());
    assert!(source.read_batch().await.unwrap().is_none());
}

#[tokio::test]
async fn what_waiting_does_not_mend_is_an_error_and_the_next_read_tries_again() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let refuse = async {
        let mut peer = broker.accept().await;
        peer.raw().await;
        peer.send(&[0x20, 2, 0, 5]).await;
        let mut peer = broker.welcome_and_grant(0x80).await;
        assert_eq!(peer.raw().await, None);
        // Trouble of the broker's own, which is tried again in silence.
        let mut peer = broker.accept().await;
        peer.raw().await;
        peer.send(&[0x20, 2, 0, 3]).await;
        let mut peer = broker.welcome_and_grant(1).await;
        send(&mut peer, 1..=1).await;
        peer
    };
    let ask = async {
        let error = soon(source.read()).await.unwrap_err();
        assert!(matches!(&error, MqttError::BadCredentials { code: 5, .. }), "{error:?}");
        assert_eq!(error.to_string(), "the MQTT broker refused the login: not authorised (code 0x05)");
        assert_eq!(source.trouble(), Some(format!("mqtt: {error}")));
        let error = soon(source.read()).await.unwrap_err();
        assert!(matches!(&error, MqttError::Subscription { filter, .. } if filter == "a/#"), "{error:?}");
        read(&source).await
    };
    let (_peer, event) = tokio::join!(refuse, ask);
    assert_eq!(event.payload(), b"1");
    assert_eq!(source.trouble(), None);
}

#[tokio::test]
async fn it_gives_up_when_it_is_told_to() {
    let (broker, port) = Broker::new().await;
    drop(broker);
    let mut settings = settings(port);
    settings.retry.max_attempts = 2;
    let source = MqttSource::new(settings).unwrap();
    let error = soon(source.read()).await.unwrap_err();
    assert!(
        matches!(&error, MqttError::GaveUp { attempts: 2, source } if matches!(**source, MqttError::Connect { .. }))
    );
}

#[tokio::test]
async fn an_event_of_a_lost_connection_is_not_acknowledged_on_the_next() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let (peer, _old) = connected(&source, &broker, 1..=1).await;
    drop(peer);
    let (again, mut peer) = tokio::join!(read(&source), async {
        let mut peer = broker.welcome_and_grant(1).await;
        // The same identifier names another message.
        send(&mut peer, 1..=2).await;
        peer
    });
    assert_eq!((again.payload(), again.message_id()), (&b"1"[..], 1));
    peer.send(&[0xd0, 0]).await;
    drop(source);
    goodbye(peer).await;
}

#[tokio::test]
async fn both_reads_are_streams() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let mut events = source.events();
    let (mut peer, first) = tokio::join!(
        async {
            let mut peer = broker.welcome_and_grant(1).await;
            send(&mut peer, 1..=2).await;
            peer
        },
        soon(events.next())
    );
    assert_eq!(first.unwrap().unwrap().payload(), b"1");
    assert_eq!(soon(events.next()).await.unwrap().unwrap().payload(), b"2");
    peer.expect(&[puback(1)]).await;
    // The stream goes, its last event is not acknowledged, and holds back those behind it.
    drop(events);
    send(&mut peer, 3..=3).await;
    let mut batches = source.batches();
    let batch = soon(batches.next()).await.unwrap().unwrap();
    assert_eq!(batch.events().map(|event| event.payload().to_vec()).collect::<Vec<_>>(), [b"3"]);
    batch.ack();
    source.shutdown();
    assert!(soon(batches.next()).await.is_none() && soon(batches.next()).await.is_none());
    assert!(soon(source.events().next()).await.is_none());
    soon(async { tokio::join!(source.closed(), goodbye(peer)) }).await;
}

#[tokio::test]
async fn an_event_is_the_json_that_the_host_writes() {
    let (broker, port) = Broker::new().await;
    let mut settings = settings(port);
    settings.max_packet_size = 1_024;
    let source = MqttSource::new(settings).unwrap();
    let (_peer, first) = tokio::join!(
        async {
            let mut peer = broker.welcome_and_grant(1).await;
            peer.send(&publish(false, "a/\u{e4}", b"{\"t\": 1.50}", 1, 7)).await;
            peer.send(&publish(false, "a/big", &[0; 2_000], 1, 8)).await;
            peer
        },
        read(&source)
    );
    let json = first.to_json();
    assert_eq!(serde_json::to_string(&first).unwrap(), json);
    // Byte for byte, spaces and trailing zeros included.
    assert!(
        json.starts_with(
            "{\"topic\":\"a/\u{e4}\",\"payload\":{\"t\": 1.50},\"qos\":1,\"retain\":false,\"timestamp\":\"2"
        ),
        "{json}"
    );
    let metadata = format!(
        ",\"metadata\":{{\"client_id\":\"me\",\"broker\":\"127.0.0.1:{port}\",\"message_id\":0,\"pkid\":7}}}}"
    );
    assert!(json.ends_with(&metadata), "{json}");
    assert!(first.received_at().elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!((first.oversized(), first.properties()), (None, None));
    let big = read(&source).await;
    assert_eq!((big.topic(), big.payload(), big.oversized()), ("a/big", &b""[..], Some(2_012)));
    let json: serde_json::Value = serde_json::to_value(&big).unwrap();
    assert_eq!(json["payload"], json!(null));
    assert_eq!(
        (&json["payload_omitted"], &json["size"]),
        (&json!("greater than max_packet_size"), &json!(2_012))
    );
}

#[test]
fn values_out_of_range_are_refused() {
    let mut mqtt = Mqtt::new("h", ["a"]).unwrap();
    mqtt.keep_alive = Duration::ZERO;
    let error = MqttSource::new(mqtt).unwrap_err();
    assert_eq!(error.to_string(), "keep_alive_secs: is `0` (expected an integer from 5 to 65535)");
}
