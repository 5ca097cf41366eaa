//! Dead letters, read back and replayed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, DEAD_LETTERS, SOURCE, TOPIC};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::{self, Host, program};
use rivven_integration_tests::process::Process;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A source whose plugin takes nothing but readings in Fahrenheit.
fn strict(broker: &Broker) -> Value {
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::persistent(&mut source, "strict");
    config::plugin(&mut source, &guests::example("transform").unwrap(), json!({ "topic": TOPIC }));
    source
}

/// The same with a plugin that takes everything.
fn mended(source: &Value) -> Value {
    let mut source = source.clone();
    config::plugin(&mut source, &guests::example("filter").unwrap(), json!({ "threshold": 0 }));
    source
}

/// Publishes, and waits until all is settled; then the host is gone.
async fn settle(broker: &Broker, mut host: Host, messages: Vec<Message>) -> Host {
    let count = messages.len() as u64;
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    let done =
        |ledger: &rivven_integration_tests::http::Ledger| ledger.received >= count && ledger.in_flight == 0;
    host.wait_for_ledger("all are settled", TIMEOUT, done).await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    host
}

/// What `dlq` prints on stdout and stderr, and its exit code.
async fn dlq(folder: &Path, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = host::run(&[&["dlq"], arguments].concat(), folder).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// Lines of JSON that `dlq` prints.
async fn json_of(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let (out, error, code) = dlq(folder, arguments).await;
    assert_eq!(code, Some(0), "{error}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(folder: &Path, name: &str, config: &Value) {
    fs::write(folder.join(name), config.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_acknowledged_when_its_letter_is_committed() {
    let broker = Scripted::listen().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::plugin(&mut source, &guests::example("transform").unwrap(), json!({ "topic": TOPIC }));
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
    rivven.freeze().unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a", b"bad").await.unwrap();
    host.wait_for_ledger("it is received", TIMEOUT, |ledger| ledger.in_flight == 1).await.unwrap();
    session.silent(Duration::from_millis(200)).await.unwrap();
    rivven.thaw().unwrap();
    session.puback(1).await.unwrap();
    assert_eq!(rivven.count(DEAD_LETTERS).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_shown_and_replayed_once() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let source = strict(&broker);
    let host = Host::start(&config::with_source(&rivven, source.clone())).unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    let messages = vec![
        Message::new("a/good", r#"{"device": "d7", "fahrenheit": 212}"#),
        Message::new("a/bytes", bytes.clone()),
        Message::new("a/text", "offline\n"),
        Message::new("a/empty", r#"{"device": "", "fahrenheit": 1}"#),
    ];
    let host = settle(&broker, host, messages).await;
    let folder = host.folder();
    let config = fs::read_to_string(folder.join("config.yaml")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();

    // List, with each condition.
    let all = json_of(folder, &["list", "-c", "config.yaml", "--json"]).await;
    let mut topics: Vec<_> = all.iter().map(|letter| letter["topic"].as_str().unwrap()).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["a/bytes", "a/empty", "a/text"]);
    for letter in &all {
        assert!(letter["place"].as_str().unwrap().starts_with(&format!("{DEAD_LETTERS}/")), "{letter}");
        assert_eq!((&letter["stage"], &letter["attempts"]), (&json!("plugin"), &json!(1)));
        assert_eq!((&letter["source"], &letter["replayed"]), (&json!(SOURCE), &json!(false)));
    }
    for (condition, count) in [
        (["--reason", "DEVICE IS"], 1),
        (["--reason", "trapped"], 0),
        (["--stage", "plugin"], 3),
        (["--stage", "sink"], 0),
        (["--since", "1h"], 3),
        (["--until", "1h"], 0),
        (["--limit", "2"], 2),
        (["--source", SOURCE], 3),
    ] {
        let arguments = [&["list", "-c", "config.yaml", "--json"][..], &condition].concat();
        assert_eq!(json_of(folder, &arguments).await.len(), count, "{condition:?}");
    }
    let (text, ..) = dlq(folder, &["list", "-c", "config.yaml", "--reason", "device"]).await;
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("  plugin  1x  a/empty  device is empty"), "{text}");
    let (_, error, code) = dlq(folder, &["list", "-c", "config.yaml", "--source", "other"]).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("has no source other (it has iot)"), "{error}");

    // Show one of them, whole.
    let of =
        |topic: &str| all.iter().find(|letter| letter["topic"] == topic).unwrap()["place"].as_str().unwrap();
    let shown = json_of(folder, &["show", "-c", "config.yaml", "--json", of("a/bytes")]).await;
    let [shown] = &shown[..] else { panic!("{shown:?}") };
    let letter = &shown["letter"];
    assert_eq!(STANDARD.decode(letter["payload_base64"].as_str().unwrap()).unwrap(), bytes);
    assert_eq!((&letter["client_id"], &letter["plugin"]), (&json!("strict"), &json!("example_transform")));
    assert_eq!(
        (&letter["qos"], &letter["retain"], &letter["duplicate"]),
        (&json!(1), &json!(false), &json!(false))
    );
    assert_eq!(letter["sha256"].as_str().unwrap().len(), 64);
    let (text, ..) = dlq(folder, &["show", "-c", "config.yaml", of("a/text")]).await;
    assert!(text.contains("payload as text") && text.contains("offline\\n"), "{text}");

    // A dry run writes nothing and records nothing.
    let before = rivven.consume_all(TOPIC).await.unwrap();
    write(
        folder,
        "mended.yaml",
        &json!({ "broker": config["broker"], "settings": config["settings"], "sources": { SOURCE: mended(&source) } }),
    );
    let (printed, error, code) = dlq(folder, &["replay", "-c", "mended.yaml", "--dry-run"]).await;
    assert_eq!((printed.lines().count(), code), (3, Some(0)), "{error}");
    assert_eq!(rivven.consume_all(TOPIC).await.unwrap(), before);

    // Without a change they are rejected again, as new letters.
    let (_, error, code) = dlq(folder, &["replay", "-c", "config.yaml"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("iot: replayed 3 = committed 0 + dropped 0 + dead-lettered again 3"), "{error}");
    let all = json_of(folder, &["list", "-c", "config.yaml", "--json"]).await;
    let (replayed, new): (Vec<_>, Vec<_>) = all.iter().partition(|letter| letter["replayed"] == true);
    assert_eq!((replayed.len(), new.len()), (3, 3));
    assert!(replayed.iter().all(|letter| letter["attempts"] == 1), "{replayed:?}");
    assert!(new.iter().all(|letter| letter["attempts"] == 2), "{new:?}");

    // With the mended plugin they arrive, byte for byte, and only once.
    let (_, error, code) = dlq(folder, &["replay", "-c", "mended.yaml"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("replayed 3 = committed 3 + dropped 0 + dead-lettered again 0"), "{error}");
    let (_, again, _) = dlq(folder, &["replay", "-c", "mended.yaml"]).await;
    assert!(
        again.contains("replayed 0 = committed 0 + dropped 0 + dead-lettered again 0; replayed before: 6"),
        "{again}"
    );
    let records: BTreeMap<_, _> =
        rivven.consume_all(TOPIC).await.unwrap().iter().map(|record| record.pair()).collect();
    assert_eq!(rivven.count(TOPIC).await.unwrap(), before.len() as u64 + 3);
    assert_eq!(records["a/bytes"], bytes);
    assert_eq!(records["a/text"], b"offline\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_is_run_again_and_loses_nothing() {
    const LETTERS: usize = 1_500;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let source = strict(&broker);
    let host = Host::start(&config::with_source(&rivven, source.clone())).unwrap();
    let messages = (0..LETTERS).map(|n| Message::new(format!("a/{n}"), format!("bad {n}"))).collect();
    let host = settle(&broker, host, messages).await;
    let folder = host.folder();
    // One connection, so that it takes a while.
    let mut mended = config::with_source(&rivven, mended(&source));
    mended["broker"]["connections"] = 1.into();
    mended["settings"]["state_dir"] = "state".into();
    write(folder, "mended.yaml", &mended);
    let log = File::create(folder.join("replay.log")).unwrap();
    let child = Command::new(program("rivven-mqtt").unwrap())
        .args(["dlq", "replay", "-c", "mended.yaml"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut replay = Process::new(child, Signal::SIGKILL, Duration::from_secs(5));
    let begun = async || rivven.count(TOPIC).await.is_ok_and(|count| count > 400);
    wait_for("a part is replayed", TIMEOUT, begun).await.unwrap();
    assert_eq!(replay.status().unwrap(), None, "{}", fs::read_to_string(folder.join("replay.log")).unwrap());
    replay.end().await.unwrap();
    let first = rivven.count(TOPIC).await.unwrap() as usize;
    assert!(first < LETTERS, "it was done before it was killed");

    let (_, error, code) = dlq(folder, &["replay", "-c", "mended.yaml"]).await;
    assert_eq!(code, Some(0), "{error}");
    let mut copies = BTreeMap::new();
    for record in rivven.consume_all(TOPIC).await.unwrap() {
        *copies.entry(record.text()).or_insert(0) += 1;
    }
    assert_eq!(copies.len(), LETTERS);
    let twice: usize = copies.values().sum::<usize>() - LETTERS;
    assert!(twice <= 256 && copies.values().all(|copies| *copies <= 2), "{twice} were written twice");
    // What had been recorded was not replayed again.
    let before: usize = error
        .split("replayed before: ")
        .nth(1)
        .and_then(|rest| rest.split(';').next()?.trim().parse().ok())
        .unwrap_or_else(|| panic!("{error}"));
    assert!(before >= 256 && before <= first, "{before} of {first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_file_are_replayed_into_it() {
    let broker = Broker::launch().await.unwrap();
    let mut source = strict(&broker);
    source["config"]["max_packet_size"] = 1_024.into();
    let host =
        Host::start_with(&config::without_rivven(source.clone()), &["--sink", "file:out.jsonl"]).unwrap();
    let messages = vec![
        Message::new("a/text", "offline"),
        Message::new("a/large", vec![b'x'; 2_000]),
        Message::new("a/bytes", b"\xff\0".to_vec()),
    ];
    let host = settle(&broker, host, messages).await;
    let folder = host.folder();
    let mut config = config::without_rivven(mended(&source));
    config["settings"]["state_dir"] = "state".into();
    write(folder, "mended.yaml", &config);
    let of_file = |command| [command, "-c", "mended.yaml", "--from", "file:out.jsonl"];
    let listed = json_of(folder, &[&of_file("list")[..], &["--json"]].concat()).await;
    assert_eq!(listed.len(), 3);
    assert!(
        listed.iter().all(|letter| letter["place"].as_str().unwrap().starts_with("out.jsonl@")),
        "{listed:?}"
    );
    let replay = [&of_file("replay")[..], &["--sink", "file:out.jsonl"]].concat();
    let (_, error, code) = dlq(folder, &replay).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("iot: replayed 2 = committed 2"), "{error}");
    assert!(error.contains("cannot be replayed: the payload of 20"), "{error}");
    let (_, again, _) = dlq(folder, &replay).await;
    assert!(again.contains("replayed 0 = ") && again.contains("replayed before: 2"), "{again}");
    let lines = host.lines("out.jsonl").unwrap();
    let replayed: Vec<_> =
        lines.iter().filter(|line| line.topic == TOPIC).map(|line| line.value.clone()).collect();
    assert_eq!(replayed, [b"offline".to_vec(), b"\xff\0".to_vec()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_a_plugin_holds_are_replayed_when_it_is_flushed() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let source = strict(&broker);
    let host = Host::start(&config::with_source(&rivven, source.clone())).unwrap();
    let messages = ["20", "22", "warm"].map(|reading| Message::new("a/b", reading));
    let host = settle(&broker, host, messages.into()).await;
    let mut aggregating = source;
    config::plugin(&mut aggregating, &guests::example("aggregate").unwrap(), json!({ "topic": "sums" }));
    aggregating["plugin"]["flush_interval_ms"] = 86_400_000.into();
    write(host.folder(), "aggregate.yaml", &config::with_source(&rivven, aggregating));
    let replay = ["replay", "-c", "aggregate.yaml"];
    let (_, error, code) = dlq(host.folder(), &replay).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(
        error.contains("replayed 3 = committed 2 + dropped 0 + dead-lettered again 1; replayed before: 0"),
        "{error}"
    );
    let sums = rivven.consume_all("sums").await.unwrap();
    let counts: Vec<_> = sums.iter().map(|record| record.json().unwrap()["count"].clone()).collect();
    assert_eq!(counts, [2]);
    // What was held is replayed for good; the letter that came back is a new one.
    let (_, again, _) = dlq(host.folder(), &replay).await;
    assert!(again.contains("replayed 1 = ") && again.contains("replayed before: 3"), "{again}");
    assert_eq!(rivven.count("sums").await.unwrap(), 1);
}
