//! Exactly once (section 4.3.3).

use rivven_integration_tests::config::TOPIC;
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::scripted::Scripted;
use rumqttc::QoS;

use crate::{A_WHILE, OUT, TIMEOUT, persistent_source, stalled, start};

/// Sections 4.3.3 and 4.4: DUP after the commit, on the same connection, on the next, and after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_at_qos_2_is_acknowledged_and_not_processed_again() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(persistent_source(&broker, "exactly_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    session.pubrec(7).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap().len(), 1);
    session.redeliver(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    session.pubrec(7).await.unwrap();
    drop(session);

    // After a reconnect.
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.redeliver(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    session.pubrec(7).await.unwrap();

    // After a clean restart of the host: the ids are in the state folder.
    let (status, _) = tokio::join!(host.terminate(), session.disconnect());
    assert_eq!(status.unwrap().code(), Some(0));
    let suppressed = host.log();
    drop(session);
    host.restart().unwrap();
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.redeliver(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    session.pubrec(7).await.unwrap();
    session.pubrel(7).await.unwrap();
    session.pubcomp(7).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap(), [Line::new(TOPIC, "a/1", "once")], "{suppressed}");
    assert_eq!(
        host.metrics().await.unwrap().sum("rivven_mqtt_source_duplicates_suppressed_total").unwrap(),
        1
    );
    assert_eq!(host.ledger().await.unwrap().received, 0);

    // Released, the id belongs to another message.
    session.publish(QoS::ExactlyOnce, 7, "a/1", b"another").await.unwrap();
    session.pubrec(7).await.unwrap();
    session.pubrel(7).await.unwrap();
    session.pubcomp(7).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap()[1], Line::new(TOPIC, "a/1", "another"));
}

/// Sections 4.3.3 and 4.4: DUP while the first copy is in flight, on the same connection and on the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_at_qos_2_of_what_is_in_flight_waits_for_it() {
    let broker = Scripted::listen().await.unwrap();
    let (host, mut rivven) = stalled(persistent_source(&broker, "exactly_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    session.redeliver(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    host.wait_for_ledger("it is in flight", TIMEOUT, |ledger| ledger.in_flight == 1).await.unwrap();
    drop(session);
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.redeliver(QoS::ExactlyOnce, 7, "a/1", b"once").await.unwrap();
    session.silent(A_WHILE).await.unwrap();
    rivven.start().await.unwrap();
    session.pubrec(7).await.unwrap();
    session.pubrel(7).await.unwrap();
    session.pubcomp(7).await.unwrap();
    assert_eq!(rivven.count(TOPIC).await.unwrap(), 1);
    let ledger = host.ledger().await.unwrap();
    assert_eq!((ledger.received, ledger.committed), (1, 1));
    let suppressed = host.metrics().await.unwrap();
    assert_eq!(suppressed.sum("rivven_mqtt_source_duplicates_suppressed_total").unwrap(), 2);
}

/// Sections 4.3.3 and 4.4: a PUBREL for a known identifier, for one that is completed already, and for one that was never used.
#[tokio::test(flavor = "multi_thread")]
async fn a_pubrel_is_answered_after_a_resume_and_for_an_unknown_id() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(persistent_source(&broker, "exactly_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish(QoS::ExactlyOnce, 5, "a/1", b"x").await.unwrap();
    session.pubrec(5).await.unwrap();
    drop(session);
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    for id in [5, 5, 4_711] {
        session.pubrel(id).await.unwrap();
        session.pubcomp(id).await.unwrap();
    }
    assert_eq!(host.lines(OUT).unwrap().len(), 1);
}

/// Section 4.4: the first that comes after a resume is a PUBREL, on a host that was killed after it had answered the last one, and
/// on one that never saw it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pubrel_is_the_first_that_comes_after_a_restart() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(persistent_source(&broker, "exactly_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    for id in [5, 6] {
        session.publish(QoS::ExactlyOnce, id, "a/1", b"x").await.unwrap();
        session.pubrec(id).await.unwrap();
    }
    session.pubrel(6).await.unwrap();
    session.pubcomp(6).await.unwrap();
    host.kill().await.unwrap();
    drop(session);
    host.restart().unwrap();
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    for id in [6, 5, 4_711] {
        session.pubrel(id).await.unwrap();
        session.pubcomp(id).await.unwrap();
    }
    // All are free for other messages.
    for id in [5, 6, 4_711] {
        session.publish(QoS::ExactlyOnce, id, "a/1", b"new").await.unwrap();
        session.pubrec(id).await.unwrap();
    }
    assert_eq!(host.lines(OUT).unwrap().len(), 2 + 3);
}
