//! What is subscribed to (section 3.8), and what of it a session keeps (section 3.1.2.4).

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, TOPIC};
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use rumqttc::{ConnectReturnCode, QoS, SubscribeReasonCode};

use crate::{OUT, TIMEOUT, persistent_source, start};

/// Section 3.9.3.
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

/// Section 3.2.2.2: a session is there as it was expected, and then it is gone.
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

/// Section 3.2.2.2: the broker has a session of a host that knows of none, because its state folder is new. What was subscribed to
/// in it is not known, so everything is subscribed to, which loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_not_expected_is_subscribed_again() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(persistent_source(&broker, "at_least_once"));
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a/1", b"queued").await.unwrap();
    let subscribe = session.subscribe().await.unwrap();
    session.puback(1).await.unwrap();
    session.suback(&subscribe, vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await.unwrap();
    host.ready().await.unwrap();
    assert_eq!(host.lines(OUT).unwrap(), [Line::new(TOPIC, "a/1", "queued")]);
}

/// [MQTT-3.2.2-1]: after a clean start there is no session.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_not_wanted_is_refused() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["a/#"]));
    let (mut session, _) = broker.accept_resumed().await.unwrap();
    host.not_ready("CONNACK from the MQTT broker: it speaks of a session, but a clean one was asked for")
        .await
        .unwrap();
    session.closed().await.unwrap();
    let _session = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

/// Section 3.10: what an earlier configuration subscribed to is unsubscribed, or its messages would come for ever. With a real
/// broker, that has to forget.
#[tokio::test(flavor = "multi_thread")]
async fn filters_of_an_earlier_configuration_are_unsubscribed() {
    let broker = Broker::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["old/#", "kept/#"]);
    config::persistent(&mut source, "changes");
    let mut host = start(source.clone());
    host.ready().await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));

    let file = host.folder().join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("old/#", "new/#")).unwrap();
    host.restart().unwrap();
    host.ready().await.unwrap();
    let messages = ["old/1", "kept/1", "new/1"].map(|topic| Message::new(topic, "x"));
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    let found = async || host.lines(OUT).is_ok_and(|lines| lines.len() == 2);
    wait_for("what is subscribed to has come", TIMEOUT, found).await.unwrap();
    let lines = host.lines(OUT).unwrap();
    assert_eq!(lines, ["kept/1", "new/1"].map(|topic| Line::new(TOPIC, topic, "x")));
}

/// Section 3.3.5: where filters overlap, a broker may send a message once, or once for each. Each copy is a message of its own.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_filters_bring_what_the_broker_sends() {
    let filters = ["a/#", "a/+", "a/1"];
    // Mosquitto sends it once.
    let broker = Broker::launch().await.unwrap();
    let mut host = start(config::source(&broker.url(), &filters));
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, ["x", "end"].map(|text| Message::new("a/1", text)))
        .await
        .unwrap();
    let ended = async || host.lines(OUT).is_ok_and(|lines| lines.len() >= 2);
    wait_for("all has come", TIMEOUT, ended).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap(), ["x", "end"].map(|text| Line::new(TOPIC, "a/1", text)));

    let broker = Scripted::listen().await.unwrap();
    let host = start(config::source(&broker.url(), &filters));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    for id in 1..=3 {
        session.publish(QoS::AtLeastOnce, id, "a/1", b"x").await.unwrap();
    }
    for id in 1..=3 {
        session.puback(id).await.unwrap();
    }
    assert_eq!(host.lines(OUT).unwrap().len(), 3);
}

/// Section 3.9.3: a code too few, or one too many, leaves open what was granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_suback_that_does_not_answer_each_filter_is_named() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["a/#", "b/#"]));
    for count in [1, 3] {
        let (mut session, _) = broker.accept().await.unwrap();
        session.connack(false, ConnectReturnCode::Success).await.unwrap();
        let subscribe = session.subscribe().await.unwrap();
        let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); count];
        session.suback(&subscribe, granted).await.unwrap();
        host.not_ready(&format!("SUBACK from the MQTT broker: {count} codes for 2 filters")).await.unwrap();
        session.closed().await.unwrap();
    }
    let _session = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}
