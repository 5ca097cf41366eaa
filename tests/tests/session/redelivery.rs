//! What comes again (section 4.4), and acknowledgements (sections 4.3.2 and 4.6).

use rivven_integration_tests::config::{self, TOPIC};
use rivven_integration_tests::guests;
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::scripted::Scripted;
use rumqttc::QoS;
use serde_json::json;

use crate::{A_WHILE, OUT, TIMEOUT, persistent_source, stalled, start};

/// Sections 3.3.1.1 and 4.4: DUP after the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_at_qos_1_is_processed_again() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(persistent_source(&broker, "at_least_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish(QoS::AtLeastOnce, 3, "a/1", b"x").await.unwrap();
    session.puback(3).await.unwrap();
    drop(session);
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    // The broker has not seen the PUBACK. DUP is no reason to drop a message: the first copy might have been lost.
    session.redeliver(QoS::AtLeastOnce, 3, "a/1", b"x").await.unwrap();
    session.puback(3).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap().len(), 2);
    assert_eq!(host.ledger().await.unwrap().received, 2);
}

/// Section 4.4: DUP while the first copy is still in flight. Both are messages, and the connection that the second came on gets
/// its acknowledgement, after the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_at_qos_1_of_what_is_in_flight_is_processed_too() {
    let broker = Scripted::listen().await.unwrap();
    let (host, mut rivven) = stalled(persistent_source(&broker, "at_least_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish(QoS::AtLeastOnce, 3, "a/1", b"x").await.unwrap();
    host.wait_for_ledger("it is in flight", TIMEOUT, |ledger| ledger.in_flight == 1).await.unwrap();
    drop(session);
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.redeliver(QoS::AtLeastOnce, 3, "a/1", b"x").await.unwrap();
    host.wait_for_ledger("both are in flight", TIMEOUT, |ledger| ledger.in_flight == 2).await.unwrap();
    session.silent(A_WHILE).await.unwrap();
    rivven.start().await.unwrap();
    session.puback(3).await.unwrap();
    session.silent(A_WHILE).await.unwrap();
    host.wait_for_ledger("both are committed", TIMEOUT, |ledger| ledger.committed == 2).await.unwrap();
    assert_eq!(rivven.count(TOPIC).await.unwrap(), 2);
    assert_eq!(host.metrics().await.unwrap().sum("rivven_mqtt_source_redeliveries_total").unwrap(), 1);
}

/// Section 2.3.1: the least and the greatest identifier, which may both be in use at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_identifiers_1_and_65535_are_like_all_others() {
    let broker = Scripted::listen().await.unwrap();
    for (name, qos) in [("at_least_once", QoS::AtLeastOnce), ("exactly_once", QoS::ExactlyOnce)] {
        let host = start(persistent_source(&broker, name));
        let (mut session, ..) = broker.accept_fresh().await.unwrap();
        for id in [65_535, 1] {
            session.publish(qos, id, "a/1", id.to_string().as_bytes()).await.unwrap();
        }
        for id in [65_535, 1] {
            match qos {
                QoS::ExactlyOnce => session.pubrec(id).await.unwrap(),
                _ => session.puback(id).await.unwrap(),
            }
        }
        if qos == QoS::ExactlyOnce {
            for id in [1, 65_535] {
                session.pubrel(id).await.unwrap();
                session.pubcomp(id).await.unwrap();
            }
        }
        let lines = ["65535", "1"].map(|value| Line::new(TOPIC, "a/1", value));
        assert_eq!(host.lines(OUT).unwrap(), lines);
    }
}

/// Section 2.3.1: an identifier means something on its own connection only.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_never_leaves_on_a_later_connection() {
    let broker = Scripted::listen().await.unwrap();
    let (host, mut rivven) = stalled(persistent_source(&broker, "at_least_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish_many(QoS::AtLeastOnce, 3, "a/1", b"x").await.unwrap();
    host.wait_for_ledger("three in flight", TIMEOUT, |ledger| ledger.in_flight == 3).await.unwrap();
    drop(session);
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    rivven.start().await.unwrap();
    host.wait_for_ledger("three committed", TIMEOUT, |ledger| ledger.committed == 3).await.unwrap();
    // Packet ids mean something on their own connection only: here the broker may have given them to other messages.
    session.silent(A_WHILE).await.unwrap();
    session.redeliver(QoS::AtLeastOnce, 2, "a/1", b"x").await.unwrap();
    session.puback(2).await.unwrap();
}

/// Section 4.6.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_leave_in_receive_order() {
    const COUNT: u16 = 2_000;
    let broker = Scripted::listen().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#"]);
    source["config"]["max_inflight"] = 500.into();
    // Four workers finish in any order.
    config::plugin(&mut source, &guests::example("filter").unwrap(), json!({ "threshold": 10 }));
    source["plugin"]["workers"] = 4.into();
    let host = start(source);
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    let mut sent = 0;
    for id in 1..=COUNT {
        while sent < COUNT && sent < id + 400 {
            sent += 1;
            let payload = format!(r#"{{"value":{}}}"#, sent % 20);
            session
                .publish(QoS::AtLeastOnce, sent, &format!("a/{}", sent % 11), payload.as_bytes())
                .await
                .unwrap();
        }
        session.puback(id).await.unwrap();
    }
    assert_eq!(host.lines(OUT).unwrap().len(), usize::from(COUNT / 2));
}
