//! The library's source against a real broker: what is acknowledged, and when.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use rivven_integration_tests::broker::{Broker, PASSWORD, USERNAME};
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::wait::wait_for;
use rivven_mqtt::config::{Credentials, LastWill, Secret, Version};
use rivven_mqtt::{Event, MqttError, MqttSource, MqttSourceConfig, QoS, SourceOptions};
use rumqttc::QoS as PublishQoS;
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Settings of a client whose session the broker keeps.
fn persistent(broker: &Broker, client_id: &str) -> MqttSourceConfig {
    let mut config = MqttSourceConfig::new(broker.url(), ["plant/#"]).unwrap();
    config.client_id = client_id.to_owned();
    config.clean_session = false;
    config
}

fn source(config: MqttSourceConfig, state: &TempDir) -> MqttSource {
    let options = SourceOptions { state_dir: state.path().to_owned(), ..SourceOptions::default() };
    MqttSource::with_options(config, options).unwrap()
}

async fn read(source: &MqttSource) -> Event {
    let event = tokio::time::timeout(TIMEOUT, source.read()).await.expect("no event comes");
    event.unwrap().expect("the source has ended")
}

async fn end(source: MqttSource) {
    source.shutdown();
    tokio::time::timeout(TIMEOUT, source.closed()).await.expect("the source does not end");
}

/// Lets the source subscribe, without a message for it: the session exists from here on.
async fn subscribed(broker: &Broker, source: &MqttSource) {
    let batch = async || {
        assert!(source.read_batch().await.unwrap().unwrap().is_empty());
        source.metrics().snapshot().connections > 0 && source.trouble().is_none()
    };
    if let Err(error) = wait_for("the source is subscribed", TIMEOUT, batch).await {
        panic!("{error}: {:?}\n{}", source.trouble(), broker.logs().await.unwrap());
    }
}

async fn publish_numbers(broker: &Broker, numbers: std::ops::Range<usize>) {
    let messages = numbers.map(|n| Message::new("plant/a", n.to_string()));
    publish(broker.port(), PublishQoS::AtLeastOnce, messages).await.unwrap();
}

/// The messages that wait in the session for a new process, up to `last`.
async fn redelivered(config: MqttSourceConfig, state: &TempDir, last: &str) -> Vec<String> {
    let source = source(config, state);
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != last) {
        texts.push(read(&source).await.text().unwrap().to_owned());
    }
    assert!(source.read_batch().await.unwrap().unwrap().is_empty());
    end(source).await;
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_the_next_event_acknowledges_the_one_before_and_no_other() {
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let reader = source(persistent(&broker, "reader"), &state);
    subscribed(&broker, &reader).await;
    publish_numbers(&broker, 0..10).await;
    for n in 0..4 {
        let event = read(&reader).await;
        assert_eq!((event.topic(), event.text().unwrap()), ("plant/a", n.to_string().as_str()));
        assert_eq!((event.qos(), event.retain(), event.duplicate()), (QoS::AtLeastOnce, false, false));
    }
    // 0, 1 and 2 are acknowledged; 3 was read and nobody asked for the next.
    end(reader).await;
    let expected: Vec<_> = (3..10).map(|n| n.to_string()).collect();
    assert_eq!(redelivered(persistent(&broker, "reader"), &state, "9").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_source_acknowledges_nothing_more() {
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let reader = source(persistent(&broker, "dropped"), &state);
    subscribed(&broker, &reader).await;
    publish_numbers(&broker, 0..5).await;
    let event = read(&reader).await;
    read(&reader).await;
    drop(reader);
    let gone = async || broker.logs().await.unwrap().contains("Client dropped disconnected");
    wait_for("the source disconnects", TIMEOUT, gone).await.unwrap();
    // What was read stays readable.
    assert_eq!(event.text(), Ok("0"));
    assert_eq!(redelivered(persistent(&broker, "dropped"), &state, "4").await, ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_acknowledged_one_by_one() {
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let reader = source(persistent(&broker, "batches"), &state);
    subscribed(&broker, &reader).await;
    publish_numbers(&broker, 0..100).await;
    let mut acknowledged = 0;
    while acknowledged < 50 {
        let batch = reader.read_batch().await.unwrap().unwrap();
        let texts: Vec<_> = batch.events().map(|event| event.text().unwrap().to_owned()).collect();
        let expected: Vec<_> = (acknowledged..acknowledged + batch.len()).map(|n| n.to_string()).collect();
        assert_eq!(texts, expected);
        acknowledged += batch.len();
        batch.ack();
    }
    if acknowledged < 100 {
        // Read and not acknowledged.
        let batch = reader.read_batch().await.unwrap().unwrap();
        drop(batch);
    }
    // A message for certain behind what was acknowledged.
    end(reader).await;
    publish_numbers(&broker, 100..101).await;
    let expected: Vec<_> = (acknowledged..101).map(|n| n.to_string()).collect();
    assert_eq!(redelivered(persistent(&broker, "batches"), &state, "100").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_the_messages_and_streams_read_them() {
    let broker = Broker::setup().line("max_inflight_messages 0").start().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let first = source(persistent(&broker, "clones"), &state);
    subscribed(&broker, &first).await;
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let events = first.events();
            tokio::spawn(
                events
                    .map(|event| event.unwrap().text().unwrap().parse::<usize>().unwrap())
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    publish_numbers(&broker, 0..300).await;
    let all_acknowledged = async || {
        let ledger = first.ledger();
        ledger.received == 300 && ledger.in_flight() == 0
    };
    wait_for("all events are read and acknowledged", TIMEOUT, all_acknowledged).await.unwrap();
    first.shutdown();
    let mut read = Vec::new();
    for reader in readers {
        read.extend(reader.await.unwrap());
    }
    assert_eq!((read.len(), BTreeSet::from_iter(read)), (300, BTreeSet::from_iter(0..300)));
    end(first).await;
    // Streams that ended had asked for one more: everything is acknowledged.
    publish_numbers(&broker, 300..301).await;
    assert_eq!(redelivered(persistent(&broker, "clones"), &state, "300").await, ["300"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_says_disconnect_and_no_will_is_published() {
    let broker = Broker::launch().await.unwrap();
    let mut watcher = Client::connect(broker.port(), "watcher").await.unwrap();
    watcher.subscribe("wills/#", PublishQoS::AtLeastOnce).await.unwrap();
    let will = |topic: &str| {
        let mut config = MqttSourceConfig::new(broker.url(), ["plant/#"]).unwrap();
        config.client_id = topic.replace('/', "-");
        config.last_will = Some(LastWill {
            topic: topic.into(),
            payload: b"gone".to_vec(),
            qos: QoS::AtLeastOnce,
            retain: false,
        });
        MqttSource::new(config).unwrap()
    };
    let polite = will("wills/polite");
    subscribed(&broker, &polite).await;
    publish_numbers(&broker, 0..1).await;
    read(&polite).await;
    end(polite).await;
    // A source that dies with its thread's runtime cannot be had in this process, so the will is shown by a takeover: the broker
    // closes the connection of the client that was there first.
    let rude = will("wills/rude");
    subscribed(&broker, &rude).await;
    let _taker = Client::connect(broker.port(), "wills-rude").await.unwrap();
    let message = watcher.message(TIMEOUT).await.unwrap();
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("wills/rude", &b"gone"[..]));
    let said = async || broker.logs().await.unwrap().contains("Received DISCONNECT from wills-polite");
    wait_for("the polite source said goodbye", TIMEOUT, said).await.unwrap();
    end(rude).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_leaves_a_running_source_with_the_same_client_id_alone() {
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = persistent(&broker, "checked");
    let running = source(config.clone(), &state);
    subscribed(&broker, &running).await;
    publish(broker.port(), PublishQoS::AtLeastOnce, [Message::new("plant/kept", "r").retained()])
        .await
        .unwrap();
    assert_eq!(read(&running).await.text(), Ok("r"));
    for version in [Version::V4, Version::V5] {
        let mut config = config.clone();
        config.version = version;
        config.topics.push("$share/group/plant/#".into());
        let report = source(config, &state).check().await;
        assert!(report.passed(), "{report}");
        let names: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "broker_connectivity",
                "mqtt_authentication",
                "subscription plant/#",
                "subscription $share/group/plant/#",
                "configuration"
            ]
        );
    }
    publish_numbers(&broker, 0..1).await;
    assert_eq!(read(&running).await.text(), Ok("0"));
    let counts = running.metrics().snapshot();
    assert_eq!((counts.connections, counts.disconnections), (1, 0));
    let goodbyes = "Received DISCONNECT from checked-check-";
    let said = async || broker.logs().await.unwrap().matches(goodbyes).count() == 2;
    wait_for("both checks said goodbye", TIMEOUT, said).await.unwrap();
    end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_an_error_with_a_name() {
    let broker = Broker::setup().password().start().await.unwrap();
    let mut config = MqttSourceConfig::new(broker.url(), ["plant/#"]).unwrap();
    let login = |password: &str| {
        Some(Credentials { username: Some(USERNAME.to_owned()), password: Some(Secret::new(password)) })
    };
    for (version, expected) in [(Version::V4, 5), (Version::V5, 0x87)] {
        config.version = version;
        config.auth = login("hunter2");
        let source = MqttSource::new(config.clone()).unwrap();
        let error = tokio::time::timeout(TIMEOUT, source.read()).await.unwrap().unwrap_err();
        assert!(matches!(error, MqttError::BadCredentials { code, .. } if code == expected), "{error:?}");
        let report = source.check().await;
        let failed: Vec<_> =
            report.steps.iter().filter(|step| !step.passed).map(|step| step.name.as_str()).collect();
        assert_eq!(failed, ["mqtt_authentication", "subscription plant/#"]);
        assert!(!format!("{error}{error:?}{report}{report:?}{source:?}").contains("hunter2"));
        // One attempt, not a storm.
        assert_eq!(source.metrics().snapshot().errors, 1);
    }
    config.auth = login(PASSWORD);
    let good = MqttSource::new(config).unwrap();
    subscribed(&broker, &good).await;
    end(good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_an_error_with_the_filter() {
    let broker = Broker::setup().listener_line("max_qos 0").start().await.unwrap();
    let mut config = MqttSourceConfig::new(broker.url(), ["plant/a", "plant/b"]).unwrap();
    config.version = Version::V5;
    let source = MqttSource::new(config).unwrap();
    let error = tokio::time::timeout(TIMEOUT, source.read()).await.unwrap().unwrap_err();
    let MqttError::Subscription { filter, reason } = &error else { panic!("{error:?}") };
    assert_eq!((filter.as_str(), reason.as_str()), ("plant/a", "the broker grants only QoS 0, not 1"));
    let report = source.check().await;
    assert_eq!(
        report.step("subscription plant/b").unwrap().reason.as_deref(),
        Some("subscription to `plant/b`: the broker grants only QoS 0, not 1")
    );
    end(source).await;
}
