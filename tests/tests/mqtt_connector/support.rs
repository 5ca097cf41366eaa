//! Steps that many of the tests have in common.

use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::wait::wait_for;
use rivven_mqtt::{Event, MqttSource, MqttSourceConfig, SourceOptions};
use rumqttc::QoS;
use tempfile::TempDir;

pub const TIMEOUT: Duration = Duration::from_secs(30);
/// Topic of the message that is published behind all others: what has not come before it does not come.
pub const END: &str = "end";

/// Settings for these filters and [`END`].
pub fn config(url: impl Into<String>, filters: &[&str]) -> MqttSourceConfig {
    let filters = filters.iter().chain([END].iter().filter(|end| !filters.contains(end)));
    let mut config = MqttSourceConfig::new(url, filters.copied()).unwrap();
    // Brokers are down for moments here.
    (config.retry.initial, config.retry.max) = (Duration::from_millis(20), Duration::from_millis(200));
    config
}

/// The broker keeps the session of this client.
pub fn persistent(mut config: MqttSourceConfig, client_id: &str) -> MqttSourceConfig {
    config.client_id = client_id.to_owned();
    config.clean_session = false;
    config
}

pub fn source(config: MqttSourceConfig) -> MqttSource {
    assert!(config.clean_session, "its state would be written into the working folder");
    MqttSource::new(config).unwrap()
}

/// A source whose session survives it.
pub fn source_with_state(config: MqttSourceConfig, state: &TempDir) -> MqttSource {
    let options = SourceOptions { state_dir: state.path().to_owned(), ..SourceOptions::default() };
    MqttSource::with_options(config, options).unwrap()
}

/// Lets a source for which there is no message connect and subscribe.
pub async fn subscribed(source: &MqttSource) {
    let connected = async || {
        let batch = source.read_batch().await.unwrap().expect("the source has ended");
        assert!(batch.is_empty(), "{batch:?}");
        is_up(source)
    };
    if let Err(error) = wait_for("the source is subscribed", TIMEOUT, connected).await {
        panic!("{error}: {:?}", source.trouble());
    }
}

/// Whether a source is connected and subscribed.
pub fn is_up(source: &MqttSource) -> bool {
    source.metrics().snapshot().connections > 0 && source.trouble().is_none()
}

/// The next event.
pub async fn read(source: &MqttSource) -> Event {
    match tokio::time::timeout(TIMEOUT, source.read()).await {
        Ok(event) => event.unwrap().expect("the source has ended"),
        Err(_) => panic!("no event comes: {:?}", source.trouble()),
    }
}

/// The events before the one of [`END`], which is read and not acknowledged.
pub async fn read_to_end(source: &MqttSource) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = read(source).await;
        if event.topic() == END {
            return events;
        }
        events.push(event);
    }
}

/// The payloads of events as text, in their order.
pub fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.text().unwrap()).collect()
}

/// Topics and payloads of events.
pub fn contents(events: &[Event]) -> Vec<(String, Vec<u8>)> {
    events.iter().map(|event| (event.topic().to_owned(), event.payload().to_owned())).collect()
}

/// Topics and payloads of messages.
pub fn contents_of(messages: &[Message]) -> Vec<(String, Vec<u8>)> {
    messages.iter().map(|message| (message.topic.clone(), message.payload.clone())).collect()
}

/// Publishes these messages and the one of [`END`].
pub async fn publish_to_end(broker: &Broker, qos: QoS, messages: &[Message]) {
    let messages = messages.iter().cloned().chain([Message::new(END, "")]);
    publish(broker.port(), qos, messages).await.unwrap();
}

/// Numbers as messages of one topic.
pub fn numbers(topic: &str, numbers: std::ops::Range<usize>) -> Vec<Message> {
    numbers.map(|n| Message::new(topic, n.to_string())).collect()
}

/// Shuts the source down, and waits until it has ended.
pub async fn end(source: MqttSource) {
    source.shutdown();
    tokio::time::timeout(TIMEOUT, source.closed()).await.expect("the source does not end");
}

/// Drops a source that is not shut down, and waits until its thread has ended: until then the session's state is in use.
pub async fn let_go(source: MqttSource) {
    let client_id = source.config().client_id.clone();
    drop(source);
    thread_ends(&client_id).await;
}

/// Waits until no source with this client id has a thread.
pub async fn thread_ends(client_id: &str) {
    wait_for("the thread ends", TIMEOUT, async || threads(client_id) == 0).await.unwrap();
}

/// How many threads this process has for sources with this client id, which has at most 10 characters: a name has at most 15.
pub fn threads(client_id: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // One that ends meanwhile has no name any more.
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim_end() == format!("{client_id}-mqtt")).count()
}

/// How often `text` is in the log of the broker by now.
pub async fn count_in_log(broker: &Broker, text: &str) -> usize {
    broker.logs().await.unwrap().matches(text).count()
}

/// Waits until `text` is in the log of the broker so often.
pub async fn logged(broker: &Broker, text: &str, times: usize) {
    let mut found = 0;
    let enough = async || {
        found = count_in_log(broker, text).await;
        found >= times
    };
    let waited = wait_for(&format!("the broker logs {text:?} {times} times"), TIMEOUT, enough).await;
    if let Err(error) = waited {
        panic!("{error}; found {found}, its log:\n{}", broker.logs().await.unwrap());
    }
    assert_eq!(found, times, "{text:?} is in the broker's log too often");
}
