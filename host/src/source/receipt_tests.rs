//! Acknowledgement rights that are dropped or shared, against a scripted broker on a real socket.

use tempfile::tempdir;

use super::tests::{goodbye, read_batch, send, settings, source};
use super::*;
use crate::message::QoS;
use crate::mqtt::testing::{Broker, puback, publish, pubrec, soon};

/// Reads `n` events and lets go of them.
async fn let_go(source: &MqttSource, n: usize) {
    let mut events = 0;
    while events < n {
        events += read_batch(source).await.len();
    }
    assert_eq!(events, n);
}

#[tokio::test]
async fn a_qos_2_message_that_was_let_go_comes_again_on_the_next_connection() {
    let (broker, port) = Broker::new().await;
    let folder = tempdir().unwrap();
    let mut settings = settings(port);
    (settings.clean_session, settings.qos) = (false, QoS::ExactlyOnce);
    let options = SourceOptions { state_dir: folder.path().into(), ..SourceOptions::default() };
    let source = MqttSource::with_options(settings, options).unwrap();
    let first = async {
        let mut peer = broker.welcome_and_grant(2).await;
        peer.send(&publish(false, "a/b", b"1", 2, 1)).await;
        peer
    };
    let (peer, ()) = tokio::join!(first, let_go(&source, 1));
    assert_eq!(source.ledger().settled.total(), 0);
    drop(peer);
    let again = async {
        let mut peer = broker.welcome(true).await;
        peer.send(&[publish(false, "a/b", b"1", 2, 1), publish(false, "a/b", b"2", 2, 2)].concat()).await;
        peer.expect(&[pubrec(1), pubrec(2)]).await;
        peer
    };
    let process = async {
        let mut payloads = Vec::new();
        while payloads.len() < 2 {
            let batch = read_batch(&source).await;
            payloads.extend(batch.messages().map(|message| message.payload().to_vec()));
            batch.ack();
        }
        payloads
    };
    let (peer, payloads) = tokio::join!(again, process);
    assert_eq!(payloads, [b"1", b"2"]);
    let ledger = source.ledger();
    assert_eq!((ledger.received, ledger.settled.committed, ledger.settled.dropped), (3, 2, 1));
    drop(source);
    goodbye(peer).await;
}

#[tokio::test]
async fn what_was_let_go_takes_no_room_on_the_next_connection() {
    let (broker, port) = Broker::new().await;
    let mut settings = settings(port);
    settings.max_inflight = 2;
    let source = MqttSource::new(settings).unwrap();
    for connection in 1..4 {
        let peer = async {
            let mut peer = broker.welcome_and_grant(1).await;
            send(&mut peer, 1..=2).await;
            peer
        };
        let (peer, ()) = tokio::join!(peer, let_go(&source, 2));
        let ledger = source.ledger();
        // In flight until the connection is lost: only then may the broker send them again.
        assert_eq!((ledger.received, ledger.in_flight()), (2 * connection, 2));
        drop(peer);
    }
}

#[tokio::test]
async fn at_qos_0_nothing_waits_for_what_was_let_go() {
    let (broker, port) = Broker::new().await;
    let mut settings = settings(port);
    settings.max_inflight = 2;
    let source = MqttSource::new(settings).unwrap();
    let peer = async {
        let mut peer = broker.welcome_and_grant(1).await;
        let packets: Vec<u8> = (0..5).flat_map(|_| publish(false, "a/b", b"0", 0, 0)).collect();
        peer.send(&packets).await;
        peer
    };
    let (mut peer, ()) = tokio::join!(peer, let_go(&source, 5));
    send(&mut peer, 1..=1).await;
    read_batch(&source).await.ack();
    peer.expect(&[puback(1)]).await;
    assert_eq!((source.ledger().settled.dropped, source.ledger().in_flight()), (5, 0));
}

#[tokio::test]
async fn two_reads_at_once_on_one_handle_lose_no_acknowledgement() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let peer = async {
        let mut peer = broker.welcome_and_grant(1).await;
        send(&mut peer, 1..=2).await;
        peer
    };
    // Both have asked before the first event comes.
    let (one, two, mut peer) = tokio::join!(soon(source.read()), soon(source.read()), peer);
    assert_eq!((one.unwrap().unwrap().payload(), two.unwrap().unwrap().payload()), (&b"1"[..], &b"2"[..]));
    send(&mut peer, 3..=3).await;
    assert_eq!(soon(source.read()).await.unwrap().unwrap().payload(), b"3");
    peer.expect(&[puback(1), puback(2)]).await;
    source.shutdown();
    soon(async { tokio::join!(source.closed(), goodbye(peer)) }).await;
}
