//! Plugins that are replaced while their source runs, and plugins in quarantine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message};
use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::guests::{self, Build};
use rivven_integration_tests::host::Host;
use rivven_integration_tests::raw;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::{Value, json};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(120);
const OUT: &str = "out.jsonl";

/// A plugin's file that a test replaces.
struct Plugin {
    path: PathBuf,
    _folder: TempDir,
}

impl Plugin {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plugin = Plugin { path: folder.path().join("p.wasm"), _folder: folder };
        plugin.write(bytes);
        plugin
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(&self.path, bytes).unwrap();
    }

    /// Puts another file in its place.
    fn replace(&self, bytes: &[u8]) {
        let other = self.path.with_extension("new");
        fs::write(&other, bytes).unwrap();
        fs::rename(other, &self.path).unwrap();
    }

    fn source(&self, broker: &Broker, settings: Value) -> Value {
        let mut source = config::source(&broker.url(), &["a/#"]);
        source["plugin"] = settings;
        source["plugin"]["path"] = self.path.to_str().into();
        config::persistent(&mut source, "reloads");
        source
    }
}

fn start(source: Value) -> Host {
    Host::start_with(&config::without_rivven(source), &["--sink", &format!("file:{OUT}")]).unwrap()
}

fn transform() -> Vec<u8> {
    fs::read(guests::example("transform").unwrap()).unwrap()
}

/// A second build of the transformation, whose records tell the two apart.
fn in_kelvin() -> Vec<u8> {
    let mut bytes = transform();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(7).position(|seven| seven == b"celsius") {
        at += found;
        bytes[at..at + 7].copy_from_slice(b"kelvins");
    }
    assert!(at > 0, "the name of the field is not in the component");
    bytes
}

fn attacks() -> Vec<u8> {
    fs::read(guests::component("hostile_attacks", Build::Wasip2).unwrap()).unwrap()
}

/// Loads that succeeded and failed.
async fn loads(host: &Host) -> (u64, u64) {
    let metrics = host.metrics().await.unwrap();
    let of = |result: &str| {
        metrics.0
            [&format!("rivven_mqtt_plugin_loads_total{{source=\"iot\",plugin=\"p\",result=\"{result}\"}}")]
    };
    (of("ok") as u64, of("error") as u64)
}

async fn loaded(host: &Host, expected: (u64, u64)) {
    let what = format!("{expected:?} loads have succeeded and failed");
    let done = wait_for(&what, TIMEOUT, async || loads(host).await == expected).await;
    if let Err(error) = done {
        panic!("{error:#}: {:?}\n{}", loads(host).await, host.log());
    }
}

/// The SHA-256 of the component that runs, as `/status` and the metrics have it.
async fn live(host: &Host) -> String {
    let status: Value = serde_json::from_str(&host.get("/status").await.unwrap().body).unwrap();
    let sha256 = status["sources"][0]["plugins"][0]["sha256"].as_str().unwrap().to_owned();
    let info = format!("rivven_mqtt_plugin_info{{source=\"iot\",plugin=\"p\",sha256=\"{sha256}\"}}");
    assert_eq!(host.metrics().await.unwrap().0.get(&info), Some(&1.0));
    sha256
}

/// The lines that a host writes, as they come.
struct Written {
    file: File,
    /// The last one, which may not be complete.
    line: String,
}

impl Written {
    /// Whether there is a new line with this text.
    fn contains(&mut self, text: &str) -> bool {
        self.file.read_to_string(&mut self.line).unwrap();
        let found = self.line.contains(text);
        let whole = self.line.rfind('\n').map_or(0, |end| end + 1);
        self.line.drain(..whole);
        found
    }
}

fn reading(device: impl std::fmt::Display) -> String {
    format!(r#"{{"device":"{device}","fahrenheit":212}}"#)
}

/// The devices of the records in the order in which they were written, and whether the second build has made them.
fn records(host: &Host) -> Vec<(String, bool)> {
    let of_line = |record: Value| {
        assert!(record["celsius"].is_number() != record["kelvins"].is_number(), "{record}");
        (record["device"].as_str().unwrap().to_owned(), record["kelvins"].is_number())
    };
    host.lines(OUT).unwrap().iter().map(|line| of_line(line.json().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load_lose_nothing_and_keep_the_order() {
    const TOPICS: usize = 4;
    const RELOADS: u64 = 100;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let builds = [transform(), in_kelvin()];
    let plugin = Plugin::new(&builds[0]);
    let mut host = start(plugin.source(&broker, json!({ "config": { "topic": "out" }, "workers": 2 })));
    host.ready().await.unwrap();
    let first = live(&host).await;

    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (port, stop) = (broker.port(), stop.clone());
        async move {
            let mut client = Client::connect(port, "fleet").await.unwrap();
            let mut sent = 0;
            while !stop.load(Relaxed) {
                let messages = (sent..sent + 100).map(|n| {
                    let (topic, sequence) = (n % TOPICS, n / TOPICS);
                    Message::new(format!("a/{topic}"), reading(format!("{topic} {sequence}")))
                });
                client.publish(QoS::AtLeastOnce, messages).await.unwrap();
                sent += 100;
            }
            sent
        }
    });
    let mut probe = Client::connect(broker.port(), "probe").await.unwrap();
    let mut written = Written { file: File::open(host.folder().join(OUT)).unwrap(), line: String::new() };
    for n in 1..=RELOADS {
        let build = &builds[n as usize % 2];
        match n % 4 {
            0 | 1 => plugin.write(build),
            _ => plugin.replace(build),
        }
        loaded(&host, (1 + n, 0)).await;
        assert_eq!(live(&host).await == first, n % 2 == 0);
        let message = Message::new("a/probe", reading(format!("probe {n}")));
        probe.publish(QoS::AtLeastOnce, [message]).await.unwrap();
        // The broker has it now; the next build may not overtake it.
        let key = format!("\"key\":\"probe {n}\"");
        wait_for("it is written", TIMEOUT, async || written.contains(&key)).await.unwrap();
    }
    stop.store(true, Relaxed);
    let sent = load.await.unwrap();
    let all = sent as u64 + RELOADS;
    host.wait_for_ledger("all are committed", TIMEOUT, |it| it.received == all && it.in_flight == 0)
        .await
        .unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    assert_eq!(host.final_ledger().unwrap().committed, all);

    let records = records(&host);
    assert_eq!(records.len() as u64, all, "each of them once");
    let of = |name: &str| -> Vec<(usize, bool)> {
        let of_name = records.iter().filter_map(|(device, build)| Some((device.strip_prefix(name)?, build)));
        of_name.map(|(sequence, build)| (sequence.trim().parse().unwrap(), *build)).collect()
    };
    // What is published when a build is live goes through it.
    assert_eq!(of("probe"), (1..=RELOADS as usize).map(|n| (n, n % 2 == 1)).collect::<Vec<_>>());
    let mut changes = 0;
    for topic in 0..TOPICS {
        let of_topic = of(&format!("{topic} "));
        let in_order = of_topic.iter().enumerate().all(|(place, (sequence, _))| place == *sequence);
        assert!(in_order && of_topic.len() == sent / TOPICS, "topic {topic}");
        changes += of_topic.windows(2).filter(|two| two[0].1 != two[1].1).count();
    }
    assert!(changes >= RELOADS as usize, "{changes} changes in {sent} messages: that was no load");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_load_keeps_the_one_before() {
    let broker = Broker::launch().await.unwrap();
    let (good, other) = (transform(), in_kelvin());
    let plugin = Plugin::new(&good);
    let settings = json!({ "config": { "topic": "out" }, "limits": { "compile_mb": 512 } });
    let mut host = start(plugin.source(&broker, settings));
    host.ready().await.unwrap();
    let before = live(&host).await;
    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    let mut settled = 0;
    let mut passes = async |host: &Host, device: &str| {
        client.publish(QoS::AtLeastOnce, [Message::new("a/b", reading(device))]).await.unwrap();
        settled += 1;
        host.wait_for_ledger("it is committed", TIMEOUT, |it| it.committed == settled).await.unwrap();
    };

    // The filter wants another configuration.
    let filter = fs::read(guests::example("filter").unwrap()).unwrap();
    let bomb = raw::compile_bomb(8).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (&good[..good.len() / 2], "is not a valid component"),
        (b"", "is an empty file"),
        (b"this is no plugin", "is another kind of file"),
        (&filter, "does not start: init failed: unknown field `topic`"),
        (&bomb, "takes more than 512 MiB of memory to compile"),
    ];
    for (n, (bytes, said)) in (1..).zip(cases) {
        plugin.write(bytes);
        // While it is compiled, and when it was refused.
        passes(&host, "meanwhile").await;
        loaded(&host, (1, n)).await;
        host.wait_for_log(said, TIMEOUT).await.unwrap();
        let log = host.log();
        let line = log.lines().find(|line| line.contains(said)).unwrap();
        assert!(line.contains("is not loaded again") && line.contains("p.wasm"), "{line}");
        passes(&host, "afterwards").await;
        assert_eq!(live(&host).await, before);
    }
    host.ready().await.unwrap();
    fs::remove_file(&plugin.path).unwrap();
    host.signal(Signal::SIGHUP).unwrap();
    loaded(&host, (1, 6)).await;
    host.wait_for_log("cannot read the plugin", TIMEOUT).await.unwrap();

    plugin.write(&other);
    loaded(&host, (2, 6)).await;
    assert_ne!(live(&host).await, before);
    passes(&host, "other").await;
    // The same again, as nothing has changed.
    host.signal(Signal::SIGHUP).unwrap();
    loaded(&host, (3, 6)).await;
    passes(&host, "again").await;
    let builds: Vec<_> = records(&host).into_iter().map(|(_, other)| other).collect();
    assert_eq!(builds, [vec![false; 10], vec![true; 2]].concat());
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_plugin_is_not_replaced_by_another() {
    let broker = Broker::launch().await.unwrap();
    let plugin = Plugin::new(&transform());
    let mut host = start(plugin.source(&broker, json!({ "config": { "topic": "out" } })));
    host.ready().await.unwrap();
    let sha256 = live(&host).await;
    host.terminate().await.unwrap();

    let mut host = start(plugin.source(&broker, json!({ "config": { "topic": "out" }, "sha256": sha256 })));
    host.ready().await.unwrap();
    plugin.replace(&in_kelvin());
    loaded(&host, (1, 1)).await;
    host.wait_for_log(&format!("the configuration wants {sha256}"), TIMEOUT).await.unwrap();
    assert_eq!(live(&host).await, sha256);
    plugin.replace(&transform());
    loaded(&host, (2, 1)).await;
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_flushed_before_the_next_plugin_takes_over() {
    let broker = Broker::launch().await.unwrap();
    let plugin = Plugin::new(&fs::read(guests::example("aggregate").unwrap()).unwrap());
    let settings = json!({ "config": { "topic": "sums" }, "flush_interval_ms": 86_400_000 });
    let mut host = start(plugin.source(&broker, settings));
    host.ready().await.unwrap();
    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    for n in 1..=3 {
        let readings = ["1", "2", "6"].map(|reading| Message::new("a/b", reading));
        client.publish(QoS::AtLeastOnce, readings).await.unwrap();
        let held = host.wait_for_ledger("they are held", TIMEOUT, |it| it.received == 3 * n);
        assert_eq!(held.await.unwrap().in_flight, 3);
        host.signal(Signal::SIGHUP).unwrap();
        host.wait_for_ledger("they are committed", TIMEOUT, |it| it.committed == 3 * n).await.unwrap();
        loaded(&host, (1 + n, 0)).await;
    }
    let sums: Vec<_> =
        host.lines(OUT).unwrap().iter().map(|line| line.json().unwrap()["count"].clone()).collect();
    assert_eq!(sums, [3, 3, 3]);
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_holds_takes_turns_with_one_that_does_not() {
    let broker = Broker::launch().await.unwrap();
    let plugin = Plugin::new(&transform());
    let settings = json!({ "config": { "topic": "both" }, "flush_interval_ms": 86_400_000 });
    let mut source = plugin.source(&broker, settings);
    source["config"]["max_inflight"] = 10.into();
    let mut host = start(source);
    host.ready().await.unwrap();
    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    client.publish(QoS::AtLeastOnce, [Message::new("a/b", reading("first"))]).await.unwrap();
    host.wait_for_ledger("it is committed", TIMEOUT, |it| it.committed == 1).await.unwrap();

    // The interval is a day: only a window that is nearly full has it flushed, also where the first plugin never held.
    plugin.replace(&fs::read(guests::example("aggregate").unwrap()).unwrap());
    loaded(&host, (2, 0)).await;
    client.publish(QoS::AtLeastOnce, (0..25).map(|_| Message::new("a/b", "1"))).await.unwrap();
    let flushed = host.wait_for_ledger("all but the last are committed", TIMEOUT, |it| it.received == 26);
    flushed.await.unwrap();

    plugin.replace(&transform());
    loaded(&host, (3, 0)).await;
    client.publish(QoS::AtLeastOnce, [Message::new("a/b", reading("last"))]).await.unwrap();
    host.wait_for_ledger("all are committed", TIMEOUT, |it| it.committed == 27).await.unwrap();
    let lines: Vec<Value> = host.lines(OUT).unwrap().iter().map(|line| line.json().unwrap()).collect();
    let devices: Vec<_> = lines.iter().filter_map(|line| line["device"].as_str()).collect();
    assert_eq!(devices, ["first", "last"]);
    let counts: Vec<_> = lines.iter().filter_map(|line| line["count"].as_u64()).collect();
    assert!(counts.len() > 1 && counts.iter().sum::<u64>() == 25, "{counts:?}");
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

/// Publishes messages on which the plugin faults, each between two others, until its source is in quarantine.
async fn into_quarantine(host: &mut Host, broker: &Broker, triples: usize) -> Vec<String> {
    host.ready().await.unwrap();
    let payloads: Vec<_> =
        (0..triples).flat_map(|n| [format!("{n} before"), "trap".to_owned(), format!("{n} after")]).collect();
    let mut client = Client::connect(broker.port(), "fleet").await.unwrap();
    let messages = payloads.iter().map(|payload| Message::new("a/b", payload.as_str()));
    client.publish(QoS::AtLeastOnce, messages).await.unwrap();
    let reason = host.not_ready("in quarantine").await.unwrap();
    assert!(
        reason.contains("iot: plugin: in quarantine after more than 5 faults in a minute")
            && reason.contains("the last one of p: the plugin trapped: "),
        "{reason}"
    );
    payloads
}

fn quarantined(broker: &Broker, plugin: &Plugin) -> Value {
    let mut source = plugin.source(broker, json!({ "max_faults_per_minute": 5, "config": null }));
    source["config"]["keep_alive_secs"] = 5.into();
    source
}

/// Payloads of the records, in order; and how many dead letters there are.
fn outcome(host: &Host) -> (Vec<String>, usize) {
    let lines = host.lines(OUT).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let records = lines.iter().filter(|line| line.topic == TOPIC).map(|line| text(&line.value));
    (records.collect(), lines.iter().filter(|line| line.topic == DEAD_LETTERS).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_faults_too_often_is_in_quarantine_until_it_is_replaced() {
    let broker = Broker::launch().await.unwrap();
    let plugin = Plugin::new(&attacks());
    let mut host = start(quarantined(&broker, &plugin));
    let payloads = into_quarantine(&mut host, &broker, 20).await;
    let gauge = "rivven_mqtt_source_quarantined{source=\"iot\"}";
    assert_eq!(host.metrics().await.unwrap().0[gauge], 1.0);

    // It keeps its connection, and does nothing else.
    let pings = async || broker.logs().await.unwrap().matches("Received PINGREQ from reloads").count();
    wait_for("a ping", TIMEOUT, async || pings().await > 0).await.unwrap();
    let before = (host.ledger().await.unwrap(), pings().await);
    wait_for("another ping", TIMEOUT, async || pings().await > before.1).await.unwrap();
    let ledger = host.ledger().await.unwrap();
    assert!(ledger.in_flight > 0 && ledger.dead_lettered <= 5, "{ledger:?}");
    assert_eq!(ledger, before.0);
    assert_eq!(host.get("/ready").await.unwrap().status, 503);

    // What does not load does not end it.
    plugin.replace(b"nothing");
    loaded(&host, (1, 1)).await;
    assert_eq!(host.get("/ready").await.unwrap().status, 503);

    let passes = raw::honest().unwrap();
    plugin.replace(&passes);
    host.ready().await.unwrap();
    let all = payloads.len() as u64;
    host.wait_for_ledger("all are settled", TIMEOUT, |it| it.received == all && it.in_flight == 0)
        .await
        .unwrap();
    assert_eq!(host.metrics().await.unwrap().0[gauge], 0.0);
    let (records, dead) = outcome(&host);
    assert_eq!(records.len() + dead, payloads.len());
    assert!((1..=5).contains(&dead), "{dead}");
    // All but the first few of those that faulted, in their order.
    let mut skipped = 0;
    let expected: Vec<_> = payloads
        .into_iter()
        .filter(|payload| {
            skipped += usize::from(payload == "trap");
            payload != "trap" || skipped > dead
        })
        .collect();
    assert_eq!(records, expected);
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_ends_a_quarantine_and_faults_begin_another() {
    // One batch or five, that is one fault too many; and what is left then is not.
    let broker = Broker::launch().await.unwrap();
    let plugin = Plugin::new(&attacks());
    let mut host = start(quarantined(&broker, &plugin));
    let payloads = into_quarantine(&mut host, &broker, 5).await;
    host.signal(Signal::SIGHUP).unwrap();
    loaded(&host, (2, 0)).await;
    let all = payloads.len() as u64;
    host.wait_for_ledger("all are settled", TIMEOUT, |it| it.received == all && it.in_flight == 0)
        .await
        .unwrap();
    host.ready().await.unwrap();
    assert_eq!(outcome(&host).1, 5);
    into_quarantine(&mut host, &broker, 20).await;
    assert_eq!(host.terminate().await.unwrap().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_in_quarantine_leaves_the_rest_unacknowledged() {
    let broker = Broker::launch().await.unwrap();
    let plugin = Plugin::new(&attacks());
    let mut host = start(quarantined(&broker, &plugin));
    let payloads = into_quarantine(&mut host, &broker, 20).await;
    let started = Instant::now();
    assert_eq!(host.terminate().await.unwrap().code(), Some(1), "{}", host.log());
    assert!(started.elapsed() < Duration::from_secs(8), "it waited for its grace: {:?}", started.elapsed());
    let ledger = host.final_ledger().unwrap();
    assert!(ledger.in_flight > 0, "{ledger:?}");
    assert!(host.log().contains("its plugin is in quarantine"), "{}", host.log());

    // A start with another plugin ends it, too, and the broker sends again what was not acknowledged.
    plugin.replace(&raw::honest().unwrap());
    host.restart().unwrap();
    let rest = payloads.len() as u64 - ledger.committed - ledger.dead_lettered;
    host.wait_for_ledger("the rest is settled", TIMEOUT, |it| it.committed == rest).await.unwrap();
    let (records, dead) = outcome(&host);
    assert_eq!(records.len() + dead, payloads.len());
    let all =
        |name: &str| payloads.iter().filter(|payload| payload.ends_with(name)).all(|it| records.contains(it));
    assert!(all("before") && all("after"));
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[test]
fn the_two_builds_differ_in_one_word() {
    let (one, other) = (transform(), in_kelvin());
    assert_eq!(one.len(), other.len());
    let differing = one.iter().zip(&other).filter(|(one, other)| one != other).count();
    assert!((1..100).contains(&differing), "{differing}");
}
