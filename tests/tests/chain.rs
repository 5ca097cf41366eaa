//! Several plugins in a row, and several workers side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::guests::{self, Build};
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::raw::Attack;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
const OUT: &str = "out.jsonl";

fn example(name: &str) -> PathBuf {
    guests::example(name).unwrap()
}

fn attacks() -> PathBuf {
    guests::component("hostile_attacks", Build::Wasip2).unwrap()
}

fn source(broker: &Broker, plugins: Value) -> Value {
    let mut source = config::source(&broker.url(), &["a/#"]);
    source["plugin"] = plugins;
    source
}

fn start(source: Value) -> Host {
    Host::start_with(&config::without_rivven(source), &["--sink", &format!("file:{OUT}")]).unwrap()
}

/// Publishes, and waits until all is settled.
async fn settle(host: &mut Host, broker: &Broker, payloads: &[&str]) {
    host.ready().await.unwrap();
    let messages = payloads.iter().map(|payload| Message::new("a/b", *payload));
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    let all = payloads.len() as u64;
    host.wait_for_ledger("all are settled", TIMEOUT, |it| it.received == all && it.in_flight == 0)
        .await
        .unwrap();
}

/// The SHA-256 of a component, as `plugin inspect` shows it.
async fn sha256(component: &std::path::Path) -> String {
    let arguments = ["plugin", "inspect", "--json", component.to_str().unwrap()];
    let inspected = host::run(&arguments, std::path::Path::new(".")).await.unwrap();
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    inspected["sha256"].as_str().unwrap().to_owned()
}

/// Payload, plugin, SHA-256 and reason of each dead letter.
fn letters(lines: &[Line]) -> Vec<[String; 4]> {
    let letters = lines.iter().filter(|line| line.topic == DEAD_LETTERS).map(|line| line.json().unwrap());
    letters
        .map(|letter| {
            let text = |name: &str| letter[name].as_str().unwrap().to_owned();
            let payload = STANDARD.decode(text("payload_base64")).unwrap();
            [String::from_utf8(payload).unwrap(), text("plugin"), text("sha256"), text("reason")]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_through_all_plugins_in_order() {
    let broker = Broker::launch().await.unwrap();
    let plugins = json!([
        { "path": example("filter"), "config": { "field": "fahrenheit", "threshold": 212 }, "workers": 2 },
        { "path": example("transform"), "config": { "topic": "celsius" } },
        // In Celsius and by the second one's output: it sees what that made.
        { "path": example("filter"), "config": { "field": "celsius", "threshold": 200 } },
    ]);
    let mut host = start(source(&broker, plugins));
    let reading = |n: u32| format!(r#"{{"device": "d{n}", "fahrenheit": {n}}}"#);
    let payloads = [reading(32), reading(212), reading(392), "bad".to_owned(), reading(572)];
    settle(&mut host, &broker, &payloads.each_ref().map(String::as_str)).await;

    let lines = host.lines(OUT).unwrap();
    let records: Vec<_> = lines.iter().filter(|line| line.topic != DEAD_LETTERS).cloned().collect();
    let celsius = |n, celsius| {
        Line::new("celsius", &format!("d{n}"), &format!(r#"{{"device":"d{n}","celsius":{celsius}}}"#))
    };
    assert_eq!(records, [celsius(392, "200.0"), celsius(572, "300.0")]);
    let reason = "payload is not the expected JSON: expected value at line 1 column 1";
    let transform = sha256(&example("transform")).await;
    assert_eq!(letters(&lines), [["bad", "example_transform", &transform, reason].map(str::to_owned)]);
    let ledger = host.ledger().await.unwrap();
    assert_eq!((ledger.committed, ledger.dropped, ledger.dead_lettered), (2, 2, 1));

    // Each has its own name and its own numbers.
    let metrics = host.metrics().await.unwrap();
    let calls = |name: &str| {
        metrics.0[&format!("rivven_mqtt_plugin_call_seconds_count{{source=\"iot\",plugin=\"{name}\"}}")]
    };
    let names = ["example_filter", "example_transform", "example_filter#2"];
    assert!(names.iter().all(|name| calls(name) >= 3.0), "an init for each of two workers, and a batch");
    let outputs = |name: &str| {
        metrics.0[&format!("rivven_mqtt_plugin_outputs_total{{source=\"iot\",plugin=\"{name}\"}}")]
    };
    assert_eq!(names.map(outputs), [0.0, 3.0, 0.0]);
    let status: Value = serde_json::from_str(&host.get("/status").await.unwrap().body).unwrap();
    let plugins = status["sources"][0]["plugins"].as_array().unwrap().iter();
    assert_eq!(plugins.map(|plugin| plugin["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_any_plugin_costs_its_message_and_names_the_plugin() {
    let broker = Broker::launch().await.unwrap();
    let filter = json!({ "path": example("filter"), "config": { "threshold": 0 } });
    for place in 0..2 {
        let mut plugins = vec![filter.clone()];
        plugins.insert(place, json!({ "path": attacks() }));
        let mut host = start(source(&broker, plugins.into()));
        settle(&mut host, &broker, &["1", "2", "trap", "3", "outputs:10000", "4"]).await;
        let lines = host.lines(OUT).unwrap();
        let records: Vec<_> =
            lines.iter().filter(|line| line.topic == TOPIC).map(|line| &line.value).collect();
        assert_eq!(records, ["1", "2", "3", "4"].map(str::as_bytes));
        let letters = letters(&lines);
        let of: Vec<_> =
            letters.iter().map(|[payload, plugin, ..]| (payload.as_str(), plugin.as_str())).collect();
        assert_eq!(of, [("trap", "hostile_attacks"), ("outputs:10000", "hostile_attacks")]);
        assert!(letters[1][3].contains("10000 outputs of one message"), "{letters:?}");
        assert!(
            host.log().contains("plugin fault") && host.log().contains("hostile_attacks"),
            "{}",
            host.log()
        );
        assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_holds_survives_the_fault_of_another_and_goes_through_those_behind() {
    let broker = Broker::launch().await.unwrap();
    let plugins = json!([
        { "path": attacks(), "flush_interval_ms": 86_400_000 },
        { "path": example("aggregate"), "config": { "topic": "sums" } },
        { "path": example("filter"), "config": { "field": "count", "threshold": 3 } },
    ]);
    let mut host = start(source(&broker, plugins));
    host.ready().await.unwrap();
    let payloads = ["1", "2", "trap", "3", "no number"];
    let messages = payloads.map(|payload| Message::new("a/b", payload)).into_iter();
    // Two readings are under the threshold of the last plugin, which sees the summaries.
    let others = ["5", "6"].map(|payload| Message::new("a/c", payload));
    publish(broker.port(), QoS::AtLeastOnce, messages.chain(others)).await.unwrap();
    // Only the flush of the shutdown settles the readings.
    host.wait_for_ledger("the bad ones are settled", TIMEOUT, |it| it.received == 7 && it.in_flight == 5)
        .await
        .unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    let ledger = host.final_ledger().unwrap();
    assert_eq!((ledger.committed, ledger.dead_lettered, ledger.in_flight), (5, 2, 0));
    let lines = host.lines(OUT).unwrap();
    let sums: Vec<_> = lines.iter().filter(|line| line.topic == "sums").collect();
    assert_eq!(sums.len(), 1, "{sums:?}");
    assert_eq!(sums[0].json().unwrap(), json!({ "min": 1.0, "mean": 2.0, "max": 3.0, "count": 3 }));
    let of: Vec<_> = letters(&lines).into_iter().map(|[payload, plugin, ..]| [payload, plugin]).collect();
    assert_eq!(of, [["trap", "hostile_attacks"], ["no number", "example_aggregate"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_each_topic_holds_with_four_workers() {
    const TOPICS: usize = 1_000;
    const EACH: usize = 20;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let plugin = json!({ "path": example("transform"), "config": { "topic": "celsius" }, "workers": 4 });
    let mut host = start(source(&broker, plugin));
    host.ready().await.unwrap();
    let message = |n: usize| {
        let (topic, sequence) = (n % TOPICS, n / TOPICS);
        Message::new(
            format!("a/{topic}"),
            format!(r#"{{"device":"{topic}","fahrenheit":{}}}"#, 32 + 9 * sequence),
        )
    };
    publish(broker.port(), QoS::AtLeastOnce, (0..TOPICS * EACH).map(message)).await.unwrap();
    let all = (TOPICS * EACH) as u64;
    host.wait_for_ledger("all are committed", TIMEOUT, |it| it.committed == all).await.unwrap();

    let mut of_topics = vec![Vec::new(); TOPICS];
    let lines = host.lines(OUT).unwrap();
    for line in &lines {
        let record = line.json().unwrap();
        let topic: usize = record["device"].as_str().unwrap().parse().unwrap();
        of_topics[topic].push(record["celsius"].as_f64().unwrap());
    }
    let expected: Vec<_> = (0..EACH).map(|sequence| 5.0 * sequence as f64).collect();
    for (topic, of_topic) in of_topics.iter().enumerate() {
        assert_eq!(*of_topic, expected, "a/{topic}");
    }
    // All four had something to do, or this would be no test of them: their topics are not in one order.
    let device = |line: &Line| line.json().unwrap()["device"].as_str().unwrap().to_owned();
    let first: Vec<_> = lines.iter().take(TOPICS).map(device).collect();
    assert_ne!(first, (0..TOPICS).map(|topic| topic.to_string()).collect::<Vec<_>>());
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_leaves_no_trace_in_the_state_of_an_earlier_plugin() {
    let broker = Broker::launch().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Faults at an exclamation mark.
    let second = folder.path().join("second.wasm");
    std::fs::write(&second, Attack::HugeList.component().unwrap()).unwrap();
    let plugins = json!([{ "path": attacks(), "name": "first" }, { "path": second }]);
    let mut host = start(source(&broker, plugins));
    settle(&mut host, &broker, &["set:j=kept", "set:k=lost!", "get:j", "get:k"]).await;
    let lines = host.lines(OUT).unwrap();
    let records: Vec<_> = lines.iter().filter(|line| line.topic == TOPIC).map(|line| &line.value).collect();
    assert_eq!(records, ["set:j=kept", "kept"].map(str::as_bytes));
    let of: Vec<_> = letters(&lines).into_iter().map(|[payload, plugin, ..]| [payload, plugin]).collect();
    assert_eq!(of, [["set:k=lost!", "second"]]);

    // What is durable is there for the plugin of that name.
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    host.restart().unwrap();
    settle(&mut host, &broker, &["get:j", "get:k"]).await;
    assert_eq!(host.lines(OUT).unwrap().last().unwrap().value, b"kept");
    assert_eq!(host.ledger().await.unwrap().dropped, 1);
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}
