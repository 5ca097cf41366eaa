//! Whole files and what they mean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod docs;
mod json_schema;
mod wrong;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::keys::{Keys, Kind};
use super::load::read;
use super::read::World;
use super::*;

const SEED: &str = include_str!("../seed.yaml");

fn variable(name: &str) -> Option<String> {
    match name {
        "MQTT_PASSWORD" => Some("hunter2".into()),
        "TOKEN" => Some("12345".into()),
        _ => None,
    }
}

/// Certificates and keys by their names; `gone` and folders cannot be read.
fn file(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let content = match &*name {
        "ca.pem" | "client.pem" => pair.cert.pem().into_bytes(),
        "client.key" => pair.signing_key.serialize_pem().into_bytes(),
        "broken.pem" => b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n".to_vec(),
        "filter.wasm" => b"\0asm".to_vec(),
        "empty.pem" => Vec::new(),
        _ => return Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    };
    Ok(content.into_iter().take(bytes as usize).collect())
}

fn load_for(yaml: &str, needs_broker: bool) -> Result<Config, Vec<String>> {
    let world = World { variable: &variable, read: &file };
    read(yaml.as_bytes(), Path::new("/etc/iot"), needs_broker, &world)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn load_text(yaml: &str) -> Config {
    load_for(yaml, true).unwrap_or_else(|problems| panic!("{yaml}\n{}", problems.join("\n")))
}

fn only(config: &Config) -> &Source {
    config.sources.values().next().unwrap()
}

/// A single source, with these lines in its `config` (indented by two) and after it.
fn single(config: &str, after: &str) -> String {
    format!("type: mqtt-source\ntopic: t\nconfig:\n  broker_url: h\n  topics: [a]\n{config}{after}")
}

/// The file is the page's text, byte for byte.
#[test]
fn the_seed_document_is_the_pages() {
    use sha2::Digest;
    let sha256: String = sha2::Sha256::digest(SEED).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sha256, "e96edc8904226b97f20172f07ac89f31f330231e9761fba23de41b453623cd22");
}

#[test]
fn the_seed_document_loads_verbatim() {
    let config = load_text(SEED);
    assert_eq!(config.sources.keys().collect::<Vec<_>>(), ["mqtt-source"]);
    assert_eq!(config.broker.as_ref().unwrap().bootstrap_servers, ["localhost:9092"]);
    let source = only(&config);
    let mqtt = &source.mqtt;
    assert_eq!(mqtt.url, BrokerUrl { host: "broker.hivemq.com".into(), port: 1883, websocket: None });
    assert_eq!(mqtt.topics, ["sensors/+/temperature", "devices/#"]);
    assert_eq!(
        (mqtt.client_id.as_str(), mqtt.qos, mqtt.clean_session),
        ("rivven-mqtt-client", QoS::AtLeastOnce, true)
    );
    let auth = mqtt.auth.as_ref().unwrap();
    assert_eq!(auth.username.as_deref(), Some("user"));
    assert_eq!(auth.password.as_ref().unwrap().expose(), "hunter2");
    let tls = mqtt.tls.as_ref().unwrap();
    assert_eq!(tls.ca_cert.as_deref(), Some(Path::new("/etc/ssl/ca.pem")));
    assert_eq!(tls.client_cert.as_deref(), Some(Path::new("/etc/ssl/client.pem")));
    assert_eq!(tls.client_key.as_deref(), Some(Path::new("/etc/ssl/client.key")));
    let will = LastWill {
        topic: "clients/rivven/status".into(),
        payload: b"disconnected".to_vec(),
        qos: QoS::AtLeastOnce,
        retain: true,
    };
    assert_eq!(mqtt.last_will, Some(will));
    let retry = Retry {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(10),
        multiplier: 2.0,
        max_attempts: 0,
    };
    assert_eq!((mqtt.retry, mqtt.empty_poll_delay), (retry, Duration::from_millis(50)));
    assert_eq!(source.record.topic, Template(vec![TemplatePart::Text("iot-events".into())]));
    assert_eq!(source.record.dead_letter_topic, "iot-events.dlq");
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = load_text(&single("", ""));
    let source = only(&config);
    let mqtt = &source.mqtt;
    assert_eq!((mqtt.qos, mqtt.clean_session, mqtt.version), (QoS::AtLeastOnce, true, Version::V4));
    let digits = mqtt.client_id.strip_prefix("rivven-mqtt-").unwrap();
    assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{}", mqtt.client_id);
    assert_eq!(mqtt.url, BrokerUrl { host: "h".into(), port: 1883, websocket: None });
    assert_eq!((mqtt.session_expiry_secs, mqtt.keep_alive), (u32::MAX, Duration::from_secs(60)));
    assert_eq!(mqtt.retained, Retained::All);
    assert_eq!((mqtt.connect_timeout, mqtt.max_inflight), (Duration::from_secs(30), 1_000));
    assert_eq!((mqtt.max_inflight_bytes, mqtt.max_packet_size, mqtt.max_batch), (64 << 20, 256 << 10, 2_048));
    assert!(mqtt.parse_json_payload && mqtt.include_metadata);
    assert!(
        mqtt.auth.is_none() && mqtt.tls.is_none() && mqtt.last_will.is_none() && source.plugins.is_empty()
    );
    assert_eq!((source.on_reject, source.on_fault), (BadMessage::DeadLetter, BadMessage::DeadLetter));
    let record = Record {
        topic: Template(vec![TemplatePart::Text("t".into())]),
        key: Some(Template(vec![TemplatePart::Topic])),
        format: Format::Json,
        dead_letter_topic: "t.dlq".into(),
        partitions: None,
    };
    assert_eq!(source.record, record);
    let listen: SocketAddr = ([127, 0, 0, 1], 9091).into();
    assert_eq!(config.settings.http, Http { listen, configured: false });
    assert_eq!(config.settings.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.settings.state_dir, Path::new("/etc/iot/state"));
    assert_eq!(config.broker.unwrap().connections, 32);

    let plugin = load_text(&single("", "plugin: {path: filter.wasm}"));
    let source = only(&plugin);
    let plugin = &source.plugins[0];
    assert_eq!((plugin.path.as_path(), plugin.config.as_str()), (Path::new("/etc/iot/filter.wasm"), "null"));
    assert_eq!((source.workers, plugin.limits, plugin.sha256), (1, Limits::default(), None));
    assert_eq!(source.flush_interval, Duration::from_secs(1));
    // An empty section of limits has the defaults of the table of keys, which are those of the type.
    let limits = load_text(&single("", "plugin: {path: filter.wasm, limits: {}}"));
    assert_eq!(only(&limits).plugins[0].limits, Limits::default());
}

/// Every key, none with its default.
const EVERYTHING: &str = r#"
broker: {bootstrap_servers: ["a:1", "[::1]:9092"], connections: 90, auth: {username: u, password: 007}, tls: {}}
sources:
  one:
    type: mqtt-source
    topic: "iot.{topic[0]}"
    config:
      broker_url: mqtts://[::1]
      topics: ["$share/g/a/#"]
      client_id: 007
      qos: 2
      clean_session: false
      session_expiry_secs: 60
      retained: skip
      mqtt_version: "5"
      auth: {password: "${TOKEN}"}
      tls: {server_name: broker, alpn: [mqtt], insecure_skip_verify: true}
      last_will: {topic: w, message: bye, qos: 0}
      retry_initial_ms: 10
      retry_max_ms: 100
      retry_multiplier: 1
      max_reconnect_attempts: 3
      empty_poll_delay_ms: 1
      keep_alive_secs: 5
      connect_timeout_secs: 1
      max_inflight: 65535
      max_inflight_bytes: 268435460
      max_packet_size: 268435460
      max_batch: 1
      parse_json_payload: false
      include_metadata: false
    plugin:
      path: /p/filter.wasm
      name: filter-1.2_b
      sha256: 000102030405060708090a0B0c0d0e0f101112131415161718191a1b1c1d1e1f
      config: {threshold: 20, key: "${TOKEN}", list: [a, 1.5, null]}
      workers: 4
      flush_interval_ms: 10
      limits: {memory_mb: 1, deadline_ms: 2, outputs_per_message: 3, output_bytes: 1024, stack_kb: 64, log_lines_per_second: 0, metrics: 0, state_mb: 0, component_mb: 5, compile_seconds: 6, compile_mb: 64, instances: 7, handles: 16}
    key: none
    on_reject: drop
    on_fault: stop
    dead_letter_topic: dead
    partitions: 8
  two: {type: mqtt-source, topic: t, format: raw, key: "x{topic[1]}", config: {broker_url: "tcp://h:1", topics: [a], auth: {username: u, ca_cert: ca.pem}}}
settings: {state_dir: /var/lib, http: {listen: "0.0.0.0:1"}, shutdown_grace_ms: 0}
"#;

#[test]
fn everything_can_be_set() {
    let config = load_text(EVERYTHING);
    let broker = config.broker.as_ref().unwrap();
    assert_eq!((broker.bootstrap_servers.join(" "), broker.connections), ("a:1 [::1]:9092".into(), 90));
    // Plain text that looks like a number keeps its zeros.
    assert_eq!(broker.auth.as_ref().unwrap().password, Some(Secret::new("007")));
    assert_eq!(broker.tls, Some(Tls::default()));
    let (one, two) = (&config.sources["one"], &config.sources["two"]);
    let mqtt = &one.mqtt;
    assert_eq!(mqtt.url, BrokerUrl { host: "::1".into(), port: 8883, websocket: None });
    assert_eq!((mqtt.client_id.as_str(), mqtt.qos, mqtt.version), ("007", QoS::ExactlyOnce, Version::V5));
    assert_eq!((mqtt.clean_session, mqtt.session_expiry_secs), (false, 60));
    assert_eq!(mqtt.retained, Retained::Skip);
    assert_eq!(mqtt.auth, Some(Credentials { username: None, password: Some(Secret::new("12345")) }));
    let tls = mqtt.tls.as_ref().unwrap();
    assert_eq!((tls.server_name.as_deref(), tls.alpn.join(" ")), (Some("broker"), "mqtt".into()));
    assert!(tls.insecure_skip_verify);
    let will = mqtt.last_will.as_ref().unwrap();
    assert_eq!((will.payload.as_slice(), will.qos, will.retain), (&b"bye"[..], QoS::AtMostOnce, false));
    assert_eq!((mqtt.retry.multiplier, mqtt.retry.max_attempts), (1.0, 3));
    assert_eq!((mqtt.max_inflight, mqtt.max_packet_size, mqtt.max_batch), (65_535, 268_435_460, 1));
    let record = &one.record;
    assert_eq!(record.topic.0, [TemplatePart::Text("iot.".into()), TemplatePart::Level(0)]);
    assert_eq!(
        (record.key.as_ref(), record.partitions, record.dead_letter_topic.as_str()),
        (None, Some(8), "dead")
    );
    assert!(!mqtt.parse_json_payload && !mqtt.include_metadata);
    assert_eq!((one.on_reject, one.on_fault), (BadMessage::Drop, BadMessage::Stop));
    let plugin = &one.plugins[0];
    assert_eq!(
        (plugin.name.as_deref(), &plugin.sha256.unwrap()[..4]),
        (Some("filter-1.2_b"), &[0, 1, 2, 3][..])
    );
    // What comes from a variable is text, whatever it looks like.
    assert_eq!(plugin.config, r#"{"key":"12345","list":["a",1.5,null],"threshold":20}"#);
    assert_eq!((one.workers, plugin.limits.memory, plugin.limits.stack), (4, 1 << 20, 64 << 10));
    assert_eq!((plugin.limits.outputs_per_message, plugin.limits.component), (3, 5 << 20));
    assert_eq!(
        (plugin.limits.compile_time, plugin.limits.compile_memory),
        (Duration::from_secs(6), 64 << 20)
    );
    assert_eq!((plugin.limits.instances, plugin.limits.handles), (7, 16));
    assert_eq!((two.record.format, two.mqtt.url.port), (Format::Raw, 1));
    assert_eq!(two.mqtt.tls.as_ref().unwrap().ca_cert.as_deref(), Some(Path::new("/etc/iot/ca.pem")));
    assert!(config.settings.http.configured);
    assert_eq!(config.settings.shutdown_grace, Duration::ZERO);
}

#[test]
fn only_the_rivven_sink_needs_a_broker() {
    let yaml = "sources: {a: {type: mqtt-source, topic: t, config: {broker_url: h, topics: [a]}}}";
    assert!(load_for(yaml, false).unwrap().broker.is_none());
    let missing =
        "1:1: broker: is missing (expected a mapping with bootstrap_servers; only `--sink rivven` needs it)";
    assert_eq!(load_for(yaml, true).unwrap_err(), [missing]);
}

#[test]
fn secrets_are_never_shown() {
    let yaml = single(
        "  auth: {username: u, password: hunter2}\n",
        "plugin: {path: filter.wasm, config: {token: hunter2}}",
    );
    let shown = format!("{:?}", load_text(&yaml));
    assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
    for wrong in [
        "  auth: hunter2\n",
        "  auth: [hunter2]\n",
        "  auth: {username: u, password: [hunter2]}\n",
        "  auth: {password: hunter2}\n",
        "  auth: \"${MQTT_PASSWORD}\"\n",
        "  qos: \"${MQTT_PASSWORD}\"\n",
        "  keep_alive_secs: \"${MQTT_PASSWORD}\"\n",
        "  last_will: {topic: a, retain: \"${MQTT_PASSWORD}\"}\n",
    ] {
        let problems = load_for(&single(wrong, ""), true).unwrap_err().join("\n");
        assert!(!problems.contains("hunter2"), "{wrong}: {problems}");
    }
    let url = "type: mqtt-source\ntopic: t\nconfig: {broker_url: \"mqtt://u:hunter2@h\", topics: [a]}";
    assert_eq!(
        load_for(url, true).unwrap_err(),
        [
            "3:22: config.broker_url: holds a user name or a password (put them under `auth`, as username and password)"
        ]
    );
}

#[test]
fn what_hurts_is_told() {
    let risks = |yaml: &str| -> Vec<String> {
        let told = load_text(yaml).risks().iter().map(ToString::to_string).collect::<Vec<_>>();
        // Where the tests run may be in memory.
        told.into_iter().filter(|risk| !risk.starts_with("settings.state_dir: /etc/iot")).collect()
    };
    let harmless = "  client_id: x\n  clean_session: false\n";
    assert_eq!(risks(&single(harmless, "")), [""; 0]);
    assert_eq!(risks(&single("  qos: 0\n  max_inflight: 1\n", "")), [""; 0]);
    let clean = risks(&single("", ""));
    assert_eq!(clean.len(), 1, "{clean:?}");
    assert!(clean[0].starts_with("mqtt-source: config.clean_session: is true: "), "{}", clean[0]);
    let narrow = risks(&single(&format!("{harmless}  max_inflight: 99\n"), ""));
    assert!(
        narrow.len() == 1 && narrow[0].starts_with("mqtt-source: config.max_inflight: is 99: "),
        "{narrow:?}"
    );
    let unpinned = risks(&single(harmless, "plugin: {path: filter.wasm}"));
    assert!(
        unpinned.len() == 1 && unpinned[0].starts_with("mqtt-source: plugin.sha256: is missing: "),
        "{unpinned:?}"
    );
    let pinned = format!("plugin: {{path: filter.wasm, sha256: {}}}", "0".repeat(64));
    assert_eq!(risks(&single(harmless, &pinned)), [""; 0]);
    let blind = risks(&single(
        &format!("{harmless}  tls: {{insecure_skip_verify: true}}\n"),
        "broker: {bootstrap_servers: ['h:1'], tls: {insecure_skip_verify: true}}",
    ));
    assert_eq!(
        blind,
        [
            "mqtt-source: config.tls.insecure_skip_verify: is true: any server is taken for the MQTT broker; set ca_cert instead",
            "broker.tls.insecure_skip_verify: is true: any server is taken for Rivven; set ca_cert instead",
        ]
    );
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("client.key");
    std::fs::write(&key, "").unwrap();
    let mut config =
        load_text(&single("  qos: 0\n  tls: {client_cert: client.pem, client_key: client.key}\n", ""));
    config
        .sources
        .values_mut()
        .for_each(|source| source.mqtt.tls.as_mut().unwrap().client_key = Some(key.clone()));
    for (mode, told) in [(0o600, false), (0o400, false), (0o640, true), (0o644, true), (0o604, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let risks = config.risks();
        assert_eq!(risks.iter().any(|risk| risk.key == "config.tls.client_key"), told, "{mode:o}: {risks:?}");
    }
}

#[test]
fn a_file_with_a_password_that_others_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("iot.yaml");
    let auth = |password: &str| single(&format!("  auth: {{username: u, password: {password}}}\n"), "");
    for (text, mode, told) in [
        (auth("hunter2"), 0o600, false),
        (auth("hunter2"), 0o640, true),
        (auth("hunter2"), 0o604, true),
        (auth("\"${PATH}\""), 0o644, false),
        (auth("\"${NEVER_SET:-}\""), 0o644, false),
        (auth("\"${NEVER_SET:-hunter2}\""), 0o644, true),
        (auth("\"$${hunter2\""), 0o644, true),
        (
            single("", "broker: {bootstrap_servers: ['h:1'], auth: {username: u, password: hunter2}}"),
            0o644,
            true,
        ),
        (single("", ""), 0o644, false),
    ] {
        std::fs::write(&file, &text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let risks = load(&file, true).unwrap().risks();
        let found: Vec<_> = risks.iter().filter(|risk| risk.key == "password").collect();
        assert_eq!(found.len(), usize::from(told), "{mode:o} {text}: {risks:?}");
        for risk in found {
            assert!(risk.what.contains(&format!("chmod 600 {}", file.display())), "{risk}");
            assert!(!risk.what.contains("hunter2"), "{risk}");
        }
    }
}

#[test]
fn a_state_dir_that_others_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mut config = load_text(&single("", ""));
    config.settings.state_dir = folder.path().to_owned();
    for (mode, told) in [(0o700, false), (0o750, true), (0o755, true), (0o701, true)] {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let risks = config.risks();
        let text = format!("chmod 700 {}", folder.path().display());
        assert_eq!(risks.iter().any(|risk| risk.what.ends_with(&text)), told, "{mode:o}: {risks:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_state_dir_in_memory_is_told() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let in_memory = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, folder, "tmpfs", ..] => Some(folder),
        _ => None,
    });
    let folder = in_memory.expect("a Linux has a tmpfs somewhere, at least /dev/shm");
    for (state_dir, told) in [(format!("{folder}/none/yet"), true), ("/proc/none".to_owned(), false)] {
        let config = load_text(&single("", &format!("settings: {{state_dir: {state_dir}}}")));
        let risks = config.risks();
        assert_eq!(risks.iter().any(|risk| risk.key == "settings.state_dir"), told, "{state_dir}: {risks:?}");
    }
}

/// Each key of the tables with its path in the larger file.
fn walk(keys: Keys, path: &[&'static str], visit: &mut impl FnMut(&[&'static str], &keys::Key)) {
    for key in keys {
        let path = [path, &[key.name]].concat();
        visit(&path, key);
        match key.kind {
            Kind::Section(keys) | Kind::SectionOrList(keys) => walk(keys, &path, visit),
            Kind::Sections(keys) => walk(keys, &[&path[..], &["iot"]].concat(), visit),
            _ => {}
        }
    }
}

/// A file with one source, and `value` at `path`.
fn with(path: &[&str], value: serde_json::Value) -> serde_json::Value {
    let mut root = serde_json::json!({
        "sources": { "iot": { "type": "mqtt-source", "topic": "t", "config": { "broker_url": "h", "topics": ["a"] } } }
    });
    let mut node = &mut root;
    for name in path {
        node = &mut node[name];
    }
    *node = value;
    root
}

/// A value of the wrong type at any key of the tables is a problem at just that key, so each key is really read.
#[test]
fn every_key_is_read() {
    let mut seen = 0;
    walk(keys::ROOT, &[], &mut |path, key| {
        if matches!(key.kind, Kind::Anything) {
            return;
        }
        seen += 1;
        let wrong_mapping = matches!(key.kind, Kind::Section(_) | Kind::SectionOrList(_) | Kind::Sections(_));
        let value = if wrong_mapping { serde_json::json!("x") } else { serde_json::json!({ "x": 1 }) };
        let root = with(path, value);
        let problems = load_for(&root.to_string(), false).unwrap_err();
        let at = format!(": {}: ", path.join("."));
        assert!(problems.iter().any(|problem| problem.contains(&at)), "{at} {problems:?}");
    });
    assert!(seen > 60, "{seen}");
}

#[test]
fn defaults_are_legal_values() {
    walk(keys::ROOT, &[], &mut |path, key| {
        let Some(default) = key.default else { return };
        let legal = match key.kind {
            Kind::Integer(min, max) => default.parse::<u64>().is_ok_and(|value| (min..=max).contains(&value)),
            Kind::Number(min, max) => default.parse::<f64>().is_ok_and(|value| (min..=max).contains(&value)),
            Kind::Flag => matches!(default, "true" | "false"),
            Kind::Choice(choices) => choices.iter().any(|(name, _)| *name == default),
            Kind::Text | Kind::Path => true,
            _ => false,
        };
        assert!(legal && !key.required && !key.doc.is_empty(), "{path:?} {default}");
    });
}

#[test]
fn limits_of_the_command_line() {
    let limits = parse_limits(r#"{"memory_mb": 16, "deadline_ms": 50}"#).unwrap();
    assert_eq!((limits.memory, limits.deadline), (16 << 20, Duration::from_millis(50)));
    assert_eq!(limits.outputs_per_message, Limits::default().outputs_per_message);
    let said = parse_limits(r#"{"memory": 16, "deadline_ms": 0}"#).unwrap_err();
    assert!(said.starts_with("memory ") && said.contains("did you mean memory_mb"), "{said}");
    assert!(said.contains("; deadline_ms is `0` (expected an integer from 1 to 600000)"), "{said}");
}

#[test]
fn the_page_about_plugins_has_every_limit_with_its_default() {
    let page = include_str!("../../../docs/plugins.md");
    let (_, limits) = page.split_once("\n## Limits\n").unwrap();
    let rows: Vec<_> = limits.lines().skip_while(|line| !line.starts_with("|---")).skip(1).collect();
    let rows: Vec<_> = rows.into_iter().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), keys::LIMITS.len());
    for (row, key) in rows.iter().zip(keys::LIMITS) {
        let begin = format!("| `{}` | {} | ", key.name, key.default.unwrap());
        assert!(row.starts_with(&begin), "{row} does not start with {begin}");
    }
}
