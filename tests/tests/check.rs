//! `check`: all well, and each thing broken in turn, against real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use rivven_integration_tests::broker::{Broker, PASSWORD, USERNAME};
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, SOURCE, TOPIC};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::net::free_port;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rumqttc::{ConnectReturnCode, QoS, SubscribeReasonCode};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);

/// What a check printed.
struct Checked {
    code: Option<i32>,
    lines: Vec<String>,
    error: String,
}

impl Checked {
    /// The lines with a tick or a cross.
    fn steps(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| !line.starts_with('!')).collect()
    }

    fn failures(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.starts_with('✗')).collect()
    }

    fn warnings(&self) -> Vec<&str> {
        self.lines.iter().filter_map(|line| line.strip_prefix("! ")).collect()
    }
}

async fn check(config: &Value, options: &[&str]) -> Checked {
    let folder = tempfile::tempdir().unwrap();
    check_in(folder.path(), config, options).await
}

async fn check_in(folder: &Path, config: &Value, options: &[&str]) -> Checked {
    fs::write(folder.join("iot.yaml"), config.to_string()).unwrap();
    let output = host::run(&[&["check", "-c", "iot.yaml"], options].concat(), folder).await.unwrap();
    let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let error = String::from_utf8(output.stderr).unwrap();
    Checked { code: output.status.code(), lines, error }
}

/// A source that has nothing to be warned of but the broker's window, with the filter plugin.
fn source(url: &str) -> Value {
    let mut source = config::source(url, &["a/#", "b/+"]);
    config::persistent(&mut source, "checked");
    config::plugin(&mut source, &guests::example("filter").unwrap(), json!({ "threshold": 10 }));
    source
}

async fn sha256(component: &Path) -> String {
    let arguments = ["plugin", "inspect", "--json", component.to_str().unwrap()];
    let output = host::run(&arguments, Path::new(".")).await.unwrap();
    let inspected: Value = serde_json::from_slice(&output.stdout).unwrap();
    inspected["sha256"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_well_is_a_tick_for_each_part() {
    let broker = Broker::setup().password().start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    rivven.client().await.unwrap().create_topic(TOPIC, Some(5)).await.unwrap();
    let filter = guests::example("filter").unwrap();
    let sha256 = sha256(&filter).await;
    let mut source = source(&broker.url());
    source["plugin"]["sha256"] = sha256.clone().into();
    source["config"]["auth"] = json!({ "username": USERNAME, "password": PASSWORD });
    source["partitions"] = 2.into();
    let config = config::with_source(&rivven, source);

    let checked = check(&config, &[]).await;
    assert_eq!((checked.code, checked.error.as_str()), (Some(0), ""), "{:#?}", checked.lines);
    let server = rivven.address();
    // The client id of a check ends in random digits.
    let login = "✓ iot: mqtt_authentication: CONNECT as the user `fleet` with the client id `checked-check-";
    let steps = checked.steps();
    assert!(steps[3].starts_with(login), "{}", steps[3]);
    let expected = [
        "✓ configuration: read iot.yaml: sources iot".to_owned(),
        format!(
            "✓ iot: plugin: load {}, see that its imports are granted, call its init: sha256 {sha256}",
            filter.display()
        ),
        format!("✓ iot: broker_connectivity: TCP to 127.0.0.1:{}", broker.port()),
        steps[3].to_owned(),
        "✓ iot: subscription a/#: SUBSCRIBE to `a/#` at QoS 1".to_owned(),
        "✓ iot: subscription b/+: SUBSCRIBE to `b/+` at QoS 1".to_owned(),
        format!("✓ rivven: TCP to {server}, handshake"),
        "✓ iot: topic: iot-events: is there, with 5 partitions: `partitions: 2` does not change that"
            .to_owned(),
        "✓ iot: topic: iot-events.dlq: is not there: `run` creates it, with 2 partitions".to_owned(),
    ];
    assert_eq!(steps, expected);
    // It only looked.
    let mut client = rivven.client().await.unwrap();
    assert!(!client.list_topics().await.unwrap().contains(&"iot-events.dlq".to_owned()));
    assert_eq!(client.get_metadata(TOPIC).await.unwrap().1, 5);
    let log = broker.logs().await.unwrap();
    assert!(log.contains("Received DISCONNECT from checked-check-"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_is_not_disturbed() {
    let broker = Broker::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::persistent(&mut source, "checked");
    let config = config::without_rivven(source);
    let mut host = Host::start_with(&config, &["--sink", "file:out.jsonl"]).unwrap();
    host.ready().await.unwrap();
    let (checked, _) = tokio::join!(
        check(&config, &["--sink", "discard"]),
        publish(broker.port(), QoS::AtLeastOnce, (0..100).map(|n| Message::new("a/1", n.to_string()))),
    );
    assert_eq!(checked.code, Some(0), "{:#?}", checked.lines);
    host.wait_for_ledger("all are committed", TIMEOUT, |ledger| ledger.committed == 100).await.unwrap();
    assert_eq!(host.metrics().await.unwrap().sum("rivven_mqtt_source_disconnections_total").unwrap(), 0);

    // Its output file is in use, by itself.
    let checked = check_in(host.folder(), &config, &["--sink", "file:out.jsonl"]).await;
    assert_eq!(checked.code, Some(1));
    assert_eq!(
        checked.failures(),
        [
            "✗ output: append to out.jsonl: the output out.jsonl is in use by another process: give each host its own file; \
             choose a file that this user may write to and that no other host has"
        ]
    );
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    assert_eq!(host.lines("out.jsonl").unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_down_are_named_and_the_rest_is_tried() {
    let port = free_port().unwrap();
    let rivven = Rivven::reserve().unwrap();
    let server = rivven.address();
    let config = config::with_source(&rivven, source(&format!("mqtt://127.0.0.1:{port}")));
    let checked = check(&config, &[]).await;
    assert_eq!(checked.code, Some(1), "{:#?}", checked.lines);
    assert_eq!(
        checked.lines.iter().filter(|line| line.starts_with('✓')).count(),
        2,
        "configuration and plugin"
    );
    let advice = "start Rivven, or correct `broker.bootstrap_servers` (RIVVEN_BOOTSTRAP_SERVERS where the file has no `broker`)";
    let failures = checked.failures();
    let expected = [
        format!(
            "✗ iot: broker_connectivity: TCP to 127.0.0.1:{port}: cannot connect to the MQTT broker at 127.0.0.1:{port}: Connection refused (os error 111)"
        ),
        "✗ iot: mqtt_authentication: nothing: not tried, because broker_connectivity failed".to_owned(),
        "✗ iot: subscription a/#: nothing: not tried, because broker_connectivity failed".to_owned(),
        "✗ iot: subscription b/+: nothing: not tried, because broker_connectivity failed".to_owned(),
        format!("✗ rivven: TCP to {server}, handshake: "),
        "✗ iot: topic: iot-events: not tried, because no Rivven server could be used".to_owned(),
        "✗ iot: topic: iot-events.dlq: not tried, because no Rivven server could be used".to_owned(),
    ];
    assert_eq!(failures.len(), expected.len(), "{failures:#?}");
    for (line, expected) in failures.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{line}\n{expected}");
    }
    assert!(failures[4].contains("Connection refused") && failures[4].ends_with(advice), "{}", failures[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_with_what_to_do() {
    let broker = Broker::setup().password().start().await.unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    source["config"]["auth"] = json!({ "username": USERNAME, "password": "wrong horse" });
    let checked = check(&config::without_rivven(source), &["--sink", "discard"]).await;
    assert_eq!(checked.code, Some(1));
    let failures = checked.failures();
    assert_eq!(failures.len(), 2, "{failures:#?}");
    let reason = "the MQTT broker refused the login: not authorised (code 0x05); correct auth.username and auth.password, or \
                  let the broker allow this client";
    assert!(
        failures[0].starts_with("✗ iot: mqtt_authentication: CONNECT as the user `fleet`"),
        "{}",
        failures[0]
    );
    assert!(failures[0].ends_with(reason), "{}", failures[0]);
    assert_eq!(failures[1], "✗ iot: subscription a: nothing: not tried, because mqtt_authentication failed");
    let all = checked.lines.concat() + &checked.error;
    assert!(!all.contains("wrong horse"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_is_named_and_the_others_are_tried() {
    let broker = Scripted::listen().await.unwrap();
    let config = config::without_rivven(config::source(&broker.url(), &["secret/#", "good/#"]));
    let (checked, ()) = tokio::join!(check(&config, &["--sink", "discard"]), async {
        let (mut session, connect) = broker.accept().await.unwrap();
        assert!(connect.clean_session && connect.last_will.is_none());
        session.connack(false, ConnectReturnCode::Success).await.unwrap();
        for code in [SubscribeReasonCode::Failure, SubscribeReasonCode::Success(QoS::AtLeastOnce)] {
            let subscribe = session.subscribe().await.unwrap();
            session.suback(&subscribe, vec![code]).await.unwrap();
        }
        session.disconnect().await.unwrap();
    });
    assert_eq!(checked.code, Some(1));
    let failures = checked.failures();
    assert_eq!(failures.len(), 1, "{failures:#?}");
    let start =
        "✗ iot: subscription secret/#: SUBSCRIBE to `secret/#` at QoS 1: subscription to `secret/#`: ";
    assert!(failures[0].starts_with(start), "{}", failures[0]);
    assert!(checked.steps().contains(&"✓ iot: subscription good/#: SUBSCRIBE to `good/#` at QoS 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_load_or_start_is_told() {
    let broker = Broker::launch().await.unwrap();
    let with = |component: &Path, plugin_config: Value| {
        let mut source = config::source(&broker.url(), &["a"]);
        config::plugin(&mut source, component, plugin_config);
        config::without_rivven(source)
    };
    let wasip2 = |name| guests::component(name, guests::Build::Wasip2).unwrap();
    for (component, plugin_config, expected) in [
        (wasip2("hostile_sockets"), json!({}), "imports what is not granted:; wasi:sockets/"),
        (guests::example("filter").unwrap(), json!({}), "does not start: init failed: "),
    ] {
        let checked = check(&with(&component, plugin_config), &["--sink", "discard"]).await;
        assert_eq!(checked.code, Some(1), "{:#?}", checked.lines);
        let failures = checked.failures();
        assert_eq!(failures.len(), 1, "{failures:#?}");
        let start = format!("✗ iot: plugin: load {}, ", component.display());
        assert!(failures[0].starts_with(&start) && failures[0].contains(expected), "{}", failures[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_2() {
    let mut source = source("mqtt://127.0.0.1:1");
    source["config"]["qos"] = 3.into();
    let config = config::without_rivven(source);
    let checked = check(&config, &["--sink", "discard"]).await;
    assert_eq!(checked.code, Some(2));
    assert_eq!(checked.lines, ["✗ configuration: read iot.yaml: it cannot be used:"]);
    assert!(checked.error.starts_with("iot.yaml:1:"), "{}", checked.error);
    assert!(checked.error.contains("sources.iot.config.qos: is `3`"), "{}", checked.error);

    let checked = check(&config, &["--sink", "discard", "--json"]).await;
    assert_eq!(checked.code, Some(2));
    let report: Value = serde_json::from_str(&checked.lines.join("\n")).unwrap();
    assert_eq!((&report["ok"], &report["steps"][0]["passed"]), (&json!(false), &json!(false)));
    assert!(
        report["steps"][0]["reason"].as_str().unwrap().contains("sources.iot.config.qos: is `3`"),
        "{report:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_says_the_same() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::reserve().unwrap();
    let mut source = source(&broker.url());
    source["topic"] = "iot.{topic[0]}".into();
    source["dead_letter_topic"] = "dead".into();
    let config = config::with_source(&rivven, source);
    let checked = check(&config, &["--json"]).await;
    assert_eq!(checked.code, Some(1));
    let report: Value = serde_json::from_str(&checked.lines.join("\n")).unwrap();
    assert_eq!((&report["file"], &report["ok"]), (&json!("iot.yaml"), &json!(false)));
    let steps = report["steps"].as_array().unwrap();
    let of = |step: &Value| {
        (
            step["source"].as_str().map(str::to_owned),
            step["step"].as_str().unwrap().to_owned(),
            step["passed"].as_bool().unwrap(),
        )
    };
    let named = |step: &str, passed| (Some(SOURCE.to_owned()), step.to_owned(), passed);
    assert_eq!(
        steps.iter().map(of).collect::<Vec<_>>(),
        [
            (None, "configuration".to_owned(), true),
            named("plugin", true),
            named("broker_connectivity", true),
            named("mqtt_authentication", true),
            named("subscription a/#", true),
            named("subscription b/+", true),
            (None, "rivven".to_owned(), false),
            named("topic", true),
            named("topic", false),
        ]
    );
    assert!(steps[6]["advice"].as_str().unwrap().starts_with("start Rivven"), "{report:#}");
    assert_eq!(steps[7]["tried"], "iot.{topic[0]}");
    assert!(report["warnings"].as_array().unwrap().iter().any(|warning| warning["key"] == "plugin.sha256"));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_hurt_are_warned_of_by_check_and_by_run() {
    let broker = Broker::launch().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certificates = rivven_integration_tests::certs::Certificates::generate().unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    source["config"]["max_inflight"] = 10.into();
    config::plugin(&mut source, &guests::example("filter").unwrap(), json!({ "threshold": 1 }));
    let mut config = config::without_rivven(source);
    let safe =
        json!({ "client_id": "safe", "clean_session": false, "broker_url": broker.url(), "topics": ["b"] });
    config["sources"]["safe"] = json!({ "type": "mqtt-source", "topic": "t", "config": safe });
    let unverified = json!({
        "broker_url": "mqtts://127.0.0.1:1", "topics": ["b"], "qos": 0,
        "tls": { "insecure_skip_verify": true, "client_cert": "client.pem", "client_key": "client.key" },
    });
    config["sources"]["tls"] = json!({ "type": "mqtt-source", "topic": "t", "config": unverified });
    config["settings"]["state_dir"] = "/dev/shm/rivven-mqtt".into();
    fs::write(folder.path().join("client.pem"), &certificates.client).unwrap();
    fs::write(folder.path().join("client.key"), &certificates.client_key).unwrap();
    let checked = check_in(folder.path(), &config, &["--sink", "discard"]).await;
    let keys: Vec<String> = checked
        .warnings()
        .iter()
        .map(|line| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    let mut expected = vec![
        "safe: config.max_inflight",
        "iot: config.clean_session",
        "iot: config.max_inflight",
        "iot: plugin.sha256",
        "tls: config.tls.insecure_skip_verify",
        "tls: config.tls.client_key",
    ];
    let state = format!("settings.state_dir: {}", "/dev/shm/rivven-mqtt is in memory");
    expected.push(&state);
    assert_eq!(keys, expected, "{:#?}", checked.lines);

    config["sources"].as_object_mut().unwrap().remove("tls");
    config["settings"] = json!({});
    let mut host = Host::start_with(&config, &["--sink", "discard"]).unwrap();
    host.ready().await.unwrap();
    let log = host.log();
    for (source, key) in
        [("iot", "config.clean_session"), ("iot", "config.max_inflight"), ("iot", "plugin.sha256")]
    {
        let warned =
            log.lines().filter(|line| line.contains("WARN") && line.contains(key) && line.contains(source));
        assert_eq!(warned.count(), 1, "{source} {key}: {log}");
    }
    assert!(!log.contains("safe: "), "{log}");
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}
