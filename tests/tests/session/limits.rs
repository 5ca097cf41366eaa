//! Packets that cannot be parsed, and packets greater than are taken.

use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::peer::Peer;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::usage::Usage;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::json;

use crate::{OUT, TIMEOUT, start, v5};

/// Sections 2.2, 3.3 and 4.8.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_packet_ends_the_connection_and_never_the_host() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["a/#"]));
    let malformed: [(&str, &[u8]); 12] = [
        ("packet type 0", &[0x00, 0x00]),
        ("packet type 15, which 3.1.1 forbids", &[0xF0, 0x00]),
        ("a remaining length of five bytes", &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
        ("a PUBLISH of QoS 3", &[0x36, 0x07, 0, 3, b'a', b'/', b'1', 0, 1]),
        ("a PUBLISH whose topic is longer than the packet", &[0x30, 0x03, 0xFF, 0xFF, b'a']),
        ("a PUBLISH without a packet id at QoS 1", &[0x32, 0x05, 0, 3, b'a', b'/', b'1']),
        ("the packet id 0 at QoS 1", &[0x32, 0x07, 0, 3, b'a', b'/', b'1', 0, 0]),
        ("a topic that is not UTF-8", &[0x30, 0x05, 0, 3, b'a', b'/', 0xFF]),
        ("a topic with a wildcard", &[0x30, 0x05, 0, 3, b'a', b'/', b'#']),
        ("an empty topic", &[0x30, 0x02, 0, 0]),
        ("a second CONNACK", &[0x20, 0x02, 0, 0]),
        ("a CONNECT from a broker", &[0x10, 0x0C, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0]),
    ];
    for (n, (what, bytes)) in malformed.into_iter().enumerate() {
        let (mut session, ..) = broker.accept_fresh().await.unwrap();
        host.ready().await.unwrap();
        session.raw(bytes).await.unwrap();
        session.closed().await.unwrap_or_else(|error| panic!("after {what}: {error:#}"));
        let named = async || host.log().matches("from the MQTT broker").count() > n;
        wait_for(&format!("the log names {what}"), TIMEOUT, named).await.unwrap();
    }
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a/1", b"fine").await.unwrap();
    session.puback(1).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap(), [Line::new(TOPIC, "a/1", "fine")]);
    let metrics = host.metrics().await.unwrap();
    assert!(metrics.sum("rivven_mqtt_source_errors_total").unwrap() >= malformed.len() as u64);
    assert_eq!(metrics.sum("rivven_mqtt_source_connections_total").unwrap(), malformed.len() as u64 + 1);
}

/// Ten times the limit, at every QoS, on both versions: each becomes a dead letter and is acknowledged, the connection stays, and
/// so does the memory, whether there is one of them or a hundred.
#[tokio::test(flavor = "multi_thread")]
async fn packets_of_ten_times_the_limit_are_dead_letters_and_take_no_memory() {
    const LIMIT: usize = 100_000;
    const ROUNDS: u16 = 33;
    for five in [false, true] {
        let broker = Scripted::listen().await.unwrap();
        let mut source = config::source(&broker.url(), &["a/#"]);
        source["config"]["max_packet_size"] = LIMIT.into();
        source["config"]["qos"] = "exactly_once".into();
        let host = start(if five { v5(source) } else { source });
        let big = vec![b'x'; 10 * LIMIT];
        let mut first = None;
        let mut peer = Peer::accept(&broker, five).await.unwrap();
        for round in 0..ROUNDS {
            let id = 2 * round + 1;
            peer.send(&peer.publish(0, 0, &big)).await.unwrap();
            peer.send(&peer.publish(1, id, &big)).await.unwrap();
            peer.send(&peer.publish(2, id + 1, &big)).await.unwrap();
            peer.expect(&[[0x40, 2, 0, id as u8], [0x50, 2, 0, id as u8 + 1]]).await.unwrap();
            peer.send(&[0x62, 2, 0, id as u8 + 1]).await.unwrap();
            peer.expect(&[[0x70, 2, 0, id as u8 + 1]]).await.unwrap();
            let peak = Usage::of(host.id()).unwrap().peak;
            let first = *first.get_or_insert(peak);
            assert!(peak < first + (4 << 20), "{first} bytes after the first, {peak} after round {round}");
        }
        peer.send(&peer.publish(1, 99, b"fits")).await.unwrap();
        peer.expect(&[[0x40, 2, 0, 99]]).await.unwrap();
        let expected = 3 * usize::from(ROUNDS) + 1;
        let written = async || host.lines(OUT).is_ok_and(|lines| lines.len() == expected);
        wait_for("all are written", TIMEOUT, written).await.unwrap();
        let lines = host.lines(OUT).unwrap();
        assert_eq!(lines.last(), Some(&Line::new(TOPIC, "a/1", "fits")));
        for (line, qos) in lines.iter().zip((0..3).cycle()).take(expected - 1) {
            assert_eq!(line.topic, DEAD_LETTERS);
            let letter = line.json().unwrap();
            assert_eq!((&letter["stage"], &letter["qos"]), (&json!("oversized"), &json!(qos)));
            assert!(letter["size"].as_u64().unwrap() > 10 * LIMIT as u64, "{letter}");
        }
        let metrics = host.metrics().await.unwrap();
        let sum = |name: &str| metrics.sum(&format!("rivven_mqtt_source_{name}_total")).unwrap();
        assert_eq!((sum("oversized"), sum("connections")), (expected as u64 - 1, 1));
    }
}
