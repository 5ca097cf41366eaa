//! How much may be in the host, and how much of it at once.

use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::host::Host;
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;
use rumqttc::QoS;
use serde_json::{Value, json};

use crate::{TIMEOUT, lines, start, with};

/// A host whose messages stay in flight until `Rivven` is started.
fn stalled(source: Value) -> (Host, Rivven) {
    let rivven = Rivven::reserve().unwrap();
    (Host::start(&config::with_source(&rivven, source)).unwrap(), rivven)
}

#[tokio::test(flavor = "multi_thread")]
async fn key_max_inflight() {
    let broker = Scripted::listen().await.unwrap();
    let (host, mut rivven) = stalled(with(&broker.url(), json!({ "max_inflight": 7 })));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish_many(QoS::AtLeastOnce, 50, "a/1", b"x").await.unwrap();
    host.wait_for_ledger("the window is full", TIMEOUT, |ledger| ledger.in_flight == 7).await.unwrap();
    // None of these is acknowledged, and no other is taken.
    session.silent(std::time::Duration::from_millis(300)).await.unwrap();
    assert_eq!(host.ledger().await.unwrap().received, 7);
    rivven.start().await.unwrap();
    for id in 1..=50 {
        session.puback(id).await.unwrap();
        assert!(host.ledger().await.unwrap().in_flight <= 7);
    }
    let ledger =
        host.wait_for_ledger("all are settled", TIMEOUT, |ledger| ledger.in_flight == 0).await.unwrap();
    assert_eq!((ledger.received, ledger.committed), (50, 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_max_inflight_is_the_receive_maximum_of_5_0() {
    let broker = Scripted::listen().await.unwrap();
    for (keys, expected) in
        [(json!({ "max_inflight": 7 }), 7), (json!({}), 1_000), (json!({ "max_inflight": 65_535 }), 65_535)]
    {
        let mut source = with(&broker.url(), keys);
        source["config"]["mqtt_version"] = "5.0".into();
        let host = start(source);
        let (mut session, opening) = Session5::accept_fresh(&broker).await.unwrap();
        assert_eq!(opening.connect.properties.unwrap().receive_maximum, Some(expected));
        session.publish(3, "a/1", b"x").await.unwrap();
        session.puback(3).await.unwrap();
        assert_eq!(lines(&host, 1).await, [Line::new(TOPIC, "a/1", "x")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_max_inflight_bytes() {
    let broker = Scripted::listen().await.unwrap();
    let (host, _rivven) =
        stalled(with(&broker.url(), json!({ "max_inflight_bytes": 65_536, "max_packet_size": 65_536 })));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    // With its topic each has 20,000 bytes: three have room.
    session.publish_many(QoS::AtLeastOnce, 10, "a/1", &[b'x'; 20_000 - 3]).await.unwrap();
    host.wait_for_ledger("the window is full", TIMEOUT, |ledger| ledger.in_flight == 3).await.unwrap();
    session.silent(std::time::Duration::from_millis(300)).await.unwrap();
    assert_eq!(host.ledger().await.unwrap().received, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_max_batch() {
    let broker = Scripted::listen().await.unwrap();
    for (keys, greatest) in [(json!({ "max_batch": 7 }), 7), (json!({}), 500)] {
        let host = start(with(&broker.url(), keys));
        let (mut session, ..) = broker.accept_fresh().await.unwrap();
        session.publish_many(QoS::AtLeastOnce, 500, "a/1", b"x").await.unwrap();
        for id in 1..=500 {
            session.puback(id).await.unwrap();
        }
        let metrics = host.metrics().await.unwrap();
        let sum = |name: &str| metrics.sum(&format!("rivven_mqtt_source_{name}")).unwrap();
        assert_eq!(sum("batch_messages_total"), 500);
        assert!((1..=greatest).contains(&sum("batch_size_min")), "{}", sum("batch_size_min"));
        assert!(sum("batch_size_max") <= greatest && sum("batches_total") >= 500 / greatest);
        // All came in one write, so without the bound there are greater batches.
        assert!(greatest == 7 || sum("batch_size_max") > 7, "{}", sum("batch_size_max"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_max_packet_size() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(with(&broker.url(), json!({ "max_packet_size": 2_048 })));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    // A PUBLISH of 2,048 bytes has a head of 3, a topic with its length of 7, and a packet identifier.
    let fits = vec![b'x'; 2_048 - 12];
    session.publish(QoS::AtLeastOnce, 1, "a/big", &vec![b'x'; 300_000]).await.unwrap();
    session.publish(QoS::AtLeastOnce, 2, "a/big", &fits).await.unwrap();
    session.publish(QoS::AtLeastOnce, 3, "a/big", &[&fits[..], b"x"].concat()).await.unwrap();
    for id in 1..=3 {
        session.puback(id).await.unwrap();
    }
    let lines = lines(&host, 3).await;
    let letters: Vec<Value> =
        lines.iter().filter(|line| line.topic == DEAD_LETTERS).map(|line| line.json().unwrap()).collect();
    let sizes: Vec<_> = letters.iter().map(|letter| letter["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [300_000 + 13, 2_049]);
    assert!(letters.iter().all(|letter| letter["topic"] == "a/big" && letter["payload_base64"].is_null()));
    assert!(lines.contains(&Line::new(TOPIC, "a/big", &"x".repeat(2_048 - 12))));
    let ledger = host.ledger().await.unwrap();
    assert_eq!((ledger.received, ledger.committed, ledger.dead_lettered), (3, 1, 2));
}

/// Up to the greatest packet that the protocol has (section 2.2.3 of 3.1.1): 256 MiB, and 4 bytes.
#[tokio::test(flavor = "multi_thread")]
async fn key_max_packet_size_up_to_that_of_the_protocol() {
    const GREATEST: usize = 268_435_460;
    let broker = Scripted::listen().await.unwrap();
    let keys = json!({ "max_packet_size": GREATEST, "max_inflight_bytes": GREATEST });
    let mut host =
        Host::start_with(&config::without_rivven(with(&broker.url(), keys)), &["--sink", "discard"]).unwrap();
    send_greatest(&broker).await;
    let ledger = host.ledger().await.unwrap();
    assert_eq!((ledger.received, ledger.committed), (1, 1));
    host.kill().await.unwrap();

    // Where that is not wanted it is skipped as it comes, and takes no memory.
    let host = start(with(&broker.url(), json!({})));
    send_greatest(&broker).await;
    let letter = lines(&host, 1).await[0].json().unwrap();
    assert_eq!((letter["topic"].as_str(), letter["size"].as_u64()), (Some("a"), Some(GREATEST as u64)));
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 200_000, "{peak} kB");
}

async fn send_greatest(broker: &Scripted) {
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.raw(&[0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a', 0, 9]).await.unwrap();
    let mut remaining = 268_435_455 - 5;
    let zeros = vec![b'x'; 1 << 20];
    while remaining > 0 {
        let now = zeros.len().min(remaining);
        session.raw(&zeros[..now]).await.unwrap();
        remaining -= now;
    }
    session.puback(9).await.unwrap();
}
