//! What is subscribed to, and what the broker keeps.

use std::collections::BTreeMap;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;
use rumqttc::{ConnectReturnCode, QoS, SubscribeReasonCode};
use serde_json::json;

use crate::{lines, start, start_many, with};

#[tokio::test(flavor = "multi_thread")]
async fn key_topics() {
    let broker = Broker::launch().await.unwrap();
    let of = |filters: serde_json::Value| with(&broker.url(), json!({ "topics": filters }));
    // The last two share what comes: each message goes to one of them.
    let mut host = start_many([
        of(json!(["plain/topic"])),
        of(json!(["one/+/level", "+/+"])),
        of(json!(["all/#"])),
        of(json!(["$share/group/work/#"])),
        of(json!(["$share/group/work/#"])),
    ]);
    host.ready().await.unwrap();
    let mut topics = vec!["plain/topic", "one/x/level", "one/x/y/level", "all", "all/a/b", "nothing/of/this"];
    let work: Vec<String> = (0..20).map(|n| format!("work/{n}")).collect();
    topics.extend(work.iter().map(String::as_str));
    publish(broker.port(), QoS::AtLeastOnce, topics.iter().map(|topic| Message::new(*topic, "x")))
        .await
        .unwrap();

    // `+/+` has plain/topic and work/n as well.
    let found = lines(&host, 1 + (1 + 1 + 20) + 2 + 20).await;
    let of_source = |index: &str| -> Vec<String> {
        let mut keys: Vec<_> = found
            .iter()
            .filter(|line| line.topic == format!("to-{index}"))
            .map(|line| String::from_utf8(line.key.clone().unwrap()).unwrap())
            .collect();
        keys.sort();
        keys
    };
    let sorted = |mut topics: Vec<String>| {
        topics.sort();
        topics
    };
    assert_eq!(of_source("00"), ["plain/topic"]);
    let mut two_levels = work.clone();
    two_levels.extend(["one/x/level".into(), "plain/topic".into()]);
    assert_eq!(of_source("01"), sorted(two_levels));
    assert_eq!(of_source("02"), ["all", "all/a/b"]);
    let (third, fourth) = (of_source("03"), of_source("04"));
    assert!(!third.is_empty() && !fourth.is_empty(), "{third:?} {fourth:?}");
    assert_eq!(sorted([third, fourth].concat()), sorted(work));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_qos() {
    const SPELLINGS: [(&str, QoS); 7] = [
        ("", QoS::AtLeastOnce),
        ("at_most_once", QoS::AtMostOnce),
        ("at_least_once", QoS::AtLeastOnce),
        ("exactly_once", QoS::ExactlyOnce),
        ("0", QoS::AtMostOnce),
        ("1", QoS::AtLeastOnce),
        ("2", QoS::ExactlyOnce),
    ];
    let broker = Scripted::listen().await.unwrap();
    let spelled = SPELLINGS.into_iter().map(|(text, qos)| (json!(text), qos));
    // As numbers of YAML, too.
    let numbers = [(json!(0), QoS::AtMostOnce), (json!(2), QoS::ExactlyOnce)];
    let spellings: Vec<_> = spelled.chain(numbers).collect();
    let mut host = start_many(spellings.iter().enumerate().map(|(index, (spelling, _))| {
        let mut source = with(&broker.url(), json!({ "client_id": format!("c{index}") }));
        if spelling != "" {
            source["config"]["qos"] = spelling.clone();
        }
        source
    }));
    let mut asked = BTreeMap::new();
    let mut sessions = Vec::new();
    for _ in &spellings {
        let (session, connect, subscribe) = broker.accept_fresh().await.unwrap();
        asked.insert(connect.client_id, subscribe.filters[0].qos as u8);
        sessions.push(session);
    }
    let expected: BTreeMap<_, _> =
        spellings.iter().enumerate().map(|(index, (_, qos))| (format!("c{index}"), *qos as u8)).collect();
    assert_eq!(asked, expected);
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_qos_that_is_not_granted() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(with(&broker.url(), json!({ "topics": ["good", "bad/#"], "qos": "exactly_once" })));
    let (mut session, _) = broker.accept().await.unwrap();
    session.connack(false, ConnectReturnCode::Success).await.unwrap();
    let subscribe = session.subscribe().await.unwrap();
    let codes = [QoS::ExactlyOnce, QoS::AtLeastOnce].map(SubscribeReasonCode::Success);
    session.suback(&subscribe, codes.into()).await.unwrap();
    host.not_ready("subscription to `bad/#`: the broker grants only QoS 1, not 2").await.unwrap();
    drop(session);
    let _session = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_clean_session() {
    const WARNING: &str = "what is published while the connection is down";
    let broker = Scripted::listen().await.unwrap();
    let warned = async |keys, clean| {
        let mut host = start(with(&broker.url(), keys));
        let (mut session, connect, _) = broker.accept_fresh().await.unwrap();
        assert_eq!(connect.clean_session, clean);
        host.ready().await.unwrap();
        let (status, _) = tokio::join!(host.terminate(), session.disconnect());
        assert_eq!(status.unwrap().code(), Some(0));
        host.log().contains(WARNING)
    };
    assert!(warned(json!({}), true).await);
    assert!(warned(json!({ "clean_session": true, "qos": 2 }), true).await);
    assert!(!warned(json!({ "qos": 0 }), true).await);
    assert!(!warned(json!({ "clean_session": false, "client_id": "stays" }), false).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_clean_session_decides_about_what_comes_while_away() {
    let broker = Broker::launch().await.unwrap();
    for (clean, expected) in [(true, 0), (false, 1)] {
        let keys = json!({ "client_id": format!("client-{clean}"), "clean_session": clean });
        let mut host = start(with(&broker.url(), keys));
        host.ready().await.unwrap();
        assert_eq!(host.terminate().await.unwrap().code(), Some(0));
        publish(broker.port(), QoS::AtLeastOnce, [Message::new("a/1", "while away")]).await.unwrap();
        host.restart().unwrap();
        host.ready().await.unwrap();
        publish(broker.port(), QoS::AtLeastOnce, [Message::new("a/2", "back")]).await.unwrap();
        let all = [("a/1", "while away"), ("a/2", "back")];
        let expected: Vec<_> =
            all[1 - expected..].iter().map(|(topic, text)| Line::new("iot-events", topic, text)).collect();
        assert_eq!(lines(&host, expected.len()).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_session_expiry_secs() {
    let broker = Scripted::listen().await.unwrap();
    for (keys, expected) in [
        (json!({ "clean_session": false, "client_id": "c", "session_expiry_secs": 3_600 }), Some(3_600)),
        // For ever: that is what `clean_session: false` means on 3.1.1.
        (json!({ "clean_session": false, "client_id": "c" }), Some(u32::MAX)),
        // Absent is 0: the session ends with the connection (5.0 section 3.1.2.11.2).
        (json!({}), None),
    ] {
        let clean = keys["clean_session"].is_null();
        let mut source = with(&broker.url(), keys);
        source["config"]["mqtt_version"] = "5.0".into();
        let _host = start(source);
        let (_session, opening) = Session5::accept(&broker).await.unwrap();
        let properties = opening.connect.properties.unwrap();
        assert_eq!((opening.connect.clean_start, properties.session_expiry_interval), (clean, expected));
    }
}
