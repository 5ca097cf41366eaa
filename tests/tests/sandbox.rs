//! The sandbox holds: whatever a plugin does, the host lives within its memory, the other sources go on, and the message is kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message};
use rivven_integration_tests::config;
use rivven_integration_tests::guests::{self, Build};
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::http::Ledger;
use rivven_integration_tests::raw::{self, Attack};
use rivven_integration_tests::wait::{wait_for, wait_until};
use rumqttc::QoS;
use serde_json::{Value, json};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(300);
const OUT: &str = "out.jsonl";
const DEADLINE_MS: u64 = 500;

/// What happens to the message that attacks.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It becomes a dead letter whose reason says this.
    DeadLetter(&'static str),
    /// It becomes this record, as the plugin survives.
    Record(&'static str),
}

use Fate::{DeadLetter, Record};

/// The attacks that a compiled plugin can make: what the message says, and what happens to it.
const COMPILED: &[(&str, Fate)] = &[
    ("trap", DeadLetter("trapped, as the message said")),
    ("exit", DeadLetter("called exit with the status 0")),
    ("spin", DeadLetter("limits.deadline_ms")),
    ("sleep", DeadLetter("may not sleep")),
    // Rust's own stack is in the memory of the plugin and ends before the engine's.
    ("recurse", DeadLetter("the plugin trapped")),
    ("hog", DeadLetter("limits.memory_mb")),
    ("giant:1073741824", DeadLetter("limits.memory_mb")),
    ("giant:20000000", DeadLetter("limits.output_bytes")),
    ("outputs:10000", DeadLetter("10000 outputs of one message, the limit is 1000")),
    ("topic:../../etc/passwd", DeadLetter("../../etc/passwd")),
    ("fill", DeadLetter("the plugin's state is full")),
    ("read:/etc/passwd", DeadLetter("No such file")),
    ("flood:1024", Record("flood:1024")),
    ("flood-stdout:1024", Record("flood-stdout:1024")),
    ("flood-stderr:1024", Record("flood-stderr:1024")),
    ("metrics:100000", Record("metrics:100000")),
    ("nonsense:missing-verdict", DeadLetter("`verdicts` has 0 items for 1 messages")),
    ("nonsense:spare-verdict", DeadLetter("`verdicts` has 2 items for 1 messages")),
    ("nonsense:hold", DeadLetter("does not export `aggregate`")),
    ("nonsense:falling-ends", DeadLetter("`values.ends` falls")),
    ("nonsense:overrun", DeadLetter("`values.ends` goes to 3")),
    ("nonsense:missing-key", DeadLetter("`keys` has 1 items for 2 outputs")),
    ("nonsense:missing-value", DeadLetter("`values` has 1 items for 2 outputs")),
    ("nonsense:topic-not-utf8", DeadLetter("`topics` is not UTF-8")),
];

/// What happens to the message of each attack that no compiler makes.
fn fate(attack: Attack) -> Fate {
    DeadLetter(match attack {
        Attack::HugeList => "out of bounds",
        Attack::AliasedList | Attack::GiantOutput => "limits.output_bytes",
        Attack::ReallocTrap | Attack::PostReturnTrap => "unreachable",
        Attack::ReallocOutside => "realloc return",
        Attack::KeptHandle => "borrow handles still remain",
        Attack::DroppedHandle => "unknown handle index",
        Attack::Handles => "limits.handles",
        Attack::Random => "exceeds limit 65536",
    })
}

/// A source of its own for a plugin, in a host of many.
fn source(broker: &Broker, name: &str, component: &Path) -> Value {
    let mut source = config::source(&broker.url(), &[&format!("{name}/#")]);
    source["topic"] = name.into();
    config::plugin(&mut source, component, Value::Null);
    source["plugin"]["limits"] = json!({ "deadline_ms": DEADLINE_MS });
    config::persistent(&mut source, name);
    source
}

fn start(sources: Value) -> Host {
    Host::start_with(&json!({ "sources": sources }), &["--sink", &format!("file:{OUT}")]).unwrap()
}

fn wasip2(name: &str) -> PathBuf {
    guests::component(name, Build::Wasip2).unwrap()
}

fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name).with_extension("wasm");
    fs::write(&path, bytes).unwrap();
    path
}

/// The loss equation of one of many sources.
async fn ledger(host: &Host, source: &str) -> Ledger {
    let metrics = host.metrics().await.unwrap();
    let term = |name: &str| metrics.0[&format!("rivven_mqtt_source_{name}{{source=\"{source}\"}}")] as u64;
    let ledger = Ledger {
        received: term("messages_received_total"),
        committed: term("messages_committed_total"),
        dropped: term("messages_dropped_total"),
        dead_lettered: term("messages_dead_lettered_total"),
        in_flight: term("messages_in_flight"),
    };
    assert!(ledger.balances(), "{source}: {ledger:?}");
    ledger
}

async fn settled(host: &Host, source: &str, messages: u64) {
    let what = format!("{source} settles {messages} messages");
    let done = wait_for(&what, TIMEOUT, async || {
        let ledger = ledger(host, source).await;
        ledger.received == messages && ledger.in_flight == 0
    });
    if let Err(error) = done.await {
        panic!("{error:#}: {:?}\n{}", ledger(host, source).await, host.log());
    }
}

/// The most memory that a process had, in MiB.
fn peak_memory(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() >> 10
}

/// An attack stands between two honest messages in one source; after it another source still works, and so does this one.
#[tokio::test(flavor = "multi_thread")]
async fn no_attack_reaches_beyond_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::launch().await.unwrap();
    let attacks = wasip2("hostile_attacks");
    let mut sources = json!({
        "compiled": source(&broker, "compiled", &attacks),
        "other": source(&broker, "other", &attacks),
    });
    let mut cases: Vec<(&str, String, Fate)> =
        COMPILED.iter().map(|(payload, fate)| ("compiled", (*payload).to_owned(), *fate)).collect();
    for (attack, name) in Attack::ALL {
        sources[name] = source(&broker, name, &file(&folder, name, &attack.component().unwrap()));
        cases.push((name, attack.payload(), fate(attack)));
    }
    // What a flood of 1 GiB takes.
    sources["compiled"]["plugin"]["limits"] = json!({ "deadline_ms": 300_000, "log_lines_per_second": 20 });
    sources["giant-output"]["plugin"]["limits"]["memory_mb"] = 1_100.into();
    let mut spin = source(&broker, "spin", &attacks);
    spin["plugin"]["limits"]["memory_mb"] = 16.into();
    sources["spin"] = spin;
    for case in cases.iter_mut().filter(|(_, payload, _)| payload == "spin") {
        case.0 = "spin";
    }
    let mut host = start(sources);
    host.ready().await.unwrap();
    let idle = peak_memory(&host);

    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    for (n, (source, payload, _)) in cases.iter().enumerate() {
        let messages =
            [("before", &format!("{n} before")), ("attack", payload), ("after", &format!("{n} after"))];
        let messages =
            messages.map(|(what, text)| Message::new(format!("{source}/{n}/{what}"), text.as_str()));
        client.publish(QoS::AtLeastOnce, messages).await.unwrap();
        client.publish(QoS::AtLeastOnce, [Message::new("other/t", n.to_string())]).await.unwrap();
        *sent.entry(*source).or_default() += 3;
        settled(&host, "other", n as u64 + 1).await;
        settled(&host, source, sent[source]).await;
    }

    let lines = host.lines(OUT).unwrap();
    let values = |topic: &str| -> Vec<String> {
        let of_topic = lines.iter().filter(|line| line.topic == topic);
        of_topic.map(|line| String::from_utf8(line.value.clone()).unwrap()).collect()
    };
    assert_eq!(values("other"), (0..cases.len()).map(|n| n.to_string()).collect::<Vec<_>>());
    for (n, (source, payload, fate)) in cases.iter().enumerate() {
        let topic = format!("{source}/{n}/attack");
        let letters: Vec<_> = lines
            .iter()
            .filter(|line| line.topic == format!("{source}.dlq"))
            .map(|line| line.json().unwrap())
            .filter(|letter| letter["topic"] == topic.as_str())
            .collect();
        let honest = [format!("{n} before"), format!("{n} after")];
        let records: Vec<_> = values(source)
            .into_iter()
            .filter(|value| honest.contains(value) || matches!(fate, Record(text) if value == text))
            .collect();
        match fate {
            DeadLetter(reason) => {
                assert_eq!(letters.len(), 1, "{source} {payload:.40}: {letters:?}");
                let said = letters[0]["reason"].as_str().unwrap();
                assert!(said.contains(reason), "{source} {payload:.40}: {said}");
                let kept = STANDARD.decode(letters[0]["payload_base64"].as_str().unwrap()).unwrap();
                assert_eq!(kept, payload.as_bytes());
                assert_eq!(records, honest, "{source} {payload:.40}");
            }
            Record(text) => {
                assert_eq!(letters, [] as [Value; 0]);
                assert_eq!(
                    records,
                    [&honest[0], &(*text).to_owned(), &honest[1]].map(Clone::clone),
                    "{payload}"
                );
            }
        }
    }

    // Of the floods a few lines a second are in the log, each cut to at most 4 KiB.
    let log = fs::metadata(host.folder().join("log")).unwrap().len();
    assert!(log < 16 << 20, "{log} bytes of log");
    let metrics = host.metrics().await.unwrap();
    let compiled = |name: &str| {
        metrics.0[&format!("rivven_mqtt_{name}{{source=\"compiled\",plugin=\"hostile_attacks\"}}")]
    };
    assert!(
        compiled("plugin_log_lines_dropped_total") > 3_000_000.0,
        "{}",
        compiled("plugin_log_lines_dropped_total")
    );
    assert!(compiled("plugin_metrics_dropped_total") >= 99_900.0);
    let names = metrics.0.keys().filter(|name| name.starts_with("rivven_mqtt_plugin_counter_total"));
    assert_eq!(names.count(), 100);

    let peak = peak_memory(&host);
    assert!(peak < idle + 256, "{idle} MiB when idle, {peak} MiB at the peak");
    host.ready().await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

/// A source whose broker does not matter, because its plugin is refused before anything connects.
fn refused(component: &Path, limits: Value) -> Value {
    let mut source = config::source("mqtt://127.0.0.1:1", &["a"]);
    config::plugin(&mut source, component, Value::Null);
    source["plugin"]["limits"] = limits;
    config::without_rivven(source)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_cost_too_much_is_refused_before_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let component = |name: &str, bytes: anyhow::Result<Vec<u8>>| file(&folder, name, &bytes.unwrap());
    let bomb = component("bomb", raw::compile_bomb(8));
    let large = folder.path().join("large.wasm");
    fs::File::create(&large).unwrap().set_len(500 << 20).unwrap();
    for (component, limits, expected) in [
        (&bomb, json!({ "compile_seconds": 1 }), "takes longer than 1 s to compile"),
        (&bomb, json!({ "compile_mb": 128 }), "takes more than 128 MiB of memory to compile"),
        (&large, json!({}), "is greater than 64 MiB"),
        (
            &component("http", raw::http()),
            json!({}),
            "wasi:http/outgoing-handler@0.2.6: plugins make no HTTP",
        ),
        (&component("instances", raw::instances(200, false)), json!({}), "limits.instances"),
        (&component("memories", raw::instances(200, true)), json!({}), "limits.instances"),
    ] {
        let started = Instant::now();
        let mut host = Host::start_with(&refused(component, limits), &["--sink", "discard"]).unwrap();
        assert_eq!(host.ended().await.unwrap().code(), Some(1), "{}", host.log());
        assert!(host.log().contains(expected), "{expected} is not in: {}", host.log());
        assert!(started.elapsed() < Duration::from_secs(20), "{expected}: {:?}", started.elapsed());
    }
}

/// The children of a process.
fn children(of: u32) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let parent = |process: &Path| -> Option<u32> {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    processes.filter(|process| parent(process) == Some(of)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_neither_delays_the_end_nor_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let bomb = file(&folder, "bomb", &raw::compile_bomb(8).unwrap());
    let mut host = Host::start_with(&refused(&bomb, json!({})), &["--sink", "discard"]).unwrap();
    let compiler = wait_until("it compiles", TIMEOUT, async || children(host.id()).pop()).await.unwrap();
    let started = Instant::now();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0), "{}", host.log());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    wait_for("the compiler ends", TIMEOUT, async || !compiler.exists()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_load_changes_nothing_while_its_plugin_runs() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(wasip2("hostile_attacks")).unwrap();
    let path = file(&folder, "attacks", &whole);
    let broker = Broker::launch().await.unwrap();
    let mut host = start(json!({ "compiled": source(&broker, "compiled", &path) }));
    host.ready().await.unwrap();
    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    let bomb = raw::compile_bomb(8).unwrap();
    for (n, bytes) in (0..).zip([&whole[..whole.len() / 2], b"", b"something else", &bomb]) {
        fs::write(&path, bytes).unwrap();
        // After the fault a fresh instance takes over, of the same code.
        let messages = ["trap", "honest"].map(|text| Message::new("compiled/t", text));
        client.publish(QoS::AtLeastOnce, messages).await.unwrap();
        settled(&host, "compiled", 2 * (n + 1)).await;
        let ledger = ledger(&host, "compiled").await;
        assert_eq!((ledger.committed, ledger.dead_lettered), (n + 1, n + 1));
    }
    // The last one is compiled still, and that does not delay the end.
    let failed = "rivven_mqtt_plugin_loads_total{source=\"compiled\",plugin=\"attacks\",result=\"error\"}";
    wait_for("the others are refused", TIMEOUT, async || host.metrics().await.unwrap().0[failed] >= 1.0)
        .await
        .unwrap();
    let compiler = wait_until("it compiles", TIMEOUT, async || children(host.id()).pop()).await.unwrap();
    let started = Instant::now();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    wait_for("the compiler ends", TIMEOUT, async || !compiler.exists()).await.unwrap();
}

/// A plugin that takes a tenth of the deadline for each message: a batch of many takes longer than the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_plugin_costs_one_fault_and_no_message() {
    const MESSAGES: u64 = 60;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let attacks = wasip2("hostile_attacks");
    let mut host = start(json!({
        "slow": source(&broker, "slow", &attacks),
        "other": source(&broker, "other", &attacks),
    }));
    host.ready().await.unwrap();
    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    let slow = format!("slow:{}", DEADLINE_MS / 10);
    // One alone, so that the others gather into one batch meanwhile.
    let messages = (0..MESSAGES).map(|n| Message::new(format!("slow/{n}"), slow.as_str()));
    client.publish(QoS::AtLeastOnce, messages).await.unwrap();
    client.publish(QoS::AtLeastOnce, [Message::new("other/t", "meanwhile")]).await.unwrap();
    settled(&host, "other", 1).await;
    assert!(ledger(&host, "slow").await.in_flight > 0, "the other source had to wait");
    settled(&host, "slow", MESSAGES).await;
    assert_eq!(ledger(&host, "slow").await.committed, MESSAGES);
    let keys: Vec<_> = host.lines(OUT).unwrap().into_iter().filter(|line| line.topic == "slow").collect();
    let expected: Vec<_> = (0..MESSAGES).map(|n| format!("slow/{n}").into_bytes()).collect();
    assert_eq!(keys.into_iter().map(|line| line.key.unwrap()).collect::<Vec<_>>(), expected);
    let late =
        "rivven_mqtt_plugin_faults_total{source=\"slow\",plugin=\"hostile_attacks\",kind=\"deadline\"}";
    let faults = host.metrics().await.unwrap().0[late];
    assert!(faults <= 2.0, "{faults} faults of a plugin that is only slow");
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

/// Seconds that the start of `host` took to compile its plugin.
async fn compile_seconds(host: &mut Host) -> f64 {
    host.ready().await.unwrap();
    let metrics = host.metrics().await.unwrap();
    let used =
        "rivven_mqtt_plugin_limit_used{source=\"iot\",plugin=\"hostile_attacks\",limit=\"compile_seconds\"}";
    metrics.0[used]
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_is_kept_and_never_trusted_when_it_is_damaged() {
    use std::os::unix::fs::PermissionsExt;

    let broker = Broker::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::plugin(&mut source, &wasip2("hostile_attacks"), Value::Null);
    let options = ["--sink", "discard"];
    let mut host = Host::start_with(&config::without_rivven(source), &options).unwrap();
    let cache = host.folder().join("state/compiled");
    let restart = async |host: &mut Host| {
        host.terminate().await.unwrap();
        host.restart().unwrap();
        compile_seconds(host).await
    };
    assert!(compile_seconds(&mut host).await > 0.0);
    assert_eq!(restart(&mut host).await, 0.0);

    let entries: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    let whole = fs::read(entry).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    for bad in [&damaged[..], &whole[..whole.len() / 2], b""] {
        fs::write(entry, bad).unwrap();
        assert!(restart(&mut host).await > 0.0);
        assert!(host.log().contains("is compiled again"), "{}", host.log());
        assert_eq!(fs::read(entry).unwrap(), whole);
        assert_eq!(restart(&mut host).await, 0.0);
    }

    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(restart(&mut host).await > 0.0);
    assert!(host.log().contains("are not cached"), "{}", host.log());
    host.terminate().await.unwrap();
}

#[test]
fn a_library_without_a_process_for_it_gives_up_a_compilation_in_time() {
    use rivven_mqtt::config::{Limits, Plugin as Config};
    use rivven_mqtt::error::PluginError;
    use rivven_mqtt::plugin::{Plugin, PluginHost, Sandbox};

    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new().unwrap();
    let load = |path: PathBuf, compile_time| {
        let limits = Limits { compile_time, ..Limits::default() };
        let config =
            Config { name: None, path, sha256: None, config: "null".to_owned(), secrets: vec![], limits };
        Plugin::load(&sandbox, &config, std::sync::Arc::default(), PluginHost::new("test", &limits))
    };
    let bomb = file(&folder, "bomb", &raw::compile_bomb(1).unwrap());
    let limit = Duration::from_millis(200);
    let error = load(bomb, limit).unwrap_err();
    assert!(matches!(error, PluginError::CompileTime { limit: l, .. } if l == limit), "{error}");
    load(file(&folder, "honest", &raw::honest().unwrap()), TIMEOUT).unwrap().worker().unwrap();
}

#[test]
fn an_inspection_keeps_compiled_code_in_the_users_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "honest", &raw::honest().unwrap());
    for _ in 0..2 {
        let inspect = Command::new(host::program("rivven-mqtt").unwrap())
            .args(["plugin", "inspect"])
            .arg(&path)
            .env("XDG_CACHE_HOME", folder.path())
            .output()
            .unwrap();
        assert!(inspect.status.success(), "{}", String::from_utf8_lossy(&inspect.stderr));
        let cache = folder.path().join("rivven-mqtt/compiled");
        assert_eq!(fs::read_dir(cache).unwrap().count(), 1);
    }
}

#[test]
fn every_hostile_component_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |folder: &Path| -> String {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap()).collect()
    };
    let tests = read(&root.join("tests/tests")) + &read(&root.join("host/tests"));
    let hostile: Vec<_> = fs::read_dir(root.join("guest/hostile"))
        .unwrap()
        .map(|folder| folder.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(hostile.len() >= 5, "{hostile:?}");
    for name in hostile {
        assert!(tests.contains(&format!("\"hostile_{name}\"")), "guest/hostile/{name} is in no test");
    }
}
