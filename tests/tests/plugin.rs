//! What a plugin may do, and what happens to one that does something else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::guests::{self, Build};
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::jsonl::{self, Line};
use rivven_integration_tests::scripted::Scripted;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
const OUT: &str = "out.jsonl";

fn wasip2(name: &str) -> PathBuf {
    guests::component(name, Build::Wasip2).unwrap()
}

fn start(source: Value) -> Host {
    Host::start_with(&config::without_rivven(source), &["--sink", &format!("file:{OUT}")]).unwrap()
}

/// What a host says that refuses a component; nothing has connected by then.
async fn refusal(component: &Path, change: impl FnOnce(&mut Value)) -> String {
    let broker = Scripted::listen().await.unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::plugin(&mut source, component, Value::Null);
    change(&mut source);
    let started = Instant::now();
    let mut host = start(source);
    let status = host.ended().await.unwrap();
    assert!(matches!(status.code(), Some(1 | 2)), "{status}: {}", host.log());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(broker.nobody_connects(Duration::from_millis(50)).await, "it has connected to the broker");
    host.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plugin_is_refused_before_anything_connects() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let text = refusal(&file("readme.wasm", b"this is no plugin"), |_| {}).await;
    assert!(text.contains("not a WebAssembly component"), "{text}");
    // The header of an empty core module.
    let core = refusal(&file("core.wasm", b"\0asm\x01\0\0\0"), |_| {}).await;
    assert!(core.contains("not a WebAssembly component"), "{core}");
    let damaged = fs::read(guests::example("filter").unwrap()).unwrap();
    refusal(&file("damaged.wasm", &damaged[..damaged.len() / 2]), |_| {}).await;
    let missing = refusal(&folder.path().join("missing.wasm"), |_| {}).await;
    assert!(missing.contains("missing.wasm"), "{missing}");
    let other = refusal(&wasip2("hostile_otherworld"), |_| {}).await;
    assert!(other.contains("rivven:connect/transform@0.1.0") && other.contains("greet"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_import_that_is_not_granted_is_named() {
    let refused = refusal(&wasip2("hostile_sockets"), |_| {}).await;
    let inspected = host::run(
        &["plugin", "inspect", "--json", wasip2("hostile_sockets").to_str().unwrap()],
        Path::new("."),
    )
    .await
    .unwrap();
    assert_eq!(inspected.status.code(), Some(1));
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let imports = inspected["imports"].as_array().unwrap();
    let missing: Vec<_> = imports.iter().filter(|import| import["granted"] == false).collect();
    assert!(missing.len() > 1, "{inspected:#}");
    for import in missing {
        let name = import["name"].as_str().unwrap();
        assert!(name.starts_with("wasi:sockets/"), "{name}");
        assert!(refused.contains(name), "{name} is not named in: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pin_and_a_wrong_configuration_are_refused() {
    let filter = guests::example("filter").unwrap();
    let pinned = refusal(&filter, |source| source["plugin"]["sha256"] = "0".repeat(64).into()).await;
    assert!(pinned.to_lowercase().contains("sha-256") || pinned.contains("sha256"), "{pinned}");
    let unconfigured = refusal(&filter, |_| {}).await;
    assert!(unconfigured.contains("threshold"), "{unconfigured}");
    let trapped =
        refusal(&wasip2("hostile_attacks"), |source| source["plugin"]["config"] = "trap".into()).await;
    assert!(trapped.contains("trapped in init"), "{trapped}");
    let spinning = refusal(&wasip2("hostile_attacks"), |source| {
        source["plugin"]["config"] = "spin".into();
        source["plugin"]["limits"]["deadline_ms"] = 200.into();
    })
    .await;
    assert!(spinning.contains("deadline"), "{spinning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_breaks_the_plugin_is_dead_lettered_and_the_rest_arrives() {
    const HONEST: usize = 500;
    // The attack, and what its dead letter has to say.
    let attacks = [
        ("trap", "trapped"),
        ("exit", "exit"),
        ("spin", "deadline"),
        // Rust's own stack is in the memory of the plugin and ends before the engine's.
        ("recurse", "trapped"),
        ("hog", "memory"),
        ("outputs:5000", "limits.outputs_per_message"),
        ("giant:3000000", "limits.output_bytes"),
    ];
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::plugin(&mut source, &wasip2("hostile_attacks"), Value::Null);
    source["plugin"]["limits"] = json!({ "memory_mb": 16, "deadline_ms": 200, "output_bytes": 2_000_000 });
    let mut host = start(source);
    host.ready().await.unwrap();

    let mut messages: Vec<_> = (0..HONEST).map(|n| Message::new("a/honest", n.to_string())).collect();
    for (n, (attack, _)) in attacks.iter().enumerate() {
        messages.insert(60 * n + 30, Message::new(format!("a/attack/{n}"), *attack));
    }
    let count = messages.len() as u64;
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    let settled =
        |ledger: &rivven_integration_tests::http::Ledger| ledger.received >= count && ledger.in_flight == 0;
    let ledger = host.wait_for_ledger("all are settled", TIMEOUT, settled).await.unwrap();
    assert_eq!((ledger.committed, ledger.dead_lettered), (HONEST as u64, attacks.len() as u64));

    let lines = host.lines(OUT).unwrap();
    let (letters, records): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.topic == DEAD_LETTERS);
    let mut found: Vec<usize> =
        records.iter().map(|line| String::from_utf8(line.value.clone()).unwrap().parse().unwrap()).collect();
    found.sort_unstable();
    assert!(found.into_iter().eq(0..HONEST), "honest messages are missing or doubled");
    for (n, (attack, expected)) in attacks.iter().enumerate() {
        let topic = format!("a/attack/{n}");
        let mut of_topic =
            letters.iter().map(|line| line.json().unwrap()).filter(|letter| letter["topic"] == topic);
        let letter = of_topic.next().unwrap_or_else(|| panic!("no dead letter of {attack}"));
        assert!(of_topic.next().is_none(), "two dead letters of {attack}");
        assert_eq!(STANDARD.decode(letter["payload_base64"].as_str().unwrap()).unwrap(), attack.as_bytes());
        assert_eq!((&letter["qos"], &letter["retain"]), (&json!(1), &json!(false)));
        assert!(letter["reason"].as_str().unwrap().contains(expected), "{attack}: {}", letter["reason"]);
    }
    let faults = host.metrics().await.unwrap().sum("rivven_mqtt_source_plugin_faults_total").unwrap();
    assert!(faults >= attacks.len() as u64, "{faults}");
    host.ready().await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sees_no_files_no_environment_and_no_trace_of_a_fault() {
    let broker = Broker::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::plugin(&mut source, &wasip2("hostile_attacks"), Value::Null);
    let mut host = start(source);
    host.ready().await.unwrap();
    let payloads = [
        "read:/etc/passwd",
        "read:config.yaml",
        "env",
        "set:k=kept",
        "set-trap:k=lost",
        "get:k",
        "get:nothing",
    ];
    publish(broker.port(), QoS::AtLeastOnce, payloads.map(|payload| Message::new("a", payload)))
        .await
        .unwrap();
    host.wait_for_ledger("all are settled", TIMEOUT, |ledger| ledger.received == 7 && ledger.in_flight == 0)
        .await
        .unwrap();
    let lines = host.lines(OUT).unwrap();
    let values: Vec<_> = lines
        .iter()
        .filter(|line| line.topic == TOPIC)
        .map(|line| String::from_utf8_lossy(&line.value).into_owned())
        .collect();
    assert_eq!(values, ["0 arguments, 0 variables", "set:k=kept", "kept"]);
    let letters = lines.iter().filter(|line| line.topic == DEAD_LETTERS).map(|line| line.json().unwrap());
    assert_eq!(letters.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_messages_are_dropped_or_stop_the_source_when_told_so() {
    let broker = Broker::launch().await.unwrap();
    let transform = guests::example("transform").unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::plugin(&mut source, &transform, json!({ "topic": "celsius" }));
    source["on_reject"] = "drop".into();
    let mut host = start(source.clone());
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("a", "bad")]).await.unwrap();
    host.wait_for_ledger("it is settled", TIMEOUT, |ledger| ledger.received == 1 && ledger.in_flight == 0)
        .await
        .unwrap();
    assert_eq!(host.lines(OUT).unwrap(), []);
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));

    source["on_reject"] = "stop".into();
    config::persistent(&mut source, "stops");
    let mut host = start(source.clone());
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("a", "bad")]).await.unwrap();
    assert_eq!(host.ended().await.unwrap().code(), Some(1));
    assert_eq!(host.final_ledger().unwrap().in_flight, 1);
    assert!(!broker.logs().await.unwrap().contains("Received PUBACK from stops"));

    // The message is still with the broker.
    source["on_reject"] = "dead_letter".into();
    let host = start(source);
    host.wait_for_ledger("it is settled", TIMEOUT, |ledger| ledger.dead_lettered == 1).await.unwrap();
    assert_eq!(host.lines(OUT).unwrap()[0].topic, DEAD_LETTERS);
}

/// Messages of every kind that the example plugins tell apart.
const MESSAGES: &str = r#"{"topic": "room/1", "payload": "{\"device\": \"d7\", \"fahrenheit\": 212, \"value\": 19}"}
{"topic": "room/2", "payload": "{\"device\": \"d8\", \"fahrenheit\": -40, \"value\": 21}", "qos": 2, "retain": true}
{"topic": "room/1", "payload": "21.5"}
{"topic": "room/2", "payload": "-3e2", "qos": 0}
{"topic": "room/1", "payload_base64": "//79AA=="}
{"topic": "r\u00f6\u00f6m", "payload": ""}
"#;

async fn plugin_test(folder: &Path, component: &Path, config: &str) -> String {
    fs::write(folder.join("m.jsonl"), MESSAGES).unwrap();
    let component = component.to_str().unwrap();
    let output = host::run(&["plugin", "test", component, "--input", "m.jsonl", "--config", config], folder)
        .await
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The dead letters name the component's file and hash, in which the builds differ.
fn comparable(records: &str) -> Vec<Line> {
    let mut lines = jsonl::parse(records).unwrap();
    for line in lines.iter_mut().filter(|line| line.topic == "dead-letters") {
        let mut letter = line.json().unwrap();
        letter["plugin"] = Value::Null;
        letter["sha256"] = Value::Null;
        line.value = letter.to_string().into_bytes();
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn both_builds_of_the_examples_give_the_same_records() {
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in [
        ("filter", r#"{"threshold": 20}"#),
        ("transform", r#"{"topic": "celsius"}"#),
        ("aggregate", "{}"),
        ("count", "{}"),
    ] {
        let name = format!("example_{name}");
        let [one, other] =
            [Build::Wasip2, Build::CargoComponent].map(|build| guests::component(&name, build).unwrap());
        assert_ne!(fs::read(&one).unwrap(), fs::read(&other).unwrap(), "{name}: that is one build twice");
        let one = comparable(&plugin_test(folder.path(), &one, config).await);
        let other = comparable(&plugin_test(folder.path(), &other, config).await);
        assert!(!one.is_empty(), "{name} makes no records");
        assert_eq!(one, other, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_builds_run_in_the_host() {
    let broker = Broker::launch().await.unwrap();
    for build in [Build::Wasip2, Build::CargoComponent] {
        let mut source = config::source(&broker.url(), &["a"]);
        let transform = guests::component("example_transform", build).unwrap();
        config::plugin(&mut source, &transform, json!({ "topic": "celsius" }));
        let mut host = start(source);
        host.ready().await.unwrap();
        let messages = (0..100)
            .map(|n| Message::new("a", format!(r#"{{"device":"d{n}","fahrenheit":{}}}"#, 32 + 9 * n)));
        publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
        host.wait_for_ledger("all are settled", TIMEOUT, |ledger| ledger.committed == 100).await.unwrap();
        let expected: Vec<_> = (0..100)
            .map(|n| {
                Line::new(
                    "celsius",
                    &format!("d{n}"),
                    &format!(r#"{{"device":"d{n}","celsius":{}.0}}"#, 5 * n),
                )
            })
            .collect();
        assert_eq!(host.lines(OUT).unwrap(), expected, "{build:?}");
        host.terminate().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_test_compares_with_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let filter = guests::example("filter").unwrap();
    let golden = plugin_test(folder.path(), &filter, r#"{"threshold": 20}"#).await;
    // One of six is below 20.
    assert_eq!(golden.lines().count(), 5);
    fs::write(folder.path().join("golden.jsonl"), &golden).unwrap();
    let run = async |threshold: &str| {
        let filter = filter.to_str().unwrap();
        let arguments = [
            "plugin",
            "test",
            filter,
            "--input",
            "m.jsonl",
            "--expect",
            "golden.jsonl",
            "--config",
            threshold,
        ];
        host::run(&arguments, folder.path()).await.unwrap()
    };
    assert_eq!(run(r#"{"threshold": 20}"#).await.status.code(), Some(0));
    let differs = run(r#"{"threshold": 22}"#).await;
    assert_eq!(differs.status.code(), Some(1));
    let shown = String::from_utf8(differs.stdout).unwrap();
    assert!(shown.contains("golden.jsonl:1") && shown.contains("room/2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_inspect_shows_a_component() {
    for build in [Build::Wasip2, Build::CargoComponent] {
        let filter = guests::component("example_filter", build).unwrap();
        let output =
            host::run(&["plugin", "inspect", filter.to_str().unwrap()], Path::new(".")).await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let size = fs::metadata(&filter).unwrap().len();
        for expected in [
            "plugin of rivven:connect 0.1.0",
            &size.to_string(),
            "rivven:connect/source@0.1.0",
            "memory_mb 64",
            "languages ",
            "Rust",
            "rustc 1.",
        ] {
            assert!(text.contains(expected), "{expected} is not in: {text}");
        }
    }
    let aggregate = guests::example("aggregate").unwrap();
    let output =
        host::run(&["plugin", "inspect", aggregate.to_str().unwrap()], Path::new(".")).await.unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("aggregating-plugin of rivven:connect 0.1.0"));
}
