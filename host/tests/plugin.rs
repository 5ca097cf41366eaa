//! The plugin host with real components: the example plugins, and guests that attack it. `make guests` builds them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rivven_mqtt::config::{self, Limits};
use rivven_mqtt::error::{Fault, PluginError};
use rivven_mqtt::message::{Batch, Flags, Outcome, QoS, StateWrites, Verdict};
use rivven_mqtt::plugin::{Plugin, PluginHost, Sandbox, SourceDescription, Worker, World};

/// The default limits but for the time: a busy machine is no fault of a plugin, where time is not what is tested.
fn patient() -> Limits {
    Limits { deadline: Duration::from_secs(60), ..Limits::default() }
}

/// A component that `make guests` has built.
fn guest(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("wasm32-wasip2/plugin").join(name).with_extension("wasm");
    assert!(path.exists(), "{} is missing: run `make guests` first", path.display());
    path
}

fn config(path: PathBuf, config: &str, limits: Limits) -> config::Plugin {
    config::Plugin { name: None, path, sha256: None, config: config.to_owned(), secrets: vec![], limits }
}

fn load_with(name: &str, json: &str, limits: Limits, host: PluginHost) -> Result<Plugin, PluginError> {
    let source = Arc::new(SourceDescription {
        connector: "rivven-mqtt 0.1.0".into(),
        client_id: "client-7".into(),
        broker: "broker.example:1883".into(),
        subscriptions: vec!["a/#".into(), "b".into()],
        protocol_version: "5.0".into(),
    });
    Plugin::load(&Sandbox::new().unwrap(), &config(guest(name), json, limits), source, host)
}

fn load(name: &str, json: &str, limits: Limits) -> Plugin {
    load_with(name, json, limits, PluginHost::new("test", &limits)).unwrap()
}

fn worker(name: &str, json: &str) -> Worker {
    load(name, json, patient()).worker().unwrap()
}

fn batch(messages: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::default();
    for (n, (topic, payload)) in messages.iter().enumerate() {
        Arc::make_mut(&mut batch.topics).push(topic.as_bytes());
        Arc::make_mut(&mut batch.payloads).push(payload.as_bytes());
        batch.packet_ids.push(n as u16 + 1);
        batch.flags.push(Flags::new(QoS::AtLeastOnce, n % 2 == 1, false));
        batch.received_at.push(1_000 + n as u64);
        batch.sequences.push(n as u64);
    }
    batch
}

/// What becomes of one message that attacks.
fn attack(payload: &str) -> Result<Outcome, Fault> {
    attack_within(patient(), payload)
}

/// The same within `limits`. An honest message gets through afterwards, whatever happened.
fn attack_within(limits: Limits, payload: &str) -> Result<Outcome, Fault> {
    let mut worker = load("hostile_attacks", "null", limits).worker().unwrap();
    let outcome = worker.process(&mut batch(&[("t", payload)]));
    assert_eq!(worker.process(&mut batch(&[("t", "honest")])).unwrap().verdicts, [Verdict::Pass]);
    assert_eq!(worker.usage().faults, u64::from(outcome.is_err()));
    outcome
}

/// The values that were emitted, as text.
fn values(outcome: &Outcome) -> Vec<String> {
    let outputs = &outcome.outputs;
    (0..outputs.len()).map(|i| String::from_utf8(outputs.values.get(i).to_vec()).unwrap()).collect()
}

#[test]
fn a_filter_passes_and_drops() {
    let mut filter = worker("example_filter", r#"{"threshold": 20.0, "field": "celsius"}"#);
    let mut batch = batch(&[("a", r#"{"celsius": 19.5}"#), ("b", r#"{"celsius": 20.5}"#), ("c", "?")]);
    let before = batch.clone();
    for _ in 0..3 {
        let outcome = filter.process(&mut batch).unwrap();
        assert_eq!(outcome.verdicts, [Verdict::Drop, Verdict::Pass, Verdict::Pass]);
        assert!(outcome.outputs.is_empty() && outcome.reasons.is_empty());
    }
    // The batch is as before, and the driver can use its columns again.
    assert_eq!((&batch.topics, &batch.payloads), (&before.topics, &before.payloads));
    assert_eq!((&batch.sequences, &batch.packet_ids), (&before.sequences, &before.packet_ids));
    drop(before);
    assert!(Arc::get_mut(&mut batch.topics).is_some() && Arc::get_mut(&mut batch.payloads).is_some());
    let usage = filter.usage();
    assert_eq!((usage.calls, usage.faults), (4, 0));
    assert!(usage.longest <= usage.time && usage.peak_memory >= 1 << 16, "{usage:?}");
}

#[test]
fn a_transformation_sets_topic_and_key_and_rejects_with_a_reason() {
    let plugin = load("example_transform", r#"{"topic": "celsius"}"#, Limits::default());
    assert_eq!((plugin.name(), plugin.aggregates()), ("example_transform", false));
    let mut transform = plugin.worker().unwrap();
    let mut batch = batch(&[("a", "warm"), ("b", r#"{"device": "d7", "fahrenheit": 212}"#)]);
    let outcome = transform.process(&mut batch).unwrap();
    assert_eq!(outcome.verdicts, [Verdict::Reject, Verdict::Emit]);
    assert_eq!(outcome.reasons.len(), 1);
    assert!(outcome.reasons[0].1.contains("not the expected JSON"), "{:?}", outcome.reasons);
    let outputs = &outcome.outputs;
    assert_eq!(outputs.of, [1]);
    assert_eq!((outputs.topics.get(0), outputs.keys.get(0)), (&b"celsius"[..], &b"d7"[..]));
    assert_eq!(values(&outcome), [r#"{"device":"d7","celsius":100.0}"#]);
}

#[test]
fn an_aggregation_holds_and_flushes() {
    let plugin = load("example_aggregate", "{}", Limits::default());
    assert!(plugin.aggregates());
    let mut aggregate = plugin.worker().unwrap();
    for payload in ["1", "2", "6"] {
        let outcome = aggregate.process(&mut batch(&[("room/1", payload)])).unwrap();
        assert_eq!(outcome.verdicts, [Verdict::Hold]);
    }
    let outputs = aggregate.flush().unwrap();
    assert_eq!((outputs.len(), outputs.keys.get(0)), (1, &b"room/1"[..]));
    assert_eq!(outputs.values.get(0), br#"{"min":1.0,"mean":3.0,"max":6.0,"count":3}"#);
    assert!(aggregate.flush().unwrap().is_empty());
    assert!(worker("example_filter", r#"{"threshold": 1}"#).flush().unwrap().is_empty());
}

#[test]
fn a_plugin_sees_all_of_a_message() {
    let mut probe = worker("hostile_probe", "null");
    let mut batch = batch(&[("plain", "text"), ("é/t", "columns"), ("d", "describe")]);
    batch.flags[0] = Flags::new(QoS::ExactlyOnce, false, true);
    // Payload format indicator 1, message expiry 258, content type `c/t`, correlation data 00 ff, user property k = v.
    let block = b"\x01\x01\x02\0\0\x01\x02\x03\0\x03c/t\x09\0\x02\0\xff\x26\0\x01k\0\x01v";
    batch.properties.push((1, block.to_vec().into()));
    let said = values(&probe.process(&mut batch).unwrap());
    let expected = [
        r#"Message { topic: "plain", payload: [116, 101, 120, 116], delivery: Delivery { qos: Qos::ExactlyOnce, retain: false, duplicate: true }, received-at: 1000, properties: None }"#,
        r#"Message { topic: "é/t", payload: [99, 111, 108, 117, 109, 110, 115], delivery: Delivery { qos: Qos::AtLeastOnce, retain: true, duplicate: false }, received-at: 1001, properties: Some(Properties { content-type: Some("c/t"), response-topic: None, correlation-data: Some([0, 255]), message-expiry: Some(258), payload-is-utf8: true, user: [("k", "v")] }) }"#,
        r#"Description { connector: "rivven-mqtt 0.1.0", client-id: "client-7", broker: "broker.example:1883", subscriptions: ["a/#", "b"], protocol-version: "5.0" }"#,
    ];
    assert_eq!(said, expected);
    // The second message again, now as a row.
    let mut row = Batch::default();
    row.push_from(&batch, 1);
    Arc::make_mut(&mut row.payloads).clear();
    Arc::make_mut(&mut row.payloads).push(b"x");
    let said = values(&probe.process(&mut row).unwrap());
    assert_eq!(said, [expected[1].replace("[99, 111, 108, 117, 109, 110, 115]", "[120]")]);
}

#[test]
fn a_handle_reaches_no_other_batch() {
    let mut probe = worker("hostile_probe", "null");
    assert_eq!(values(&probe.process(&mut batch(&[("first", "keep-handle")])).unwrap()), ["kept"]);
    // The number is that of the running call's handle, or of nothing.
    match probe.process(&mut batch(&[("second", "use-handle")])) {
        Ok(outcome) => assert_eq!(values(&outcome), ["second"]),
        Err(fault) => assert!(matches!(fault, Fault::Trap(_)), "{fault}"),
    }
    let messages = [("third", "keep-handle"), ("third", "use-other-handle")];
    let fault = probe.process(&mut batch(&messages)).unwrap_err();
    assert!(fault.to_string().contains("unknown handle index"), "{fault}");
}

#[test]
fn a_trap_says_what_the_plugin_said() {
    let fault = attack("trap").unwrap_err().to_string();
    assert!(fault.starts_with("the plugin trapped: wasm trap: wasm `unreachable` instruction executed: "));
    assert!(fault.contains("trapped, as the message said"), "{fault}");
    assert_eq!(attack("exit").unwrap_err(), Fault::Exit(0));
}

#[test]
fn endless_code_ends_at_its_deadline() {
    let deadline = Duration::from_millis(100);
    let limits = Limits { deadline, ..Limits::default() };
    let started = Instant::now();
    assert_eq!(attack_within(limits, "spin").unwrap_err(), Fault::Deadline(deadline));
    assert!(started.elapsed() >= deadline);
}

#[test]
fn sleep_is_refused_at_once() {
    let fault = attack("sleep").unwrap_err().to_string();
    assert!(fault.contains("may not sleep"), "{fault}");
}

#[test]
fn endless_recursion_ends_with_the_stack() {
    let fault = attack_within(Limits { stack: 64 << 10, ..patient() }, "recurse").unwrap_err();
    assert!(fault.to_string().contains("call stack exhausted"), "{fault}");
    // With much of it the plugin's own stack, in its memory, ends first.
    for stack in [512 << 10, 1 << 20] {
        let fault = attack_within(Limits { stack, ..patient() }, "recurse").unwrap_err();
        assert!(matches!(fault, Fault::Trap(_)), "{fault}");
    }
}

#[test]
fn memory_ends_at_its_limit() {
    let limits = Limits { memory: 8 << 20, ..patient() };
    let mut worker = load("hostile_attacks", "null", limits).worker().unwrap();
    assert_eq!(worker.process(&mut batch(&[("t", "hog")])).unwrap_err(), Fault::Memory { limit: 8 << 20 });
    let peak = worker.usage().peak_memory;
    assert!((4 << 20..=8 << 20).contains(&peak), "{peak}");
    // A batch that does not fit the plugin's memory is that limit's fault as well.
    let giant = "x".repeat(16 << 20);
    let giant = worker.process(&mut batch(&[("t", giant.as_str())])).unwrap_err();
    assert_eq!(giant, Fault::Memory { limit: 8 << 20 });
    // It cannot even be instantiated with less than it begins with.
    let limits = Limits { memory: 1 << 16, ..patient() };
    let refused = load("hostile_attacks", "null", limits).worker().err().unwrap();
    assert!(
        matches!(refused, PluginError::Start { fault: Fault::Memory { limit: 65_536 }, .. }),
        "{refused}"
    );
}

#[test]
fn outputs_are_bounded() {
    assert_eq!(attack("outputs:1000").unwrap().outputs.len(), 1_000);
    assert_eq!(attack("outputs:1001").unwrap_err(), Fault::TooManyOutputs { outputs: 1_001, limit: 1_000 });
    let limits = Limits { output_bytes: 1 << 20, memory: 256 << 20, ..patient() };
    assert_eq!(attack_within(limits, "giant:1048572").unwrap().outputs.bytes(), 1_048_572);
    // Over the limit, and over what the host lifts at all.
    for bytes in [1_048_573, 64 << 20] {
        let fault = attack_within(limits, &format!("giant:{bytes}")).unwrap_err();
        assert_eq!(fault, Fault::OutputTooLarge { limit: 1 << 20 });
    }
}

#[test]
fn each_rule_that_is_broken_is_a_fault() {
    let plugin = load("hostile_attacks", "null", patient());
    let mut worker = plugin.worker().unwrap();
    for (rule, expected) in [
        ("missing-verdict", "`verdicts` has 1 items for 2 messages"),
        ("spare-verdict", "`verdicts` has 3 items for 2 messages"),
        ("hold", "does not export `aggregate`"),
        ("output-of-passed", "message 0 has an output and the verdict Pass"),
        ("output-of-nobody", "`output-of` names message 2 of 2"),
        ("falling-output-of", "`output-of` falls"),
        ("missing-value", "`values` has 1 items for 2 outputs"),
        ("missing-key", "`keys` has 1 items for 2 outputs"),
        ("spare-topic", "`topics` has 3 items for 2 outputs"),
        ("falling-ends", "`values.ends` falls"),
        ("overrun", "`values.ends` goes to 3, beyond its 2 bytes"),
        ("topic-not-utf8", "`topics` is not UTF-8"),
        ("reason-of-passed", "message 0 has a reason and the verdict Pass"),
        ("falling-reasons", "`reasons` is not ascending"),
    ] {
        let mut batch = batch(&[("t", &format!("nonsense:{rule}")), ("t", "honest")]);
        match worker.process(&mut batch) {
            Err(Fault::BrokenRule(said)) => assert!(said.contains(expected), "{rule}: {said}"),
            other => panic!("{rule}: {other:?}"),
        }
    }
}

#[test]
fn a_flush_faults_like_any_call() {
    for (message, expected) in [
        ("flush-trap", "trapped in flush"),
        ("flush-spin", "longer than its deadline"),
        ("flush-falling-ends", "`values.ends` falls"),
        ("flush-spare-key", "`keys` has 3 items for 2 outputs"),
    ] {
        let limits = Limits { deadline: Duration::from_millis(100), ..Limits::default() };
        let mut holder = load("hostile_holder", "null", limits).worker().unwrap();
        let outcome = holder.process(&mut batch(&[("t", "one"), ("t", message)])).unwrap();
        assert_eq!(outcome.verdicts, [Verdict::Hold; 2]);
        let fault = holder.flush().unwrap_err().to_string();
        assert!(fault.contains(expected), "{message}: {fault}");
        // The fresh instance holds nothing.
        assert!(holder.flush().unwrap().is_empty());
    }
}

#[test]
fn an_init_that_fails_names_the_plugin_and_what_it_said() {
    let limits = Limits { deadline: Duration::from_millis(100), ..Limits::default() };
    for (json, expected) in [
        (r#""refuse""#, "does not start: init failed: refused, as configured"),
        (r#""trap""#, "trapped in init, as configured"),
        (r#""spin""#, "longer than its deadline of 100 ms"),
    ] {
        let said = load("hostile_attacks", json, limits).worker().err().unwrap().to_string();
        assert!(said.starts_with("the plugin hostile_attacks (") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_fault_leaves_no_state_and_a_success_shows_it_to_every_worker() {
    let plugin = load("hostile_attacks", "null", patient());
    let (mut one, mut other) = (plugin.worker().unwrap(), plugin.worker().unwrap());
    let get = |worker: &mut Worker| values(&worker.process(&mut batch(&[("t", "get:k")])).unwrap());
    one.process(&mut batch(&[("t", "set:k=v"), ("t", "honest")])).unwrap();
    assert_eq!((get(&mut one), get(&mut other)), (vec!["v".to_owned()], vec![]));
    let mut writes = Vec::new();
    one.publish(&mut writes);
    let changes = vec![(Arc::from("k"), Some(Arc::from(*b"v")))];
    assert_eq!(writes, [StateWrites { plugin: "hostile_attacks".into(), changes }]);
    assert_eq!((get(&mut one), get(&mut other)), (vec!["v".to_owned()], vec!["v".to_owned()]));
    one.process(&mut batch(&[("t", "set:k=x")])).unwrap();
    one.roll_back();
    other.process(&mut batch(&[("t", "set-trap:k=w")])).unwrap_err();
    for worker in [&mut one, &mut other] {
        worker.publish(&mut writes);
    }
    assert_eq!(writes.len(), 1, "what failed is not given out");
    assert_eq!((get(&mut one), get(&mut other)), (vec!["v".to_owned()], vec!["v".to_owned()]));
}

#[test]
fn what_init_writes_is_not_there_before_its_instance_gets_to_work() {
    let limits = patient();
    let host = PluginHost::new("test", &limits);
    let load = |json| load_with("hostile_attacks", json, limits, host.clone()).unwrap();
    let get = |worker: &mut Worker| values(&worker.process(&mut batch(&[("t", "get:k")])).unwrap());
    let mut old = load("null").worker().unwrap();
    let new = load(r#""set:k=new""#);
    // As of a reload that fails with the next plugin of the list.
    drop(new.worker().unwrap());
    assert_eq!(get(&mut old), [""; 0]);
    let mut new = new.worker().unwrap();
    assert_eq!(get(&mut old), [""; 0]);
    // Nor is it forgotten by what happens before that.
    new.roll_back();
    assert_eq!((get(&mut new), get(&mut old)), (vec!["new".to_owned()], vec!["new".to_owned()]));
    let mut writes = Vec::new();
    new.publish(&mut writes);
    let changes = vec![(Arc::from("k"), Some(Arc::from(*b"new")))];
    assert_eq!(writes, [StateWrites { plugin: "hostile_attacks".into(), changes }]);
}

#[test]
fn state_logs_and_metrics_have_limits() {
    let limits = Limits { state: 3 << 20, log_lines_per_second: 10, metrics: 10, ..patient() };
    let host = PluginHost::new("test", &limits);
    let mut worker = load_with("hostile_attacks", "null", limits, host.clone()).unwrap().worker().unwrap();
    let outcome = worker.process(&mut batch(&[("t", "fill")])).unwrap();
    assert_eq!(outcome.reasons, [(0, "the plugin's state is full".to_owned())]);
    worker.publish(&mut Vec::new());
    assert!((1 << 20..=3 << 20).contains(&host.state.bytes()), "{}", host.state.bytes());
    worker.process(&mut batch(&[("t", "metrics:100")])).unwrap();
    assert_eq!((host.metrics.snapshot().counters.len(), host.metrics.dropped()), (10, 90));
    for flood in ["logs:1000", "prints:1000"] {
        let before = host.log.dropped();
        worker.process(&mut batch(&[("t", flood)])).unwrap();
        // What a second brings is all that a call can have beyond the first ten lines.
        assert!(host.log.dropped() - before >= 970, "{flood}: {}", host.log.dropped());
    }
    assert_eq!(worker.usage().faults, 0);
}

#[test]
fn there_are_no_files_and_no_environment() {
    for path in ["/etc/passwd", "Cargo.toml", "/proc/self/environ"] {
        let outcome = attack(&format!("read:{path}")).unwrap();
        assert_eq!(outcome.verdicts, [Verdict::Reject], "{path}");
    }
    assert_eq!(values(&attack("env").unwrap()), ["0 arguments, 0 variables"]);
}

#[test]
fn what_is_not_granted_is_named_before_anything_runs() {
    let limits = Limits::default();
    let said = load_with("hostile_sockets", "null", limits, PluginHost::new("test", &limits)).err().unwrap();
    let PluginError::Imports { missing, .. } = &said else { panic!("{said}") };
    assert!(missing.iter().all(|(name, _)| name.starts_with("wasi:sockets/")), "{said}");
    assert!(missing.iter().any(|(name, _)| name.starts_with("wasi:sockets/tcp@0.2.")), "{said}");
    assert!(said.to_string().contains("plugins have no network"), "{said}");

    let other = load_with("hostile_otherworld", "null", limits, PluginHost::new("test", &limits));
    let other = other.err().unwrap();
    assert!(matches!(other, PluginError::World { .. }), "{other}");
    assert!(other.to_string().contains("it exports greet"), "{other}");
}

#[test]
fn a_component_that_was_cut_or_changed_never_loads() {
    let whole = std::fs::read(guest("example_filter")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.wasm");
    let sandbox = Sandbox::new().unwrap();
    let load = |bytes: &[u8], sha256| {
        std::fs::write(&path, bytes).unwrap();
        let limits = Limits::default();
        let pinned = config::Plugin { sha256, ..config(path.clone(), "null", limits) };
        Plugin::load(&sandbox, &pinned, Arc::default(), PluginHost::new("test", &limits))
    };
    let sha256 = load(&whole, None).unwrap().sha256_hex().to_owned();
    for part in [0, 3, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        let said =
            load(&whole[..part], None).err().unwrap_or_else(|| panic!("{part} bytes load")).to_string();
        assert!(said.contains("cut.wasm"), "{said}");
    }
    let pin: Vec<u8> =
        (0..64).step_by(2).map(|i| u8::from_str_radix(&sha256[i..i + 2], 16).unwrap()).collect();
    let pin: [u8; 32] = pin.try_into().unwrap();
    assert!(load(&whole, Some(pin)).is_ok());
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(load(&changed, Some(pin)), Err(PluginError::Pin { .. })));
}

#[test]
fn an_inspection_shows_what_fits_and_what_does_not() {
    let filter =
        Plugin::inspect(&Sandbox::new().unwrap(), &guest("example_filter"), &Limits::default()).unwrap();
    assert!(filter.loads());
    assert_eq!((filter.world, filter.contract.as_deref()), (Some(World::Plugin), Some("0.1.0")));
    assert_eq!(filter.exports, ["rivven:connect/transform@0.1.0"]);
    assert!(filter.to_string().ends_with("It can be loaded."), "{filter}");
    let json = serde_json::to_value(&filter).unwrap();
    assert_eq!((&json["world"], &json["limits"]["memory_mb"]), (&"plugin".into(), &64.into()));
    assert_eq!(json["sha256"].as_str().unwrap().len(), 64);

    let aggregate =
        Plugin::inspect(&Sandbox::new().unwrap(), &guest("example_aggregate"), &Limits::default()).unwrap();
    assert_eq!(aggregate.world, Some(World::AggregatingPlugin));

    let sockets =
        Plugin::inspect(&Sandbox::new().unwrap(), &guest("hostile_sockets"), &Limits::default()).unwrap();
    assert!(!sockets.loads());
    assert!(sockets.to_string().contains("NOT GRANTED  wasi:sockets/tcp@"), "{sockets}");

    let other =
        Plugin::inspect(&Sandbox::new().unwrap(), &guest("hostile_otherworld"), &Limits::default()).unwrap();
    assert!(!other.loads() && other.world.is_none());
    assert!(other.problem.unwrap().contains("it exports greet"));
}

#[test]
fn a_worker_moves_to_the_thread_that_owns_it() {
    let mut worker = worker("example_filter", r#"{"threshold": 20}"#);
    let stack = worker.plugin().thread_stack();
    let thread = std::thread::Builder::new().stack_size(stack);
    let verdicts = thread.spawn(move || worker.process(&mut batch(&[("t", "1")])).unwrap().verdicts);
    assert_eq!(verdicts.unwrap().join().unwrap(), [Verdict::Pass]);
}
