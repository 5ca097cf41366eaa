//! What only 5.0 has: properties of the connection and of messages. The sections are those of 5.0.

use std::time::{Duration, Instant};

use rivven_integration_tests::config::{self, TOPIC};
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};

use crate::{OUT, TIMEOUT, start, v5};

/// Accepts with a CONNACK that has these properties.
async fn accept(broker: &Scripted, properties: &[u8]) -> Session5 {
    let (mut session, _) = Session5::accept(broker).await.unwrap();
    let length = properties.len() as u8;
    session.raw(&[&[0x20, length + 3, 0, 0, length], properties].concat()).await.unwrap();
    session.grant().await.unwrap();
    session
}

/// Section 3.2.2.3.14: the server's keep-alive is the one that counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_keep_alive_of_the_server_is_obeyed() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = v5(config::source(&broker.url(), &["a/#"]));
    source["config"]["keep_alive_secs"] = 600.into();
    let mut host = start(source);
    let mut session = accept(&broker, &[0x13, 0, 1]).await;
    host.ready().await.unwrap();
    let before = Instant::now();
    for _ in 0..2 {
        session.ping(Duration::from_secs(5)).await.unwrap();
    }
    assert!(before.elapsed() > Duration::from_millis(900), "{:?}", before.elapsed());
}

/// Sections 3.2.2.3.2 and 3.2.2.3.7: what the server gives instead of what was asked for is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_assigned_client_id_and_a_shorter_session_are_told() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = v5(config::source(&broker.url(), &["a/#"]));
    config::persistent(&mut source, "mine");
    source["config"]["session_expiry_secs"] = 3_600.into();
    let mut host = start(source);
    let _session = accept(&broker, &[0x12, 0, 5, b'y', b'o', b'u', b'r', b's', 0x11, 0, 0, 0, 60]).await;
    host.ready().await.unwrap();
    host.wait_for_log("client_id=\"yours\"", TIMEOUT).await.unwrap();
    host.wait_for_log("the broker keeps the session for less long than was asked for", TIMEOUT)
        .await
        .unwrap();
    assert!(host.log().contains("session_expiry_secs=60 wanted=3600"), "{}", host.log());
}

/// Section 3.3.2.3.4: CONNECT allows no topic alias. One beside a topic changes nothing; one alone names no topic, on this
/// connection or on the next, and never the topic of another message.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_alias_never_names_a_topic() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(v5(config::source(&broker.url(), &["a/#"])));
    let (mut session, opening) = Session5::accept_fresh(&broker).await.unwrap();
    assert_eq!(opening.connect.properties.unwrap().topic_alias_max, None);
    let alias = |topic: &str, id| {
        let properties = PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, "x", Some(properties));
        publish.pkid = id;
        Packet::Publish(publish)
    };
    session.send(alias("a/1", 1)).await.unwrap();
    session.puback(1).await.unwrap();
    for _ in 0..2 {
        session.send(alias("", 2)).await.unwrap();
        host.not_ready("PUBLISH from the MQTT broker: the topic name is empty").await.unwrap();
        // DISCONNECT with 0x82, protocol error.
        session.disconnected(0x82).await.unwrap();
        (session, _) = Session5::accept_fresh(&broker).await.unwrap();
    }
    session.publish(2, "a/2", b"y").await.unwrap();
    session.puback(2).await.unwrap();
    let expected = [("a/1", "x"), ("a/2", "y")].map(|(topic, value)| Line::new(TOPIC, topic, value));
    assert_eq!(host.lines(OUT).unwrap(), expected);
}

/// Sections 3.3.2.3.3 and 3.3.2.3.8: messages may carry subscription identifiers and have little time left to live.
#[tokio::test(flavor = "multi_thread")]
async fn messages_with_properties_are_messages() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(v5(config::source(&broker.url(), &["a/#"])));
    let (mut session, _) = Session5::accept_fresh(&broker).await.unwrap();
    let properties = PublishProperties {
        subscription_identifiers: vec![1, 268_435_455],
        message_expiry_interval: Some(0),
        payload_format_indicator: Some(1),
        user_properties: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
        ..PublishProperties::default()
    };
    let mut publish = Publish::new("a/1", QoS::ExactlyOnce, "x", Some(properties));
    publish.pkid = 65_535;
    session.send(Packet::Publish(publish)).await.unwrap();
    let Packet::PubRec(pubrec) = session.receive().await.unwrap() else { panic!("no PUBREC") };
    assert_eq!(pubrec.pkid, 65_535);
    assert_eq!(host.lines(OUT).unwrap(), [Line::new(TOPIC, "a/1", "x")]);
    // PUBREL with a reason code and with properties (section 3.6.2).
    session.raw(&[0x62, 4, 0xff, 0xff, 0, 0]).await.unwrap();
    let Packet::PubComp(pubcomp) = session.receive().await.unwrap() else { panic!("no PUBCOMP") };
    assert_eq!(pubcomp.pkid, 65_535);
}
