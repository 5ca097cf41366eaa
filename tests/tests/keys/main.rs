//! One test for each key of a source's `config`, named after it: what the key does on the wire or to the records. What makes a
//! value wrong is in the tests of the configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod connection;
mod login;
mod reconnect;
mod records;
mod retained;
mod session;
mod tls;
mod window;

use std::path::Path;
use std::time::Duration;

use rivven_integration_tests::config;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::wait::wait_for;
use rivven_mqtt::config::keys;
use serde_json::{Map, Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);
/// The file that the hosts here write their records to.
const OUT: &str = "out.jsonl";

/// A host with one source that writes to [`OUT`].
fn start(source: Value) -> Host {
    start_all(&config::without_rivven(source))
}

fn start_all(config: &Value) -> Host {
    Host::start_with(config, &["--sink", &format!("file:{OUT}")]).unwrap()
}

/// A host with many sources for one host, each with its index as name and as destination topic.
fn start_many(sources: impl IntoIterator<Item = Value>) -> Host {
    let mut all = Map::new();
    for (index, mut source) in sources.into_iter().enumerate() {
        source["topic"] = format!("to-{index:02}").into();
        all.insert(format!("s{index:02}"), source);
    }
    start_all(&json!({ "sources": all }))
}

/// A source with some keys set.
fn with(url: &str, keys: Value) -> Value {
    let mut source = config::source(url, &["a/#"]);
    for (key, value) in keys.as_object().unwrap() {
        source["config"][key] = value.clone();
    }
    source
}

/// Waits for so many records, and returns them when there are no more.
async fn lines(host: &Host, count: usize) -> Vec<Line> {
    let enough = async || host.lines(OUT).is_ok_and(|lines| lines.len() >= count);
    wait_for(&format!("{count} records"), TIMEOUT, enough).await.unwrap();
    let lines = host.lines(OUT).unwrap();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

/// The values of a field in the host's log, in order.
fn logged(host: &Host, field: &str) -> Vec<u64> {
    let field = format!(" {field}=");
    let log = host.log();
    let values = log.split(&field).skip(1);
    values.map(|rest| rest.split([' ', '\n']).next().unwrap().parse().unwrap()).collect()
}

#[test]
fn every_key_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    let mut tests = String::new();
    for file in std::fs::read_dir(folder).unwrap() {
        tests.push_str(&std::fs::read_to_string(file.unwrap().path()).unwrap());
    }
    let missing: Vec<_> = keys::MQTT
        .iter()
        .map(|key| key.name)
        .filter(|name| !tests.contains(&format!("fn key_{name}(")))
        .collect();
    assert!(missing.is_empty(), "no test `key_NAME` shows what these keys do: {missing:?}");
}
