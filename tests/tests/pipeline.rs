//! From a broker through a plugin into Rivven: what arrives is exactly what it should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rivven_integration_tests::broker::{Broker, PASSWORD, USERNAME};
use rivven_integration_tests::certs::Certificates;
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::http::Ledger;
use rivven_integration_tests::rivven::Rivven;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `received` messages have entered the host and all of them are settled.
async fn settled(host: &Host, received: u64) -> Ledger {
    let what = format!("{received} messages are settled");
    host.wait_for_ledger(&what, TIMEOUT, |ledger| ledger.received >= received && ledger.in_flight == 0)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_arrive_exactly_once_through_the_filter() {
    const COUNT: u64 = 10_000;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["plant/#"]);
    config::plugin(&mut source, &guests::example("filter").unwrap(), json!({ "threshold": 50 }));
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    host.ready().await.unwrap();

    let message =
        |n: u64| Message::new(format!("plant/{}", n % 7), format!(r#"{{"n":{n},"value":{}}}"#, n % 100));
    publish(broker.port(), QoS::AtLeastOnce, (0..COUNT).map(message)).await.unwrap();

    let ledger = settled(&host, COUNT).await;
    let expected =
        Ledger { received: COUNT, committed: COUNT / 2, dropped: COUNT / 2, dead_lettered: 0, in_flight: 0 };
    assert_eq!(ledger, expected);
    let records = rivven.consume_all(TOPIC).await.unwrap();

    // Exactly these keys and bytes, none missing and none twice.
    let mut found: Vec<_> = records.iter().map(|record| record.pair()).collect();
    let kept = (0..COUNT).filter(|n| n % 100 >= 50).map(message);
    let mut expected: Vec<_> = kept.map(|message| (message.topic, message.payload)).collect();
    found.sort();
    expected.sort();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "the records are not the messages that the filter lets pass");

    // Those of one key are in one partition, in the order of the broker.
    let mut last: HashMap<String, (u32, u64)> = HashMap::new();
    for record in &records {
        let n = record.json().unwrap()["n"].as_u64().unwrap();
        if let Some((partition, before)) = last.insert(record.key_text(), (record.partition, n)) {
            assert_eq!(partition, record.partition, "{} is in two partitions", record.key_text());
            assert!(before < n, "{} has {n} after {before}", record.key_text());
        }
    }

    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    assert_eq!(host.final_ledger().unwrap(), ledger);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_value_arrives_raw_and_as_base64_in_json() {
    let payload: Vec<u8> = (0..=255).collect();
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut config = config::with_source(&rivven, config::source(&broker.url(), &["bytes"]));
    let mut events = config::source(&broker.url(), &["bytes", "text", "document"]);
    events["topic"] = "events".into();
    events["format"] = "json".into();
    events["config"]["client_id"] = "events-client".into();
    config["sources"]["events"] = events;
    let mut host = Host::start(&config).unwrap();
    host.ready().await.unwrap();

    let messages = [
        Message::new("bytes", payload.clone()),
        Message::new("text", "not \"JSON\" \u{1F600}"),
        Message::new("document", r#"{"b": 1.50, "a": [null]}"#),
        Message::new("text", ""),
    ];
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();

    let raw = rivven.wait_for_records(TOPIC, 1, TIMEOUT).await.unwrap();
    assert_eq!(
        raw.iter().map(|record| record.pair()).collect::<Vec<_>>(),
        [("bytes".to_owned(), payload.clone())]
    );

    let mut events = rivven.wait_for_records("events", 4, TIMEOUT).await.unwrap();
    assert_eq!(events.len(), 4);
    // A JSON payload is embedded with its text untouched, not parsed and written anew.
    let document = events.iter().find(|record| record.key_text() == "document").unwrap();
    assert!(document.text().contains(r#""payload":{"b": 1.50, "a": [null]}"#), "{}", document.text());
    events.sort_by_key(|record| (record.key_text(), record.json().unwrap()["payload"].to_string()));
    let events: Vec<Value> = events.iter().map(|record| record.json().unwrap()).collect();
    let [bytes, document, empty, text] = &events[..] else { panic!("{events:#?}") };
    assert_eq!(bytes["payload_encoding"], "base64");
    assert_eq!(STANDARD.decode(bytes["payload"].as_str().unwrap()).unwrap(), payload);
    assert_eq!(document["payload"], json!({ "a": [null], "b": 1.5 }));
    assert_eq!((&empty["payload"], &text["payload"]), (&json!(""), &json!("not \"JSON\" \u{1F600}")));
    for event in &events {
        assert_eq!((&event["qos"], &event["retain"]), (&json!(1), &json!(false)));
        assert_eq!(event["metadata"]["client_id"], "events-client");
        assert_eq!(event["metadata"]["broker"], format!("127.0.0.1:{}", broker.port()));
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    for event in [document, empty, text] {
        assert!(event.get("payload_encoding").is_none(), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_quality_of_service_over_both_versions() {
    const COUNT: u64 = 300;
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut config = config::with_source(&rivven, json!(null));
    config["sources"] = json!({});
    for version in ["3.1.1", "5.0"] {
        for (level, qos) in ["at_most_once", "at_least_once", "exactly_once"].into_iter().enumerate() {
            let mut source = config::source(&broker.url(), &["q/#"]);
            source["topic"] = format!("out-{version}-{level}").into();
            source["config"]["mqtt_version"] = version.into();
            source["config"]["qos"] = qos.into();
            config["sources"][format!("v{version}-{level}")] = source;
        }
    }
    let mut host = Host::start(&config).unwrap();
    host.ready().await.unwrap();
    for (level, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        let messages = (0..COUNT).map(|n| Message::new(format!("q/{level}"), n.to_string()));
        publish(broker.port(), qos, messages).await.unwrap();
    }
    settled(&host, 6 * 3 * COUNT).await;
    let mut expected: Vec<_> = (0..3)
        .flat_map(|level| (0..COUNT).map(move |n| (format!("q/{level}"), n.to_string().into_bytes())))
        .collect();
    expected.sort();
    for version in ["3.1.1", "5.0"] {
        for level in 0..3 {
            let records = rivven.consume_all(&format!("out-{version}-{level}")).await.unwrap();
            let mut found: Vec<_> = records.iter().map(|record| record.pair()).collect();
            found.sort();
            assert!(found == expected, "{} records over {version} at QoS {level}", found.len());
        }
    }
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_client_certificate_and_a_password() {
    let certificates = Certificates::generate().unwrap();
    let broker = Broker::setup()
        .password()
        .tls(&certificates)
        .line("per_listener_settings false")
        .start()
        .await
        .unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in [
        ("ca.pem", &certificates.ca),
        ("client.pem", &certificates.client),
        ("client.key", &certificates.client_key),
    ] {
        std::fs::write(folder.path().join(file), content).unwrap();
    }
    let mut source = config::source(&broker.tls_url(), &["secure/#"]);
    source["config"]["auth"] =
        json!({ "username": USERNAME, "password": "${BROKER_PASSWORD:-correct horse}" });
    source["config"]["tls"] = json!({
        "ca_cert": folder.path().join("ca.pem"),
        "client_cert": folder.path().join("client.pem"),
        "client_key": folder.path().join("client.key"),
    });
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    host.ready().await.unwrap();
    let mut client = Client::login(broker.port(), "publisher").await.unwrap();
    client.publish(QoS::AtLeastOnce, [Message::new("secure/a", "over TLS")]).await.unwrap();
    let records = rivven.wait_for_records(TOPIC, 1, TIMEOUT).await.unwrap();
    assert_eq!(records[0].pair(), ("secure/a".to_owned(), b"over TLS".to_vec()));
    assert!(!host.log().contains(PASSWORD), "the password is in the log");
    assert!(!host.metrics().await.unwrap().0.keys().any(|series| series.contains(PASSWORD)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_and_an_unknown_authority_are_named_and_tried_again() {
    let certificates = Certificates::generate().unwrap();
    let broker = Broker::setup().password().tls(&certificates).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("other.pem"), Certificates::generate().unwrap().ca).unwrap();

    let mut source = config::source(&broker.url(), &["a"]);
    source["config"]["auth"] = json!({ "username": USERNAME, "password": "wrong horse" });
    let host = Host::start_with(&config::without_rivven(source), &["--sink", "discard"]).unwrap();
    let reason = host.not_ready("refused").await.unwrap();
    assert!(!reason.contains("wrong horse") && !host.log().contains("wrong horse"), "{reason}");

    let mut source = config::source(&broker.tls_url(), &["a"]);
    source["config"]["auth"] = json!({ "username": USERNAME, "password": PASSWORD });
    source["config"]["tls"] = json!({ "ca_cert": folder.path().join("other.pem") });
    let host = Host::start_with(&config::without_rivven(source), &["--sink", "discard"]).unwrap();
    host.not_ready("certificate").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transform_sets_key_and_topic_and_rejects_bad_json() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["site/#"]);
    source["config"]["qos"] = "exactly_once".into();
    source["config"]["client_id"] = "converter".into();
    config::plugin(&mut source, &guests::example("transform").unwrap(), json!({ "topic": "celsius" }));
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    // Retained before the subscription, so that it is delivered with the flag.
    publish(broker.port(), QoS::ExactlyOnce, [Message::new("site/2", "warm").retained()]).await.unwrap();
    host.ready().await.unwrap();
    let messages = [
        Message::new("site/1", r#"{"device": "d7", "fahrenheit": 212}"#),
        Message::new("site/1", r#"{"device": "d8", "fahrenheit": 32}"#),
        Message::new("site/3", b"\xff\xfe".to_vec()),
    ];
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();

    let ledger = settled(&host, 4).await;
    assert_eq!(ledger, Ledger { received: 4, committed: 2, dropped: 0, dead_lettered: 2, in_flight: 0 });
    let mut converted: Vec<_> = rivven
        .consume_all("celsius")
        .await
        .unwrap()
        .iter()
        .map(|record| (record.key_text(), record.text()))
        .collect();
    converted.sort();
    let expected = [("d7", r#"{"device":"d7","celsius":100.0}"#), ("d8", r#"{"device":"d8","celsius":0.0}"#)];
    assert_eq!(converted, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    assert_eq!(rivven.count(TOPIC).await.unwrap(), 0);

    let mut letters: Vec<Value> =
        rivven.consume_all(DEAD_LETTERS).await.unwrap().iter().map(|record| record.json().unwrap()).collect();
    letters.sort_by_key(|letter| letter["topic"].to_string());
    let [warm, bytes] = &letters[..] else { panic!("{letters:#?}") };
    assert_eq!((&warm["topic"], &warm["qos"], &warm["retain"]), (&json!("site/2"), &json!(2), &json!(true)));
    assert_eq!(STANDARD.decode(warm["payload_base64"].as_str().unwrap()).unwrap(), b"warm");
    assert_eq!(warm["reason"], "payload is not the expected JSON: expected value at line 1 column 1");
    assert_eq!(
        (&bytes["topic"], &bytes["qos"], &bytes["retain"]),
        (&json!("site/3"), &json!(1), &json!(false))
    );
    assert_eq!(STANDARD.decode(bytes["payload_base64"].as_str().unwrap()).unwrap(), b"\xff\xfe");
    for letter in &letters {
        assert_eq!((&letter["stage"], &letter["client_id"]), (&json!("plugin"), &json!("converter")));
        assert_eq!(letter["sha256"].as_str().unwrap().len(), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_account_for_every_reading_and_acknowledge_after_the_flush() {
    const COUNT: u64 = 2_000;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["room/+"]);
    config::plugin(&mut source, &guests::example("aggregate").unwrap(), json!({ "topic": "summaries" }));
    source["plugin"]["flush_interval_ms"] = 100.into();
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    host.ready().await.unwrap();
    let messages = (0..COUNT).map(|n| Message::new(format!("room/{}", n % 2), n.to_string()));
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();

    let ledger = settled(&host, COUNT).await;
    assert_eq!(
        ledger,
        Ledger { received: COUNT, committed: COUNT, dropped: 0, dead_lettered: 0, in_flight: 0 }
    );
    let records = rivven.consume_all("summaries").await.unwrap();
    for room in 0..2 {
        let summaries = records.iter().filter(|record| record.key_text() == format!("room/{room}"));
        let (mut count, mut sum, mut min, mut max) = (0, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for summary in summaries.map(|record| record.json().unwrap()) {
            let number = |name: &str| summary[name].as_f64().unwrap();
            count += summary["count"].as_u64().unwrap();
            sum += number("mean") * number("count");
            min = number("min").min(min);
            max = number("max").max(max);
        }
        // The even numbers below 2,000 are in one room, the odd ones in the other.
        assert_eq!((count, min, max), (COUNT / 2, room as f64, (COUNT - 2 + room) as f64));
        assert_eq!(sum.round() as u64, (0..COUNT).filter(|n| n % 2 == room).sum::<u64>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn destination_and_key_are_built_from_the_mqtt_topic() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["#"]);
    source["topic"] = "iot.{topic[0]}".into();
    source["key"] = "{topic[1]}".into();
    source["partitions"] = 2.into();
    source["dead_letter_topic"] = "lost".into();
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    host.ready().await.unwrap();
    let messages = ["plant/a/temp", "plant/b", "caf\u{e9} one/c"]
        .map(|topic| Message::new(topic, format!("from {topic}")));
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    settled(&host, 3).await;
    let mut plant: Vec<_> = rivven
        .consume_all("iot.plant")
        .await
        .unwrap()
        .iter()
        .map(|record| (record.key_text(), record.text()))
        .collect();
    plant.sort();
    let expected = [("a", "from plant/a/temp"), ("b", "from plant/b")];
    assert_eq!(plant, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    // What Rivven does not allow in names becomes `_`.
    assert_eq!(rivven.consume_all("iot.caf__one").await.unwrap()[0].key_text(), "c");
    let (_, partitions) = rivven.client().await.unwrap().get_metadata("iot.plant").await.unwrap();
    assert_eq!(partitions, 2);
}
