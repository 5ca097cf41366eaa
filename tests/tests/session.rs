//! The session with an MQTT broker, against one that does what no real broker does on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use rivven_integration_tests::config::{self, TOPIC};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use rumqttc::{ConnectReturnCode, QoS, SubscribeReasonCode};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough for a packet that must not come to show.
const A_WHILE: Duration = Duration::from_millis(300);
/// The file that the hosts here write their records to.
const OUT: &str = "out.jsonl";

/// A host that writes to [`OUT`].
fn start(source: Value) -> Host {
    Host::start_with(&config::without_rivven(source), &["--sink", &format!("file:{OUT}")]).unwrap()
}

fn persistent_source(broker: &Scripted, qos: &str) -> Value {
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::persistent(&mut source, "resumes");
    source["config"]["qos"] = qos.into();
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_subscribes_and_says_goodbye() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#", "b/+"]);
    source["config"]["client_id"] = "polite".into();
    source["config"]["keep_alive_secs"] = 7.into();
    let mut host = start(source);
    let (mut session, connect, subscribe) = broker.accept_fresh().await.unwrap();
    assert_eq!((connect.client_id.as_str(), connect.keep_alive, connect.clean_session), ("polite", 7, true));
    let filters: Vec<_> = subscribe.filters.iter().map(|filter| (filter.path.as_str(), filter.qos)).collect();
    assert_eq!(filters, [("a/#", QoS::AtLeastOnce), ("b/+", QoS::AtLeastOnce)]);
    host.ready().await.unwrap();

    session.publish(QoS::AtLeastOnce, 1, "a/1", b"x").await.unwrap();
    session.puback(1).await.unwrap();
    // Acknowledged means written.
    assert_eq!(host.lines(OUT).unwrap(), [Line::new(TOPIC, "a/1", "x")]);
    let (status, _) = tokio::join!(host.terminate(), async {
        session.disconnect().await.unwrap();
        session.closed().await.unwrap();
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_named_and_tried_again() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["good/#", "secret/#"]));
    let (mut session, _) = broker.accept().await.unwrap();
    session.connack(false, ConnectReturnCode::Success).await.unwrap();
    let subscribe = session.subscribe().await.unwrap();
    let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce), SubscribeReasonCode::Failure];
    session.suback(&subscribe, codes).await.unwrap();
    let reason = host.not_ready("secret/#").await.unwrap();
    assert!(!reason.contains("good/#"), "{reason}");
    drop(session);
    let (_session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_named_and_tried_again() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["a/#"]));
    let (mut session, _) = broker.accept().await.unwrap();
    session.connack(false, ConnectReturnCode::NotAuthorized).await.unwrap();
    host.not_ready("refused").await.unwrap();
    drop(session);
    let (_session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_is_not_subscribed_again_and_a_lost_one_is() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(persistent_source(&broker, "at_least_once"));
    let (session, connect, _) = broker.accept_fresh().await.unwrap();
    assert!(!connect.clean_session);
    host.ready().await.unwrap();
    drop(session);

    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.publish(QoS::AtLeastOnce, 9, "a/1", b"resumed").await.unwrap();
    // A SUBSCRIBE would come before this.
    session.puback(9).await.unwrap();
    host.ready().await.unwrap();
    drop(session);

    let (_session, _, subscribe) = broker.accept_fresh().await.unwrap();
    assert_eq!(subscribe.filters[0].path, "a/#");
    host.ready().await.unwrap();
}

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

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_never_leaves_on_a_later_connection() {
    let broker = Scripted::listen().await.unwrap();
    let mut rivven = Rivven::reserve().unwrap();
    let host =
        Host::start(&config::with_source(&rivven, persistent_source(&broker, "at_least_once"))).unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_told_to_stop_acknowledges_what_it_has_and_says_goodbye() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::plugin(&mut source, &guests::example("transform").unwrap(), json!({ "topic": "celsius" }));
    source["on_reject"] = "stop".into();
    let mut host = start(source);
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a/1", br#"{"device":"d","fahrenheit":212}"#).await.unwrap();
    session.puback(1).await.unwrap();
    session.publish(QoS::AtLeastOnce, 2, "a/1", b"no JSON").await.unwrap();
    session.disconnect().await.unwrap();
    session.closed().await.unwrap();
    let status = host.ended().await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", host.log());
    assert!(host.log().contains("cannot go on"), "{}", host.log());
}
