//! What plugins keep in `state` is durable before a message is acknowledged, and nothing of what failed is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, DEAD_LETTERS, TOPIC};
use rivven_integration_tests::guests::{self, Build};
use rivven_integration_tests::host::Host;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
const RECORDS: &str = "records.jsonl";
const KILLS: u64 = 20;
/// Messages that the broker sends before it waits for acknowledgements.
const WINDOW: u64 = 50;

async fn broker() -> Broker {
    Broker::setup().line(format!("max_inflight_messages {WINDOW}")).start().await.unwrap()
}

/// A persistent session through `component`.
fn source(broker: &Broker, component: &Path) -> Value {
    let mut source = config::source(&broker.url(), &["#"]);
    config::persistent(&mut source, "state");
    config::plugin(&mut source, component, Value::Null);
    source
}

async fn start(source: Value) -> Host {
    let mut host =
        Host::start_with(&config::without_rivven(source), &["--sink", &format!("file:{RECORDS}")]).unwrap();
    host.ready().await.unwrap();
    host
}

async fn restart(host: &mut Host) {
    host.restart().unwrap();
    host.ready().await.unwrap();
}

/// SIGTERM: all that was taken is settled.
async fn stop(host: &mut Host) {
    assert_eq!(host.terminate().await.unwrap().code(), Some(0), "{}", host.log());
}

async fn settled(host: &Host, received: u64) {
    let all = |ledger: &rivven_integration_tests::http::Ledger| {
        ledger.received >= received && ledger.in_flight == 0
    };
    host.wait_for_ledger(&format!("{received} are settled"), TIMEOUT, all).await.unwrap();
}

/// The counts that the example `count` has emitted, of each topic in their order.
fn counts(host: &Host) -> BTreeMap<String, Vec<u64>> {
    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in host.lines(RECORDS).unwrap() {
        let value = line.json().unwrap();
        let topic = value["topic"].as_str().unwrap().to_owned();
        counts.entry(topic).or_default().push(value["count"].as_u64().unwrap());
    }
    counts
}

/// A different number below `below` for each kill, the same in each run.
fn scattered(kill: u64, below: u64) -> u64 {
    kill.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) % below
}

/// Each message has a topic of its own, so that the counts say of each one how often it was counted.
#[tokio::test(flavor = "multi_thread")]
async fn over_20_sigkills_no_message_is_missing_from_the_counts_and_no_acknowledged_one_is_counted_twice() {
    // So many that the publisher is still at it when the kill comes.
    const CHUNK: u64 = 2_000;
    let broker = broker().await;
    let mut host = start(source(&broker, &guests::example("count").unwrap())).await;
    let numbered = |numbers: std::ops::Range<u64>| numbers.map(|n| Message::new(format!("n/{n}"), "x"));
    for kill in 0..KILLS {
        let port = broker.port();
        let load = tokio::spawn(publish(port, QoS::AtLeastOnce, numbered(kill * CHUNK..(kill + 1) * CHUNK)));
        let enough = 1 + scattered(kill, CHUNK - 1);
        let what = format!("{enough} messages are committed before kill {kill}");
        host.wait_for_ledger(&what, TIMEOUT, |ledger| ledger.committed >= enough).await.unwrap();
        host.kill().await.unwrap();
        load.await.unwrap().unwrap();
        restart(&mut host).await;
    }
    let published = KILLS * CHUNK;
    // The broker delivers in order, so behind this one there is nothing left, not even to be delivered again.
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("end", "")]).await.unwrap();
    wait_for("the last message has a record", TIMEOUT, async || counts(&host).contains_key("end"))
        .await
        .unwrap();
    stop(&mut host).await;
    let mut delivered = counts(&host);
    delivered.remove("end");
    assert_eq!(delivered.len() as u64, published, "a message is lost");

    // What is kept now: one less than the next message of each topic gets.
    restart(&mut host).await;
    publish(broker.port(), QoS::AtLeastOnce, numbered(0..published)).await.unwrap();
    settled(&host, published).await;
    stop(&mut host).await;
    let mut twice = 0;
    let all = counts(&host);
    for (topic, before) in &delivered {
        let counted = &all[topic];
        assert_eq!(counted.len(), before.len() + 1, "{topic}: {counted:?}");
        let kept = counted.last().unwrap() - 1;
        // The last delivery was acknowledged, so what it counted was durable; and nothing else ever changed it.
        assert_eq!(kept, *before.last().unwrap(), "{topic}: {counted:?}");
        assert!((1..=before.len() as u64).contains(&kept), "{topic}: {counted:?}");
        twice += kept - 1;
    }
    // How many that are is the broker's affair: it sends a session's backlog without waiting, and does not read the last
    // acknowledgements of a connection that was cut.
    let redelivered: u64 = delivered.values().map(|counts| counts.len() as u64 - 1).sum();
    assert!(redelivered > 0, "no kill came while messages were in flight: this shows nothing");
    assert!(twice <= redelivered, "{twice} counted twice, {redelivered} redelivered");
}

/// The sum and the number of the readings in the aggregates of the example `aggregate`.
fn aggregated(host: &Host) -> (u64, u64) {
    let records = host.lines(RECORDS).unwrap();
    records.iter().map(|line| line.json().unwrap()).fold((0, 0), |(sum, number), value| {
        let count = value["count"].as_u64().unwrap();
        (sum + (value["mean"].as_f64().unwrap() * count as f64).round() as u64, number + count)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sigkill_between_hold_and_flush_20_times_takes_nothing_from_the_sum() {
    const CHUNK: u64 = 30;
    let broker = broker().await;
    let reading = |n: u64| Message::new(format!("room/{}", n % 3), n.to_string());
    let mut source = source(&broker, &guests::example("aggregate").unwrap());
    // In the first half nothing is ever flushed before a kill; in the second half flushes and kills meet by chance.
    for (half, interval) in [(0, 3_600_000), (1, 20)] {
        source["plugin"]["flush_interval_ms"] = interval.into();
        let mut host = start(source.clone()).await;
        let mut published = 0..0;
        for kill in 0..KILLS / 2 {
            // The window must not fill up with what is held: that asks for a flush.
            let chunk = if half == 0 { 3 } else { CHUNK };
            let new = published.end..published.end + chunk;
            published.end = new.end;
            publish(broker.port(), QoS::AtLeastOnce, new.map(reading)).await.unwrap();
            match half {
                0 => {
                    let held =
                        |ledger: &rivven_integration_tests::http::Ledger| ledger.in_flight == published.end;
                    let ledger = host.wait_for_ledger("all are held", TIMEOUT, held).await.unwrap();
                    assert_eq!(ledger.committed, 0);
                }
                _ => {
                    let enough = scattered(kill, chunk);
                    let some = |ledger: &rivven_integration_tests::http::Ledger| ledger.received > enough;
                    host.wait_for_ledger("some are received", TIMEOUT, some).await.unwrap();
                }
            }
            host.kill().await.unwrap();
            restart(&mut host).await;
        }
        wait_for("the broker has nothing left", TIMEOUT, async || {
            let ledger = host.ledger().await.unwrap();
            match half {
                0 => ledger.in_flight == published.end,
                _ => ledger.in_flight == 0 && aggregated(&host).1 >= published.end,
            }
        })
        .await
        .unwrap();
        stop(&mut host).await;
        let inputs: u64 = published.clone().sum();
        let (sum, number) = aggregated(&host);
        match half {
            0 => assert_eq!((sum, number), (inputs, published.end)),
            _ => assert!(
                sum >= inputs && number >= published.end,
                "{sum} of {inputs}, {number} of {}",
                published.end
            ),
        }
    }
}

/// Publishes one message to each topic, and gives back what the example `count` made of them.
async fn probe(host: &Host, broker: &Broker, topics: &[&str]) -> Vec<u64> {
    let before = host.lines(RECORDS).unwrap().len();
    publish(broker.port(), QoS::AtLeastOnce, topics.iter().map(|topic| Message::new(*topic, "")))
        .await
        .unwrap();
    wait_for("the counts are written", TIMEOUT, async || {
        host.lines(RECORDS).unwrap().len() == before + topics.len()
    })
    .await
    .unwrap();
    let counts = counts(host);
    topics.iter().map(|topic| *counts[*topic].last().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_restart_keeps_the_values_and_the_name_keeps_them_for_another_file() {
    let broker = broker().await;
    let component = guests::example("count").unwrap();
    let mut host = start(source(&broker, &component)).await;
    let load = (0..1_000).map(|n| Message::new(["a", "a/b", "c"][n % 3], "x"));
    publish(broker.port(), QoS::AtLeastOnce, load).await.unwrap();
    settled(&host, 1_000).await;
    stop(&mut host).await;
    restart(&mut host).await;
    assert_eq!(probe(&host, &broker, &["a", "a/b", "c", "new"]).await, [335, 334, 334, 1]);

    // What is there is visible: 4 keys of 8 bytes in all, 3 values of 3 and one of 1, and 128 for each.
    let metrics = host.metrics().await.unwrap();
    assert_eq!(metrics.sum("rivven_mqtt_plugin_state_bytes").unwrap(), 530);
    let status: Value = serde_json::from_str(&host.get("/status").await.unwrap().body).unwrap();
    assert_eq!(status["sources"][0]["plugins"][0]["state_bytes"], 530);
    stop(&mut host).await;

    // A new version under another name of the file.
    let renamed = host.folder().join("count-v2.wasm");
    fs::copy(&component, &renamed).unwrap();
    let configure = |change: &dyn Fn(&mut Value)| {
        let path = host.folder().join("config.yaml");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config["sources"][config::SOURCE]["plugin"]);
        fs::write(&path, config.to_string()).unwrap();
    };
    configure(&|plugin| {
        plugin["path"] = "count-v2.wasm".into();
        plugin["name"] = "example_count".into();
    });
    restart(&mut host).await;
    assert_eq!(probe(&host, &broker, &["a", "c"]).await, [336, 335]);
    stop(&mut host).await;
    let path = host.folder().join("config.yaml");
    let text = fs::read_to_string(&path).unwrap().replace("example_count", "another");
    fs::write(&path, text).unwrap();
    restart(&mut host).await;
    assert_eq!(probe(&host, &broker, &["a", "c"]).await, [1, 1]);
    stop(&mut host).await;
}

/// The values that `hostile_attacks` finds under its keys.
async fn values(host: &Host, broker: &Broker, keys: &[&str]) -> Vec<String> {
    let before = host.lines(RECORDS).unwrap().len();
    let mut found = Vec::new();
    for key in keys {
        publish(broker.port(), QoS::AtLeastOnce, [Message::new("t", format!("get:{key}"))]).await.unwrap();
        let probe = Message::new("t", "honest");
        publish(broker.port(), QoS::AtLeastOnce, [probe]).await.unwrap();
    }
    let honest = |lines: &[rivven_integration_tests::jsonl::Line]| {
        lines.iter().filter(|line| line.value == b"honest").count()
    };
    wait_for("the values are written", TIMEOUT, async || {
        honest(&host.lines(RECORDS).unwrap()[before..]) == keys.len()
    })
    .await
    .unwrap();
    let mut last = None;
    for line in &host.lines(RECORDS).unwrap()[before..] {
        match &line.value[..] {
            b"honest" => found.push(last.take().unwrap_or_default()),
            value => last = Some(String::from_utf8(value.to_vec()).unwrap()),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_leaves_no_trace_on_the_disk() {
    let broker = broker().await;
    let attacks = guests::component("hostile_attacks", Build::Wasip2).unwrap();
    let mut host = start(source(&broker, &attacks)).await;
    let payloads = ["set:a=1", "set-trap:a=2", "set:b=3", "set-trap:c=4", "set:d=5"];
    publish(broker.port(), QoS::AtLeastOnce, payloads.map(|payload| Message::new("t", payload)))
        .await
        .unwrap();
    settled(&host, 5).await;
    for _ in 0..2 {
        assert_eq!(values(&host, &broker, &["a", "b", "c", "d"]).await, ["1", "3", "", "5"]);
        stop(&mut host).await;
        restart(&mut host).await;
    }
    let dead = host.lines(RECORDS).unwrap().iter().filter(|line| line.topic == DEAD_LETTERS).count();
    assert_eq!(dead, 2);
    assert!(host.lines(RECORDS).unwrap().iter().any(|line| line.topic == TOPIC));
    stop(&mut host).await;
}

/// May `host` write files of this size?
fn limit_files(host: &Host, limit: &str) {
    let set = Command::new("prlimit")
        .args(["--pid", &host.id().to_string(), &format!("--fsize={limit}:unlimited")])
        .status();
    assert!(set.expect("prlimit of util-linux").success());
}

/// Its copy writes nothing, and is dropped for what a message has written that is not committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_is_not_acknowledged_before_the_first_is_committed() {
    let broker = Scripted::listen().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::persistent(&mut source, "once");
    let component = guests::component("hostile_attacks", Build::Wasip2).unwrap();
    config::plugin(&mut source, &component, Value::Null);
    let mut host = Host::start(&config::with_source(&rivven, source)).unwrap();
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
    rivven.freeze().unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a", b"once:m").await.unwrap();
    host.wait_for_ledger("it waits for Rivven", TIMEOUT, |ledger| ledger.in_flight == 1).await.unwrap();
    drop(session);

    let (mut session, _) = broker.accept_resumed().await.unwrap();
    session.redeliver(QoS::AtLeastOnce, 1, "a", b"once:m").await.unwrap();
    host.wait_for_ledger("it has come again", TIMEOUT, |ledger| ledger.received == 2).await.unwrap();
    session.silent(Duration::from_millis(300)).await.unwrap();
    rivven.thaw().unwrap();
    session.puback(1).await.unwrap();
    assert_eq!(rivven.count(TOPIC).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_nothing_is_acknowledged_and_afterwards_nothing_is_lost() {
    // A limit of the file's size is what a full disk is, without the rights to mount one. SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let broker = broker().await;
    let attacks = guests::component("hostile_attacks", Build::Wasip2).unwrap();
    let source = source(&broker, &attacks);
    // The limit is one of all files, so no records are written.
    let mut host = Host::start_with(&config::without_rivven(source.clone()), &["--sink", "discard"]).unwrap();
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("t", "set:first=1")]).await.unwrap();
    settled(&host, 1).await;
    let store = host.folder().join(format!("state/state-{}.redb", config::SOURCE));
    limit_files(&host, &fs::metadata(&store).unwrap().len().to_string());

    // More than the store has room for without growing.
    let value = "v".repeat(200_000);
    let sets = (0..20).map(|n| Message::new("t", format!("set:{n}={n}-{value}")));
    publish(broker.port(), QoS::AtLeastOnce, sets).await.unwrap();
    let reason = host.not_ready("state: cannot write").await.unwrap();
    assert!(reason.contains("state-iot.redb") && reason.contains("nothing is acknowledged"), "{reason}");
    assert_eq!(host.get("/health").await.unwrap().status, 200);
    assert!(host.ledger().await.unwrap().in_flight > 0);

    limit_files(&host, "unlimited");
    host.ready().await.unwrap();
    settled(&host, 21).await;
    stop(&mut host).await;

    let mut config = config::without_rivven(source);
    config["settings"] = json!({ "state_dir": host.folder().join("state") });
    let mut host = Host::start_with(&config, &["--sink", &format!("file:{RECORDS}")]).unwrap();
    host.ready().await.unwrap();
    let keys: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).chain(["first"]).collect();
    let found = values(&host, &broker, &keys).await;
    for (n, found) in found[..20].iter().enumerate() {
        assert!(*found == format!("{n}-{value}"), "{n} is lost");
    }
    assert_eq!(found[20], "1");
    stop(&mut host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_used_is_named_at_the_start() {
    let broker = broker().await;
    let component = guests::example("count").unwrap();
    let mut source = config::source(&broker.url(), &["a"]);
    config::plugin(&mut source, &component, Value::Null);
    let mut first = start(source.clone()).await;

    // Another host with the same folder; a third where no folder can be.
    let blocked = first.folder().join("blocked");
    fs::write(&blocked, "").unwrap();
    let shared = first.folder().join("state");
    let cases = [
        (&shared, "state is in use by another host (process "),
        (&blocked, "cannot open the state of plugins"),
    ];
    for (state_dir, expected) in cases {
        let mut config = config::without_rivven(source.clone());
        config["settings"] = json!({ "state_dir": state_dir });
        let mut other = Host::start_with(&config, &["--sink", "discard"]).unwrap();
        assert_eq!(other.ended().await.unwrap().code(), Some(1));
        assert!(other.log().contains(expected), "{}", other.log());
    }
    stop(&mut first).await;
}
