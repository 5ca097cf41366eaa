//! Wrong files and the exact message of each.

mod ranges;
mod values;

use super::*;
use values::{WRONG_FILTERS, WRONG_URLS, WRONG_VALUES};

/// The files of the tables, with the one problem of each.
pub(super) fn files() -> Vec<(String, String)> {
    let clients = WRONG_CLIENTS.iter().chain(WRONG_VALUES);
    let clients = clients.map(|(lines, expected)| (single(lines, ""), (*expected).to_owned()));
    let sources = WRONG_SOURCES.iter().map(|(lines, expected)| (single("", lines), (*expected).to_owned()));
    let with = |config: String| format!("type: mqtt-source\ntopic: t\nconfig:\n{config}\n");
    let urls = WRONG_URLS.iter().map(|(url, what)| {
        let config = format!("  broker_url: '{url}'\n  topics: [a]");
        (with(config), format!("4:15: config.broker_url: {what}"))
    });
    let filters = WRONG_FILTERS.iter().map(|(filter, rule)| {
        let config = format!("  broker_url: h\n  topics: [a, '{filter}']");
        let what = format!("is the text `{filter}`, which is no topic filter: {rule}");
        (with(config), format!("5:15: config.topics[1]: {what}"))
    });
    clients.chain(sources).chain(urls).chain(filters).collect()
}

#[test]
fn the_files_of_the_tables_are_told_exactly() {
    let files = files();
    assert!(files.len() > 100, "{}", files.len());
    expect_each(files.iter().map(|(yaml, expected)| (yaml.clone(), expected.as_str())));
}

/// Each file has the one problem that is expected; all that differ are shown.
fn expect_each<'a>(files: impl Iterator<Item = (String, &'a str)>) {
    let differing = files.filter_map(|(yaml, expected)| match load_for(&yaml, false) {
        Err(problems) if problems == [expected] => None,
        other => Some(format!("{yaml}\nexpected {expected}\ngot      {:?}", other.map(|_| "no problem"))),
    });
    let differing: Vec<_> = differing.collect();
    assert!(differing.is_empty(), "{}", differing.join("\n\n"));
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
      auth: {username: u, password: '${NOT_SET}'}
    plugin: {path: gone.wasm, workers: 0, limits: {memory_mb: 0}}
settings: {http: {listen: nowhere}}
";
    let expected = [
        "1:1: brokr: is no key of this section (did you mean broker?)",
        "1:1: broker: is missing (expected a mapping with bootstrap_servers; only `--sink rivven` needs it)",
        "4:11: sources.iot.type: is `mqtt-sauce` (expected mqtt-source; did you mean mqtt-source?)",
        "5:12: sources.iot.topic: is `iot events`, which is no Rivven topic (expected 1 to 249 letters, digits, `.`, `_` and `-`, a letter or digit first, no `..`)",
        "7:19: sources.iot.config.broker_url: has an unknown scheme (expected mqtt, tcp, mqtts, ssl, tls, ws or wss)",
        "8:16: sources.iot.config.topics[0]: is `a/#/b`, which is no topic filter: # must be the last level",
        "8:27: sources.iot.config.topics[2]: is the filter of line 8 again (expected each filter once)",
        "9:12: sources.iot.config.qos: is `sometimes` (expected at_most_once, at_least_once or exactly_once)",
        "10:24: sources.iot.config.keep_alive_secs: is `1` (expected an integer from 5 to 65535)",
        "11:7: sources.iot.config.keep_alive_secs: is given twice (first in line 10)",
        "12:37: sources.iot.config.auth.password: needs the environment variable NOT_SET, which is not set (set it, or write ${NOT_SET:-default})",
        "13:20: sources.iot.plugin.path: cannot be read: /etc/iot/gone.wasm: no such file",
        "13:40: sources.iot.plugin.workers: is `0` (expected an integer from 1 to 256)",
        "13:63: sources.iot.plugin.limits.memory_mb: is `0` (expected an integer from 1 to 4096)",
        "14:27: settings.http.listen: is `nowhere` (expected IP:PORT, such as 127.0.0.1:9091)",
    ];
    let problems = load_for(yaml, true).unwrap_err();
    assert_eq!(problems.join("\n"), expected.join("\n"));
}

/// Lines for `config` of a single source, from line 6 on, and what is said about them.
const WRONG_CLIENTS: &[(&str, &str)] = &[
    ("  clientid: x\n", "6:3: config.clientid: is no key of this section (did you mean client_id?)"),
    ("  client-id: x\n", "6:3: config.client-id: is no key of this section (did you mean client_id?)"),
    ("  client_id:\n", "6:12: config.client_id: is empty (expected text)"),
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
    ("  auth:\n", "6:7: config.auth: is empty (expected a mapping)"),
    ("  auth: {user: x}\n", "6:10: config.auth.user: is no key of this section (did you mean username?)"),
    (
        "  auth: {password: x}\n",
        "6:20: config.auth.password: is alone, which only MQTT 5.0 allows (expected username too)",
    ),
    (
        "  auth: {username: '${NOT_SET}'}\n",
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
    (
        "plugin: filter.wasm\n",
        "6:9: plugin: is `filter.wasm` (expected a mapping, or a list of at least one mapping)",
    ),
    ("plugin: {}\n", "6:1: plugin.path: is missing (expected a path: The component, a .wasm file)"),
    ("plugin: []\n", "6:9: plugin: is an empty list (expected a mapping, or a list of at least one mapping)"),
    (
        "plugin: [{path: filter.wasm}, {path: gone.wasm}]\n",
        "6:38: plugin[1].path: cannot be read: /etc/iot/gone.wasm: no such file",
    ),
    (
        "plugin: [{path: filter.wasm, workers: 2}, {path: filter.wasm, workers: 2}]\n",
        "6:72: plugin[1].workers: is about all plugins of the list (expected at the first one only)",
    ),
    (
        "plugin: [{path: filter.wasm}, {path: filter.wasm, flush_interval_ms: 20}]\n",
        "6:70: plugin[1].flush_interval_ms: is about all plugins of the list (expected at the first one only)",
    ),
    (
        "plugin: [{path: filter.wasm}, {path: filter.wasm, worker: 2}]\n",
        "6:51: plugin[1].worker: is no key of this section (did you mean workers?)",
    ),
    ("plugin: [filter.wasm]\n", "6:10: plugin[0]: is `filter.wasm` (expected a mapping)"),
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
    let files = [
        ("", "1:1: is empty (expected `sources`, or `type: mqtt-source` for a single source)"),
        ("# nothing\n", "1:1: is empty (expected `sources`, or `type: mqtt-source` for a single source)"),
        ("{}", "1:1: sources: is missing (expected a mapping of at least one name: The sources by name)"),
        ("sources: {}\n", "1:10: sources: is an empty mapping (expected a mapping of at least one name)"),
        ("sources: [a]\n", "1:10: sources: is a list (expected a mapping of at least one name)"),
        ("sources: {a: }\n", "1:12: sources.a: is empty (expected a mapping)"),
        ("a: b: c\n", "1:5: is not YAML: mapping values are not allowed in this context"),
        (
            "a: {b: ${X}}\n",
            "1:9: is not YAML: while parsing a flow mapping, did not find expected ',' or '}' (inside of { } and [ ], ${VAR} needs quotes: \"${VAR}\")",
        ),
        ("a: [1\n", "1:4: is not YAML: unclosed bracket '['"),
        ("a: \"x\n", "1:4: is not YAML: unclosed quote"),
        ("a: *x\n", "1:4: is not YAML: while parsing node, found unknown anchor"),
        ("a:\n  b: 1\n\tc: 1\n", "2:6: is not YAML: while scanning a plain scalar, found a tab"),
        ("a: 1\n---\nb: 2\n", "2:1: is a second document (expected one YAML document in a file)"),
        ("a: !!binary x\n", "1:13: has a YAML tag (expected a value without a tag)"),
        ("[a]: 1\n", "1:1: a list stands where a key is expected"),
        (
            &two_clients,
            "3:91: sources.two.config.client_id: is the client id of source one too, on the same broker (expected one of its own: the two would throw each other out)",
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
            "3:1: config.broker_url: is missing (expected text: mqtt://HOST:PORT, or mqtts:// for TLS; ws://HOST:PORT/PATH, or wss://, for a WebSocket)",
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
            "type: mqtt-source\ntopic: t\nconfig: {broker_url: 'wss://h/a?b', topics: [a]}\n",
            "3:22: config.broker_url: has a query, or a path with what must be percent-encoded (expected wss://HOST:PORT/PATH)",
        ),
        (
            "type: mqtt-source\ntopic: t\nconfig: {broker_url: 'mqqt://h', topics: [a]}\n",
            "3:22: config.broker_url: has an unknown scheme (expected mqtt, tcp, mqtts, ssl, tls, ws or wss; did you mean mqtt?)",
        ),
    ];
    expect_each(files.into_iter().map(|(yaml, expected)| (yaml.to_owned(), expected)));
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
    assert_eq!(only(&load(&file, true).unwrap()).plugins[0].path, folder.path().join("p.wasm"));
    // A folder is no component.
    std::fs::write(&file, single("", "plugin: {path: .}")).unwrap();
    assert!(load(&file, true).unwrap_err().to_string().contains("plugin.path: cannot be read"));
}
