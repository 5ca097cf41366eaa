//! Whole files: what they mean, and the exact message of each that is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::keys::{Keys, Kind};
use super::load::read;
use super::read::World;
use super::*;

const SEED: &str = include_str!("seed.yaml");

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
    assert_eq!((mqtt.connect_timeout, mqtt.max_inflight), (Duration::from_secs(30), 1_000));
    assert_eq!((mqtt.max_inflight_bytes, mqtt.max_packet_size, mqtt.max_batch), (64 << 20, 256 << 10, 1_024));
    assert!(mqtt.auth.is_none() && mqtt.tls.is_none() && mqtt.last_will.is_none() && source.plugin.is_none());
    assert_eq!((source.on_reject, source.on_fault), (BadMessage::DeadLetter, BadMessage::DeadLetter));
    let record = Record {
        topic: Template(vec![TemplatePart::Text("t".into())]),
        key: Some(Template(vec![TemplatePart::Topic])),
        format: Format::Json,
        dead_letter_topic: "t.dlq".into(),
        partitions: None,
        parse_json_payload: true,
        include_metadata: true,
    };
    assert_eq!(source.record, record);
    let listen: SocketAddr = ([127, 0, 0, 1], 9091).into();
    assert_eq!(config.settings.http, Http { listen, configured: false });
    assert_eq!(config.settings.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.settings.state_dir, Path::new("/etc/iot/state"));
    assert_eq!(config.broker.unwrap().connections, 32);

    let plugin = load_text(&single("", "plugin: {path: filter.wasm}"));
    let plugin = only(&plugin).plugin.clone().unwrap();
    assert_eq!((plugin.path.as_path(), plugin.config.as_str()), (Path::new("/etc/iot/filter.wasm"), "null"));
    assert_eq!((plugin.workers, plugin.limits, plugin.sha256), (1, Limits::default(), None));
    assert_eq!(plugin.flush_interval, Duration::from_secs(1));
    // An empty section of limits has the defaults of the table of keys, which are those of the type.
    let limits = load_text(&single("", "plugin: {path: filter.wasm, limits: {}}"));
    assert_eq!(only(&limits).plugin.as_ref().unwrap().limits, Limits::default());
}

#[test]
fn everything_can_be_set() {
    let config = load_text(
        r#"
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
      sha256: 000102030405060708090a0B0c0d0e0f101112131415161718191a1b1c1d1e1f
      config: {threshold: 20, key: "${TOKEN}", list: [a, 1.5, null]}
      workers: 4
      flush_interval_ms: 10
      limits: {memory_mb: 1, deadline_ms: 2, outputs_per_message: 3, output_bytes: 1024, stack_kb: 64, log_lines_per_second: 0, metrics: 0, state_mb: 0, component_mb: 5}
    key: none
    on_reject: drop
    on_fault: stop
    dead_letter_topic: dead
    partitions: 8
  two: {type: mqtt-source, topic: t, format: raw, key: "x{topic[1]}", config: {broker_url: "tcp://h:1", topics: [a], auth: {username: u, ca_cert: ca.pem}}}
settings: {state_dir: /var/lib, http: {listen: "0.0.0.0:1"}, shutdown_grace_ms: 0}
"#,
    );
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
    assert!(!record.parse_json_payload && !record.include_metadata);
    assert_eq!((one.on_reject, one.on_fault), (BadMessage::Drop, BadMessage::Stop));
    let plugin = one.plugin.as_ref().unwrap();
    assert_eq!(plugin.sha256.unwrap()[..4], [0, 1, 2, 3]);
    // What comes from a variable is text, whatever it looks like.
    assert_eq!(plugin.config, r#"{"key":"12345","list":["a",1.5,null],"threshold":20}"#);
    assert_eq!((plugin.workers, plugin.limits.memory, plugin.limits.stack), (4, 1 << 20, 64 << 10));
    assert_eq!((plugin.limits.outputs_per_message, plugin.limits.component), (3, 5 << 20));
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
fn all_problems_are_reported_at_once() {
    let yaml = "\
brokr: {}
sources:
  iot:
    type: mqtt-sauce
    topic: iot events
    config:
      broker_url: http://h
      topics: [a/#/b, ok, ok]
      qos: sometimes
      keep_alive_secs: 1
      keep_alive_secs: 2
      auth: {username: u, password: ${NOT_SET}}
    plugin: {path: gone.wasm, workers: 0, limits: {memory_mb: 0}}
settings: {http: {listen: nowhere}}
";
    let expected = [
        "1:1: broker: is missing (expected a mapping with bootstrap_servers; only `--sink rivven` needs it)",
        "1:1: brokr: is no key of this section (did you mean broker?)",
        "4:11: sources.iot.type: is `mqtt-sauce` (expected mqtt-source; did you mean mqtt-source?)",
        "5:12: sources.iot.topic: is `iot events`, which is no Rivven topic (expected 1 to 249 letters, digits, `.`, `_` and `-`, a letter or digit first, no `..`)",
        "7:19: sources.iot.config.broker_url: has an unknown scheme (expected mqtt, tcp, mqtts, ssl or tls)",
        "8:16: sources.iot.config.topics[0]: is no topic filter: # must be the last level",
        "8:27: sources.iot.config.topics[2]: is the filter of line 8 again (expected each filter once)",
        "9:12: sources.iot.config.qos: is `sometimes` (expected at_most_once, at_least_once or exactly_once)",
        "10:24: sources.iot.config.keep_alive_secs: is `1` (expected an integer from 5 to 65535)",
        "11:7: sources.iot.config.keep_alive_secs: is given twice (first in line 10)",
        "12:37: sources.iot.config.auth.password: needs the environment variable NOT_SET, which is not set (set it, or write ${NOT_SET:-default})",
        "13:20: sources.iot.plugin.path: cannot be read: /etc/iot/gone.wasm: no such file",
        "13:40: sources.iot.plugin.workers: is `0` (expected an integer from 1 to 256)",
        "13:63: sources.iot.plugin.limits.memory_mb: is `0` (expected an integer from 1 to 4096)",
        "14:26: settings.http.listen: is `nowhere` (expected IP:PORT, such as 127.0.0.1:9091)",
    ];
    let problems = load_for(yaml, true).unwrap_err();
    assert_eq!(problems.join("\n"), expected.join("\n"));
}

/// Lines for `config` of a single source, from line 6 on, and what is said about them.
const WRONG_CLIENTS: &[(&str, &str)] = &[
    ("  clientid: x\n", "6:3: config.clientid: is no key of this section (did you mean client_id?)"),
    ("  client-id: x\n", "6:3: config.client-id: is no key of this section (did you mean client_id?)"),
    ("  client_id:\n", "6:13: config.client_id: is empty (expected text)"),
    (
        "  client_id: ''\n",
        "6:14: config.client_id: is empty (expected a client id, or no such key for a generated one)",
    ),
    ("  client_id: \"a\\tb\"\n", "6:14: config.client_id: has a control character (expected none)"),
    ("  client_id: [a]\n", "6:14: config.client_id: is a list (expected text)"),
    (
        "  clean_session: false\n",
        "3:1: config.client_id: is missing (expected a client id of its own, because clean_session is false: the session belongs to it)",
    ),
    ("  clean_session: yes\n", "6:18: config.clean_session: is `yes` (expected true or false)"),
    ("  clean_session: 'true'\n", "6:18: config.clean_session: is the text `true` (expected true or false)"),
    (
        "  clean_session: ${TOKEN}\n",
        "6:18: config.clean_session: is the text of a variable (expected true or false)",
    ),
    (
        "  qos: at_lest_once\n",
        "6:8: config.qos: is `at_lest_once` (expected at_most_once, at_least_once or exactly_once; did you mean at_least_once?)",
    ),
    ("  qos: 3\n", "6:8: config.qos: is `3` (expected at_most_once, at_least_once or exactly_once)"),
    ("  qos: {}\n", "6:8: config.qos: is a mapping (expected text)"),
    (
        "  mqtt_version: 4.0\n",
        "6:17: config.mqtt_version: is `4.0` (expected 3.1.1 or 5.0; did you mean 5.0?)",
    ),
    (
        "  retry_initial_ms: 9\n",
        "6:21: config.retry_initial_ms: is `9` (expected an integer from 10 to 60000)",
    ),
    (
        "  retry_initial_ms: 1.5\n",
        "6:21: config.retry_initial_ms: is `1.5` (expected an integer from 10 to 60000)",
    ),
    (
        "  retry_initial_ms: '100'\n",
        "6:21: config.retry_initial_ms: is the text `100` (expected an integer from 10 to 60000)",
    ),
    (
        "  retry_initial_ms: 60001\n  retry_max_ms: 300000\n",
        "6:21: config.retry_initial_ms: is `60001` (expected an integer from 10 to 60000)",
    ),
    (
        "  retry_initial_ms: 500\n  retry_max_ms: 400\n",
        "7:17: config.retry_max_ms: is below retry_initial_ms, 500 (expected at least that)",
    ),
    (
        "  retry_initial_ms: 20000\n",
        "3:1: config.retry_max_ms: is below retry_initial_ms, 20000 (expected at least that)",
    ),
    (
        "  retry_multiplier: 0.9\n",
        "6:21: config.retry_multiplier: is `0.9` (expected a number from 1.0 to 10.0)",
    ),
    (
        "  retry_multiplier: .nan\n",
        "6:21: config.retry_multiplier: is `.nan` (expected a number from 1.0 to 10.0)",
    ),
    (
        "  retry_multiplier: NaN\n",
        "6:21: config.retry_multiplier: is `NaN` (expected a number from 1.0 to 10.0)",
    ),
    (
        "  max_reconnect_attempts: -1\n",
        "6:27: config.max_reconnect_attempts: is `-1` (expected an integer from 0 to 4294967295)",
    ),
    (
        "  reconnect_delay_ms: 500\n",
        "6:3: config.reconnect_delay_ms: is not supported (set retry_initial_ms instead)",
    ),
    (
        "  keep_alive_secs: 65536\n",
        "6:20: config.keep_alive_secs: is `65536` (expected an integer from 5 to 65535)",
    ),
    (
        "  connect_timeout_secs: 0\n",
        "6:25: config.connect_timeout_secs: is `0` (expected an integer from 1 to 300)",
    ),
    ("  max_inflight: 0\n", "6:17: config.max_inflight: is `0` (expected an integer from 1 to 65535)"),
    (
        "  max_packet_size: 100000000\n",
        "6:20: config.max_packet_size: is greater than max_inflight_bytes, 67108864 (expected at most that)",
    ),
    (
        "  session_expiry_secs: 60\n",
        "6:24: config.session_expiry_secs: has no effect on MQTT 3.1.1 (expected `mqtt_version: 5.0`, or no such key)",
    ),
    (
        "  session_expiry_secs: 60\n  mqtt_version: 5.0\n",
        "6:24: config.session_expiry_secs: has no effect with a clean session (expected `clean_session: false`, or no such key)",
    ),
    ("  auth:\n", "6:8: config.auth: is empty (expected a mapping)"),
    ("  auth: {user: x}\n", "6:10: config.auth.user: is no key of this section (did you mean username?)"),
    (
        "  auth: {password: x}\n",
        "6:20: config.auth.password: is alone, which only MQTT 5.0 allows (expected username too)",
    ),
    (
        "  auth: {username: ${NOT_SET}}\n",
        "6:20: config.auth.username: needs the environment variable NOT_SET, which is not set (set it, or write ${NOT_SET:-default})",
    ),
    (
        "  auth: {username: '${X'}\n",
        "6:20: config.auth.username: has `${` without `}` (expected ${VAR} or ${VAR:-default}; `$${` stands for `${`)",
    ),
    (
        "  auth: {ca_cert: ca.pem}\n  tls: {}\n",
        "6:19: config.auth.ca_cert: stands beside a `tls` section (expected it there, not here)",
    ),
    ("  tls: true\n", "6:8: config.tls: is `true` (expected a mapping)"),
    (
        "  tls: {ca_cert: gone.pem}\n",
        "6:18: config.tls.ca_cert: cannot be read: /etc/iot/gone.pem: no such file",
    ),
    (
        "  tls: {ca_cert: /x/empty.pem}\n",
        "6:18: config.tls.ca_cert: /x/empty.pem: holds no certificate (expected a PEM file with `BEGIN CERTIFICATE`)",
    ),
    (
        "  tls: {client_cert: client.pem}\n",
        "6:22: config.tls.client_cert: is there without client_key (expected both or none)",
    ),
    (
        "  tls: {client_key: client.key}\n",
        "6:21: config.tls.client_key: is there without client_cert (expected both or none)",
    ),
    (
        "  tls: {client_cert: client.pem, client_key: ca.pem}\n",
        "6:46: config.tls.client_key: /etc/iot/ca.pem: holds no key (expected a PEM file with a PKCS#8, PKCS#1 or SEC1 key that is not encrypted)",
    ),
    (
        "  tls: {server_name: 'a b'}\n",
        "6:22: config.tls.server_name: is `a b` (expected a DNS name or an address)",
    ),
    ("  tls: {alpn: mqtt}\n", "6:15: config.tls.alpn: is `mqtt` (expected a list of at least one text)"),
    (
        "  tls: {ca_cert: ca.pem, insecure_skip_verify: true}\n",
        "6:48: config.tls.insecure_skip_verify: makes ca_cert useless (expected one of the two)",
    ),
    (
        "  last_will: {payload: x}\n",
        "6:3: config.last_will.topic: is missing (expected text: MQTT topic name)",
    ),
    (
        "  last_will: {topic: a/+}\n",
        "6:22: config.last_will.topic: a topic name has no wildcards, this one has +",
    ),
    (
        "  last_will: {topic: a, payload: x, message: y}\n",
        "6:37: config.last_will.message: is another name of payload, which is there too",
    ),
    (
        "  parse_json_payload: true\nformat: raw\n",
        "6:23: config.parse_json_payload: has no effect with `format: raw` (expected `format: json`, or no such key)",
    ),
];

#[test]
fn wrong_clients_are_told_exactly() {
    for (lines, expected) in WRONG_CLIENTS {
        assert_eq!(load_for(&single(lines, ""), true).unwrap_err(), [*expected], "{lines}");
    }
}

/// Lines of a single source after its `config`, from line 6 on, and what is said about them.
const WRONG_SOURCES: &[(&str, &str)] = &[
    ("topics: [a]\n", "6:1: topics: is no key of this section (did you mean topic?)"),
    (
        "compression: gzip\n",
        "6:1: compression: is no key of this section (expected type, topic, config, plugin, format, key, on_reject, on_fault, dead_letter_topic, partitions, broker or settings)",
    ),
    ("topic: other\n", "6:1: topic: is given twice (first in line 2)"),
    ("format: jsn\n", "6:9: format: is `jsn` (expected json or raw; did you mean json?)"),
    (
        "key: '{payload}'\n",
        "6:6: key: `{payload}` is no part of a template (expected `{topic}` or `{topic[0]}`)",
    ),
    ("key: '{topic'\n", "6:6: key: `{` without `}` (a brace itself is written `{{`)"),
    ("on_reject: ignore\n", "6:12: on_reject: is `ignore` (expected dead_letter, drop or stop)"),
    (
        "on_fault: dead-letter\n",
        "6:11: on_fault: is `dead-letter` (expected dead_letter, drop or stop; did you mean dead_letter?)",
    ),
    (
        "dead_letter_topic: a..b\n",
        "6:20: dead_letter_topic: is `a..b`, which is no Rivven topic (expected 1 to 249 letters, digits, `.`, `_` and `-`, a letter or digit first, no `..`)",
    ),
    ("partitions: 0\n", "6:13: partitions: is `0` (expected an integer from 1 to 10000)"),
    ("plugin: filter.wasm\n", "6:9: plugin: is `filter.wasm` (expected a mapping)"),
    ("plugin: {}\n", "6:1: plugin.path: is missing (expected a path: The component, a .wasm file)"),
    ("plugin: {path: ''}\n", "6:16: plugin.path: is the text `` (expected a path)"),
    (
        "plugin: {path: filter.wasm, sha256: abc}\n",
        "6:37: plugin.sha256: is no SHA-256 (expected 64 hexadecimal digits; this has 3 characters)",
    ),
    (
        "plugin: {path: filter.wasm, config: {x: .inf}}\n",
        "6:41: plugin.config.x: is no number that JSON has (expected a finite number, or quotes around it)",
    ),
    (
        "plugin: {path: filter.wasm, config: {x: 1, x: 2}}\n",
        "6:44: plugin.config.x: is given twice (first in line 6)",
    ),
    (
        "plugin: {path: filter.wasm, limits: {memory: 1}}\n",
        "6:38: plugin.limits.memory: is no key of this section (did you mean memory_mb?)",
    ),
    (
        "broker: {connections: 1}\n",
        "6:1: broker.bootstrap_servers: is missing (expected a list of at least one text: HOST:PORT of one or more Rivven servers)",
    ),
    (
        "broker: {bootstrap_servers: []}\n",
        "6:29: broker.bootstrap_servers: is an empty list (expected a list of at least one text)",
    ),
    (
        "broker: {bootstrap_servers: [h]}\n",
        "6:30: broker.bootstrap_servers[0]: has no port (expected HOST:PORT, such as localhost:9092)",
    ),
    (
        "broker: {bootstrap_servers: ['rivven://h:1']}\n",
        "6:30: broker.bootstrap_servers[0]: is a URL (expected HOST:PORT; credentials belong under `auth`)",
    ),
    (
        "broker: {bootstrap_servers: ['h:1'], connections: 91}\n",
        "6:51: broker.connections: is `91` (expected an integer from 1 to 90)",
    ),
    (
        "broker: {bootstrap_servers: ['h:1'], auth: {username: u}}\n",
        "6:38: broker.auth.password: is missing (expected text: Password; best as ${VARIABLE})",
    ),
    (
        "settings: {http: {listen: ':9091'}}\n",
        "6:27: settings.http.listen: is `:9091` (expected IP:PORT, such as 127.0.0.1:9091)",
    ),
    ("settings: {state_dir: ''}\n", "6:23: settings.state_dir: is empty (expected a path)"),
    (
        "settings: {shutdown_grace_ms: forever}\n",
        "6:31: settings.shutdown_grace_ms: is `forever` (expected an integer from 0 to 86400000)",
    ),
];

#[test]
fn wrong_sources_are_told_exactly() {
    for (lines, expected) in WRONG_SOURCES {
        assert_eq!(load_for(&single("", lines), true).unwrap_err(), [*expected], "{lines}");
    }
}

#[test]
fn wrong_files_are_told_exactly() {
    let two = |one: &str, two: &str| {
        format!(
            "sources:\n  {one}: {{type: mqtt-source, topic: t, config: {{broker_url: h, topics: [a], client_id: x}}}}\n  {two}: {{type: mqtt-source, topic: t, config: {{broker_url: H:1883, topics: [a], client_id: x}}}}\n"
        )
    };
    let two_clients = two("one", "two");
    let bad_name = two("a/b", "c").replacen("client_id: x", "client_id: y", 1);
    let template = "type: mqtt-source\ntopic: '{topic}'\nconfig: {broker_url: h, topics: [a]}\n";
    let long =
        format!("type: mqtt-source\ntopic: {}\nconfig: {{broker_url: h, topics: [a]}}\n", "x".repeat(249));
    for (yaml, expected) in [
        ("", "1:1: is empty (expected `sources`, or `type: mqtt-source` for a single source)"),
        ("# nothing\n", "1:1: is empty (expected `sources`, or `type: mqtt-source` for a single source)"),
        ("{}", "1:1: sources: is missing (expected a mapping of at least one name: The sources by name)"),
        ("sources: {}\n", "1:10: sources: is an empty mapping (expected a mapping of at least one name)"),
        ("sources: [a]\n", "1:10: sources: is a list (expected a mapping of at least one name)"),
        ("sources: {a: }\n", "1:14: sources.a: is empty (expected a mapping)"),
        ("a: b: c\n", "1:5: is not YAML: mapping values are not allowed in this context"),
        ("a: [1\n", "2:1: is not YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: \"x\n", "1:4: is not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("a: *x\n", "1:4: is not YAML: while parsing node, found unknown anchor"),
        ("\ta: 1\n", "1:2: is not YAML: tabs disallowed in this context"),
        ("a: 1\n---\nb: 2\n", "2:1: is a second document (expected one YAML document in a file)"),
        ("a: !!binary x\n", "1:4: has a YAML tag (expected a value without a tag)"),
        ("[a]: 1\n", "1:1: a list stands where a key is expected"),
        (
            &two_clients,
            "3:87: sources.two.config.client_id: is the client id of source one too, on the same broker (expected one of its own: the two would throw each other out)",
        ),
        (
            &bad_name,
            "2:3: sources.a/b: is no name for a source (expected 1 to 64 letters, digits, `.`, `_` and `-`, a letter or digit first)",
        ),
        (
            template,
            "1:1: dead_letter_topic: is missing (expected a Rivven topic, because `topic` is a template)",
        ),
        (
            &long,
            "1:1: dead_letter_topic: is missing (expected a Rivven topic, because `topic` and `.dlq` is none)",
        ),
        (
            "type: mqtt-source\ntopic: t\nconfig: {topics: [a]}\n",
            "3:1: config.broker_url: is missing (expected text: mqtt://HOST:PORT, or mqtts:// for TLS)",
        ),
        (
            "type: mqtt-source\ntopic: t\nconfig: {broker_url: h}\n",
            "3:1: config.topics: is missing (expected a list of at least one text: Topic filters to subscribe to)",
        ),
        (
            "type: mqtt-source\ntopic: t\nconfig: {broker_url: h, topics: a/#}\n",
            "3:33: config.topics: is `a/#` (expected a list of at least one text)",
        ),
        (
            "type: mqtt-source\nconfig: {broker_url: h, topics: [a]}\n",
            "1:1: topic: is missing (expected text: Destination: a Rivven topic, or a template such as iot.{topic[0]})",
        ),
        (
            "topic: t\nconfig: {broker_url: h, topics: [a]}\n",
            "1:1: type: is missing (expected mqtt-source: The kind of source)",
        ),
        (
            "type: mqtt-source\ntopic: t\nconfig: {broker_url: 'wss://h', topics: [a]}\n",
            "3:22: config.broker_url: has the scheme wss, but MQTT over WebSocket is not supported (expected mqtt, tcp, mqtts, ssl or tls)",
        ),
        (
            "type: mqtt-source\ntopic: t\nconfig: {broker_url: 'mqqt://h', topics: [a]}\n",
            "3:22: config.broker_url: has an unknown scheme (expected mqtt, tcp, mqtts, ssl or tls; did you mean mqtt?)",
        ),
    ] {
        assert_eq!(load_for(yaml, false).unwrap_err(), [expected], "{yaml}");
    }
    let world = World { variable: &variable, read: &file };
    let problems = read(b"a: b\nc: \xc3\xa4\xff\n", Path::new(""), false, &world).unwrap_err();
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2:5: is not UTF-8 text"]);
}

#[test]
fn a_wrong_address_in_the_environment_is_told() {
    let world = World {
        variable: &|name| (name == "RIVVEN_BOOTSTRAP_SERVERS").then(|| "a:1, b".to_owned()),
        read: &file,
    };
    let problems = read(single("", "").as_bytes(), Path::new(""), true, &world).unwrap_err();
    let what = "comes from RIVVEN_BOOTSTRAP_SERVERS, of which one server has no port (expected HOST:PORT, such as localhost:9092)";
    assert_eq!((problems.len(), problems[0].what.as_str()), (1, what));
    assert_eq!(
        read(single("", "").as_bytes(), Path::new(""), false, &world).unwrap().broker.map(|_| ()),
        None
    );
}

#[test]
fn a_file_is_named_with_its_problems() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let error = load(&file, true).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot be read: ", file.display())), "{error}");
    std::fs::write(&file, "type: mqtt-source\nx: 1\ny: 2\n").unwrap();
    let error = load(&file, true).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 4, "{error}");
    assert!(lines.iter().all(|line| line.starts_with(&format!("{}:", file.display()))), "{error}");
    // Paths are relative to the folder of the file.
    std::fs::write(folder.path().join("p.wasm"), "x").unwrap();
    std::fs::write(&file, single("", "plugin: {path: p.wasm}")).unwrap();
    assert_eq!(only(&load(&file, true).unwrap()).plugin.as_ref().unwrap().path, folder.path().join("p.wasm"));
    // A folder is no component.
    std::fs::write(&file, single("", "plugin: {path: .}")).unwrap();
    assert!(load(&file, true).unwrap_err().to_string().contains("plugin.path: cannot be read"));
}

/// Each key of the tables with its path in the larger file.
fn walk(keys: Keys, path: &[&'static str], visit: &mut impl FnMut(&[&'static str], &keys::Key)) {
    for key in keys {
        let path = [path, &[key.name]].concat();
        visit(&path, key);
        match key.kind {
            Kind::Section(keys) => walk(keys, &path, visit),
            Kind::Sections(keys) => walk(keys, &[&path[..], &["iot"]].concat(), visit),
            _ => {}
        }
    }
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
        let mut root = serde_json::json!({
            "sources": { "iot": { "type": "mqtt-source", "topic": "t", "config": { "broker_url": "h", "topics": ["a"] } } }
        });
        let mut node = &mut root;
        for name in path {
            node = &mut node[name];
        }
        let wrong_mapping = matches!(key.kind, Kind::Section(_) | Kind::Sections(_));
        *node = if wrong_mapping { serde_json::json!("x") } else { serde_json::json!({ "x": 1 }) };
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
            Kind::Integer(min, max) => default.parse().is_ok_and(|value| (min..=max).contains(&value)),
            Kind::Number(min, max) => default.parse().is_ok_and(|value| (min..=max).contains(&value)),
            Kind::Flag => matches!(default, "true" | "false"),
            Kind::Choice(choices) => choices.iter().any(|(name, _)| *name == default),
            Kind::Text | Kind::Path => true,
            _ => false,
        };
        assert!(legal && !key.required && !key.doc.is_empty(), "{path:?} {default}");
    });
}
