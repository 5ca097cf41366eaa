//! What a user sees on the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, SOURCE, TOPIC};
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::jsonl::{self, Line};
use rivven_integration_tests::net::free_port;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

async fn run(arguments: &[&str], folder: &Path) -> (Output, String) {
    let output = host::run(arguments, folder).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_a_bad_configuration_is_printed_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = "broker: {bootstrap_servers: [\"localhost:9092\"]}
sources:
  iot:
    type: mqtt-source
    topic: iot-events
    config:
      broker_url: mqtt://localhost:1883
      topcis: [\"a\"]
      qos: sometimes
      clean_session: false
      retry_max_ms: 1
      auth: {username: u, password: \"${RIVVEN_TEST_UNSET}\"}
settings: {http: {listen: \"9091\"}}
";
    fs::write(folder.path().join("bad.yaml"), file).unwrap();
    let started = Instant::now();
    let (output, error) = run(&["run", "-c", "bad.yaml"], folder.path()).await;
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    for (place, expected) in [
        ("bad.yaml:8:7: ", "topics"),
        ("bad.yaml:9:", "at_least_once"),
        ("bad.yaml:11:", "100"),
        ("bad.yaml:12:", "RIVVEN_TEST_UNSET"),
        ("bad.yaml:13:", "127.0.0.1:9091"),
    ] {
        let mut lines = error.lines().filter(|line| line.starts_with(place));
        let line = lines.next().unwrap_or_else(|| panic!("nothing about {place} in:\n{error}"));
        assert!(line.contains(expected), "{expected} is not in: {line}");
    }
    assert!(error.contains("client_id"), "clean_session: false needs a client_id:\n{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_exits_with_2_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code, expected) in [
        (&["--version"][..], 0, env!("CARGO_PKG_VERSION")),
        (&["--help"], 0, "plugin"),
        (&["run", "--help"], 0, "--sink"),
        (&["run", "--help"], 0, "Exit codes"),
        (&["run", "--help"], 0, "broker_url"),
        (&["plugin", "--help"], 0, "inspect"),
        (&["plugin", "inspect", "--help"], 0, "SHA-256"),
        (&["plugin", "test", "--help"], 0, "payload_base64"),
        (&[], 2, "Usage"),
        (&["run"], 2, "--config"),
        (&["run", "-c", "missing.yaml"], 2, "missing.yaml"),
        (&["run", "-c", "missing.yaml", "--sink", "kafka"], 2, "file:PATH"),
        (&["plugin", "test", "x.wasm"], 2, "--input"),
    ] {
        let (output, error) = run(arguments, folder.path()).await;
        let text = format!("{}{error}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {expected} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_go_to_stdout_to_a_file_and_nowhere() {
    let broker = Broker::launch().await.unwrap();
    let messages = || [Message::new("a/1", "text"), Message::new("a/2", b"\xff\0\n".to_vec())];
    let expected = [
        Line::new(TOPIC, "a/1", "text"),
        Line { value: b"\xff\0\n".to_vec(), ..Line::new(TOPIC, "a/2", "") },
    ];
    for sink in ["stdout", "file:out.jsonl", "discard"] {
        let source = config::source(&broker.url(), &["a/+"]);
        let mut host = Host::start_with(&config::without_rivven(source), &["--sink", sink]).unwrap();
        host.ready().await.unwrap();
        publish(broker.port(), QoS::AtLeastOnce, messages()).await.unwrap();
        host.wait_for_ledger("two are committed", TIMEOUT, |ledger| ledger.committed == 2).await.unwrap();
        assert_eq!(host.terminate().await.unwrap().code(), Some(0));
        match sink {
            "stdout" => assert_eq!(jsonl::parse(&host.stdout()).unwrap(), expected),
            "discard" => {
                assert_eq!((host.stdout(), host.lines("out.jsonl").unwrap()), (String::new(), vec![]))
            }
            _ => {
                assert_eq!(host.stdout(), "");
                assert_eq!(host.lines("out.jsonl").unwrap(), expected);
                // What a crash left of a line is cut, what is whole is kept.
                let path = host.folder().join("out.jsonl");
                let whole = fs::read(&path).unwrap();
                fs::write(&path, [&whole[..], br#"{"topic":"iot-ev"#].concat()).unwrap();
                host.restart().unwrap();
                host.ready().await.unwrap();
                publish(broker.port(), QoS::AtLeastOnce, messages()).await.unwrap();
                host.wait_for_ledger("two are committed", TIMEOUT, |ledger| ledger.committed == 2)
                    .await
                    .unwrap();
                assert_eq!(host.lines("out.jsonl").unwrap(), [expected.clone(), expected.clone()].concat());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_when_asked_for_and_never_on_stdout() {
    let broker = Broker::launch().await.unwrap();
    let source = config::source(&broker.url(), &["a"]);
    let options = ["--sink", "stdout", "--log-format", "json"];
    let mut host = Host::start_with(&config::without_rivven(source), &options).unwrap();
    host.ready().await.unwrap();
    host.terminate().await.unwrap();
    assert_eq!(host.stdout(), "");
    let log = host.log();
    let (events, rest): (Vec<_>, Vec<_>) = log.lines().partition(|line| line.starts_with('{'));
    assert!(events.len() > 2, "{log}");
    for event in events {
        let event: Value = serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {event}"));
        assert!(
            event["timestamp"].is_string() && event["level"].is_string() && event["message"].is_string(),
            "{event}"
        );
    }
    // Beside the log there is only the line that says how it ended.
    assert!(rest.iter().all(|line| line.starts_with(&format!("{SOURCE}: received 0"))), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_http_address_that_is_taken_is_an_error() {
    let broker = Broker::launch().await.unwrap();
    let port = free_port().unwrap();
    let _other = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::without_rivven(config::source(&broker.url(), &["a"]));
    config["settings"]["http"]["listen"] = format!("127.0.0.1:{port}").into();
    fs::write(folder.path().join("config.yaml"), config.to_string()).unwrap();
    let (output, error) = run(&["run", "-c", "config.yaml", "--sink", "discard"], folder.path()).await;
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&port.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_does_not_write_to_the_same_file() {
    let broker = Broker::launch().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sink = format!("file:{}", folder.path().join("shared.jsonl").display());
    let config = config::without_rivven(config::source(&broker.url(), &["a"]));
    let mut first = Host::start_with(&config, &["--sink", &sink]).unwrap();
    first.ready().await.unwrap();
    let mut second = Host::start_with(&config, &["--sink", &sink]).unwrap();
    assert_eq!(second.ended().await.unwrap().code(), Some(1));
    assert!(second.log().contains("shared.jsonl"), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_ends_it_as_sigterm_does() {
    let broker = Broker::launch().await.unwrap();
    let config = config::without_rivven(config::source(&broker.url(), &["a"]));
    let mut host = Host::start_with(&config, &["--sink", "discard"]).unwrap();
    host.ready().await.unwrap();
    host.signal(nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(host.ended().await.unwrap().code(), Some(0));
    host.final_ledger().unwrap();
    let disconnected =
        async || broker.logs().await.is_ok_and(|log| log.contains("Received DISCONNECT from rivven-mqtt-"));
    wait_for("the broker has a DISCONNECT", TIMEOUT, disconnected).await.unwrap();
}
