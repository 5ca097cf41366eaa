//! What a record looks like.

use rivven_integration_tests::config::TOPIC;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::scripted::{Scripted, Session};
use rumqttc::QoS;
use serde_json::{Value, json};

use crate::{lines, start, with};

/// A host that writes JSON events.
async fn events(keys: Value) -> (Host, Session, String) {
    let broker = Scripted::listen().await.unwrap();
    let mut source = with(&broker.url(), keys);
    source["format"] = "json".into();
    source["config"]["client_id"] = "me".into();
    let host = start(source);
    let (session, ..) = broker.accept_fresh().await.unwrap();
    (host, session, broker.address().to_string())
}

/// The values of the records of these payloads, byte for byte but for their time, which is replaced by T.
async fn values(keys: Value, payloads: &[&[u8]]) -> (Vec<String>, String) {
    let (host, mut session, broker) = events(keys).await;
    for (id, payload) in (7..).zip(payloads) {
        session.publish(QoS::AtLeastOnce, id, "a/1", payload).await.unwrap();
        session.puback(id).await.unwrap();
    }
    let values = lines(&host, payloads.len()).await.into_iter().map(|line| {
        assert_eq!((line.topic.as_str(), line.key.as_deref()), (TOPIC, Some(&b"a/1"[..])));
        let time = line.json().unwrap()["timestamp"].as_str().unwrap().to_owned();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
        String::from_utf8(line.value).unwrap().replace(&time, "T")
    });
    (values.collect(), broker)
}

const PAYLOADS: [&[u8]; 5] =
    [b" {\"b\": 1.50, \"a\":[null]} ", b"21.5", b"plain \"text\"", b"{\"cut\":", b"\xff\xfe"];

#[tokio::test(flavor = "multi_thread")]
async fn key_parse_json_payload() {
    let rest = r#""qos":1,"retain":false,"timestamp":"T""#;
    let record = |payload: &str| format!(r#"{{"topic":"a/1","payload":{payload},{rest}}}"#);
    // JSON stays as it was written, its spaces and its digits too.
    let same = [r#""plain \"text\"""#, r#""{\"cut\":""#, r#""//4=","payload_encoding":"base64""#];
    let parsed = [r#" {"b": 1.50, "a":[null]} "#, "21.5"].into_iter().chain(same).map(record);
    let (found, _) = values(json!({ "include_metadata": false }), &PAYLOADS).await;
    assert_eq!(found, parsed.collect::<Vec<_>>());

    let texts = [r#"" {\"b\": 1.50, \"a\":[null]} ""#, r#""21.5""#].into_iter().chain(same).map(record);
    let keys = json!({ "include_metadata": false, "parse_json_payload": false });
    let (found, _) = values(keys, &PAYLOADS).await;
    assert_eq!(found, texts.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn key_include_metadata() {
    let event = |metadata: &str| {
        format!(r#"{{"topic":"a/1","payload":1,"qos":1,"retain":false,"timestamp":"T"{metadata}}}"#)
    };
    let (found, broker) = values(json!({}), &[b"1", b"1"]).await;
    let metadata = |id: u16, pkid: u16| {
        format!(r#","metadata":{{"client_id":"me","broker":"{broker}","message_id":{id},"pkid":{pkid}}}"#)
    };
    assert_eq!(found, [event(&metadata(0, 7)), event(&metadata(1, 8))]);
    let (found, _) = values(json!({ "include_metadata": false }), &[b"1"]).await;
    assert_eq!(found, [event("")]);
}
