//! An MQTT client's settings without a file: from code, from text, or from anything that serde reads. They go through the same
//! table of keys and the same checks as a file.

use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _};

use super::client::read_mqtt;
use super::keys::MQTT;
use super::load::read_start;
use super::problem::{NOWHERE, Problems, START};
use super::read::{Context, Field, Section, World, prepare};
use super::yaml::{Entry, Node, Scalar, Style, Value, parse};
use super::{Credentials, LastWill, Mqtt, Problem, Retained, Tls, Version};
use crate::error::MqttError;
use crate::message::QoS;

impl Mqtt {
    /// A client of the broker at `broker_url` (`mqtt://HOST:PORT`, `mqtts://...`) that subscribes to `topics`; everything else
    /// has its default, and its fields may be changed afterwards. The texts are taken as they are: no `${VARIABLE}` is replaced.
    ///
    /// # Errors
    /// [`MqttError::Config`] when the URL or a topic filter is wrong.
    pub fn new<T: Into<String>>(
        broker_url: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Self, MqttError> {
        let topics = topics.into_iter().map(quoted).collect();
        let entries = vec![
            entry("broker_url", quoted(broker_url)),
            entry("topics", Node { at: NOWHERE, value: Value::Sequence(topics) }),
        ];
        read(&mapping(entries), Problems::default())
    }

    /// The settings in `text`: YAML (or JSON) with the keys that stand under `config:` in a file. `${VARIABLE}` is replaced by
    /// the environment variable. Paths are relative to the working folder.
    ///
    /// # Errors
    /// [`MqttError::Config`] with everything that is wrong, each with its line, key, and what was expected.
    pub fn from_yaml(text: &str) -> Result<Self, MqttError> {
        match parse(text) {
            Ok(Some(root)) => read_with_variables(root),
            Ok(None) => {
                let problems = Problems::default();
                problems.add(START, "", "is empty (expected broker_url and topics)");
                Err(config_error(problems.into_sorted()))
            }
            Err(problem) => Err(config_error(vec![problem])),
        }
    }

    /// Checks values that were put in by code: they have to keep the rules that a file has to keep.
    ///
    /// # Errors
    /// [`MqttError::Config`] with everything that is wrong, each with its key and what was expected.
    pub fn validate(&self) -> Result<(), MqttError> {
        let problems = Problems::default();
        if !self.clean_session && is_generated(&self.client_id) {
            let what = "is a generated one, another in each process (expected a client id of its own, because clean_session is \
                        false: the session belongs to it)";
            problems.add(NOWHERE, "client_id", what);
        }
        read(&self.to_node(), problems).map(drop)
    }

    /// The settings as a file would have them, for their checks.
    fn to_node(&self) -> Node {
        let scheme = match (&self.url.websocket, &self.tls) {
            (None, None) => "mqtt",
            (None, Some(_)) => "mqtts",
            (Some(_), None) => "ws",
            (Some(_), Some(_)) => "wss",
        };
        let path = self.url.websocket.as_deref().unwrap_or_default();
        let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
        let version = if self.version == Version::V5 { "5.0" } else { "3.1.1" };
        let retained = match self.retained {
            Retained::All => "all",
            Retained::NewOnly => "new_only",
            Retained::Skip => "skip",
        };
        let mut entries = vec![
            entry("broker_url", quoted(format!("{scheme}://{}{slash}{path}", self.url))),
            entry("topics", texts(&self.topics)),
            entry("client_id", quoted(&self.client_id)),
            entry("qos", qos(self.qos)),
            entry("clean_session", plain(self.clean_session)),
            entry("retained", quoted(retained)),
            entry("retry_initial_ms", plain(self.retry.initial.as_millis())),
            entry("retry_max_ms", plain(self.retry.max.as_millis())),
            entry("retry_multiplier", plain(self.retry.multiplier)),
            entry("max_reconnect_attempts", plain(self.retry.max_attempts)),
            entry("empty_poll_delay_ms", plain(self.empty_poll_delay.as_millis())),
            entry("keep_alive_secs", plain(self.keep_alive.as_secs())),
            entry("connect_timeout_secs", plain(self.connect_timeout.as_secs())),
            entry("mqtt_version", quoted(version)),
            entry("max_inflight", plain(self.max_inflight)),
            entry("max_inflight_bytes", plain(self.max_inflight_bytes)),
            entry("max_packet_size", plain(self.max_packet_size)),
            entry("max_batch", plain(self.max_batch)),
        ];
        if self.session_expiry_secs != u32::MAX {
            entries.push(entry("session_expiry_secs", plain(self.session_expiry_secs)));
        }
        entries.extend(self.auth.as_ref().map(|auth| entry("auth", auth_node(auth))));
        entries.extend(self.tls.as_ref().map(|tls| entry("tls", tls_node(tls))));
        entries.extend(self.last_will.as_ref().map(|will| entry("last_will", will_node(will))));
        mapping(entries)
    }
}

/// Through the same table of keys and the same checks as a file; the error says all that is wrong.
impl<'de> Deserialize<'de> for Mqtt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        read_with_variables(node(value)).map_err(D::Error::custom)
    }
}

/// Whether `client_id` looks like those that are made where none is configured.
fn is_generated(client_id: &str) -> bool {
    let digits = client_id.strip_prefix("rivven-mqtt-").unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn config_error(problems: Vec<Problem>) -> MqttError {
    MqttError::Config { problems }
}

fn read_with_variables(mut root: Node) -> Result<Mqtt, MqttError> {
    let problems = Problems::default();
    let variable = |name: &str| std::env::var(name).ok();
    prepare(&mut root, &World { variable: &variable, read: &read_start }, &problems);
    read(&root, problems)
}

fn read(root: &Node, problems: Problems) -> Result<Mqtt, MqttError> {
    let world = World { variable: &|_| None, read: &read_start };
    let context = Context { folder: Path::new(""), world: &world, problems, variables: Vec::new() };
    let field = Field { context: &context, path: String::new(), node: root };
    let mqtt = Section::open(&field, MQTT, root.at).and_then(|section| read_mqtt(&section));
    match (mqtt, context.problems.into_sorted()) {
        (Some(mqtt), problems) if problems.is_empty() => Ok(mqtt),
        (_, problems) => Err(config_error(problems)),
    }
}

fn node(value: serde_json::Value) -> Node {
    use serde_json::Value as Json;
    match value {
        Json::Null => plain("null"),
        Json::Bool(value) => plain(value),
        Json::Number(value) => plain(value),
        Json::String(value) => quoted(value),
        Json::Array(items) => {
            Node { at: NOWHERE, value: Value::Sequence(items.into_iter().map(node).collect()) }
        }
        Json::Object(entries) => {
            mapping(entries.into_iter().map(|(key, value)| entry(&key, node(value))).collect())
        }
    }
}

fn mapping(entries: Vec<Entry>) -> Node {
    Node { at: NOWHERE, value: Value::Mapping(entries) }
}

fn entry(key: &str, node: Node) -> Entry {
    Entry { key: key.to_owned(), at: NOWHERE, node }
}

fn plain(value: impl ToString) -> Node {
    Node { at: NOWHERE, value: Value::Scalar(Scalar { text: value.to_string(), style: Style::Plain }) }
}

fn quoted(text: impl Into<String>) -> Node {
    Node { at: NOWHERE, value: Value::Scalar(Scalar { text: text.into(), style: Style::Quoted }) }
}

fn texts(items: &[String]) -> Node {
    Node { at: NOWHERE, value: Value::Sequence(items.iter().map(quoted).collect()) }
}

fn qos(qos: QoS) -> Node {
    quoted((qos as u8).to_string())
}

fn auth_node(auth: &Credentials) -> Node {
    let username = auth.username.as_ref().map(|name| entry("username", quoted(name)));
    let password = auth.password.as_ref().map(|secret| entry("password", quoted(secret.expose())));
    mapping(username.into_iter().chain(password).collect())
}

fn tls_node(tls: &Tls) -> Node {
    let mut entries = vec![entry("insecure_skip_verify", plain(tls.insecure_skip_verify))];
    let files =
        [("ca_cert", &tls.ca_cert), ("client_cert", &tls.client_cert), ("client_key", &tls.client_key)];
    for (name, path) in files {
        entries.extend(path.as_ref().map(|path| entry(name, quoted(path.to_string_lossy()))));
    }
    entries.extend(tls.server_name.as_ref().map(|name| entry("server_name", quoted(name))));
    if !tls.alpn.is_empty() {
        entries.push(entry("alpn", texts(&tls.alpn)));
    }
    mapping(entries)
}

fn will_node(will: &LastWill) -> Node {
    // Bytes in a value made by code; only their number matters here.
    let payload = "x".repeat(will.payload.len());
    mapping(vec![
        entry("topic", quoted(&will.topic)),
        entry("payload", quoted(payload)),
        entry("qos", qos(will.qos)),
        entry("retain", plain(will.retain)),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::config::{Retry, Secret};

    fn problems(result: Result<impl std::fmt::Debug, MqttError>) -> String {
        result.unwrap_err().to_string()
    }

    fn good() -> Mqtt {
        Mqtt::new("mqtt://h", ["a/#"]).unwrap()
    }

    #[test]
    fn the_least_has_the_defaults_of_a_file() {
        let mut built = Mqtt::new("mqtts://h:1", ["a/#".to_owned(), "${X}".to_owned()]).unwrap();
        let mut read = Mqtt::from_yaml("broker_url: mqtts://h:1\ntopics: [a/#, '$${X}']\n").unwrap();
        assert!(is_generated(&built.client_id) && is_generated(&read.client_id));
        (built.client_id, read.client_id) = ("c".into(), "c".into());
        assert_eq!(format!("{built:?}"), format!("{read:?}"));
        assert_eq!((built.url.port, built.tls.is_some()), (1, true));
        built.validate().unwrap();
    }

    #[test]
    fn serde_reads_the_same_keys_with_the_same_checks() {
        let value = json!({
            "broker_url": "h:1", "topics": ["a"], "client_id": "007", "qos": 2, "clean_session": false, "retry_multiplier": 1.5,
            "auth": {"username": "u", "password": "p"}, "last_will": {"topic": "w", "payload": "bye"},
        });
        let mqtt: Mqtt = serde_json::from_value(value).unwrap();
        assert_eq!((mqtt.client_id.as_str(), mqtt.qos, mqtt.clean_session), ("007", QoS::ExactlyOnce, false));
        assert_eq!((mqtt.retry.multiplier, mqtt.keep_alive), (1.5, Duration::from_secs(60)));
        assert_eq!(mqtt.last_will.unwrap().payload, b"bye");
        let wrong = json!({"broker_url": "http://h", "topic": ["a"], "qos": 3});
        assert_eq!(
            serde_json::from_value::<Mqtt>(wrong).unwrap_err().to_string(),
            "topic: is no key of this section (did you mean topics?)\n\
             broker_url: has an unknown scheme (expected mqtt, tcp, mqtts, ssl, tls, ws or wss)\n\
             topics: is missing (expected a list of at least one text: Topic filters to subscribe to)\n\
             qos: is `3` (expected at_most_once, at_least_once or exactly_once)"
        );
    }

    #[test]
    fn a_text_has_lines() {
        assert_eq!(
            problems(Mqtt::from_yaml("broker_url: h\ntopics: [a/#/b]\nkeep_alive_secs: 4\n")),
            "2:10: topics[0]: is `a/#/b`, which is no topic filter: # must be the last level\n\
             3:18: keep_alive_secs: is `4` (expected an integer from 5 to 65535)"
        );
        assert_eq!(
            problems(Mqtt::from_yaml("# nothing\n")),
            "1:1: is empty (expected broker_url and topics)"
        );
        assert!(problems(Mqtt::from_yaml("topics: [a\n")).contains(": is not YAML: "));
        assert_eq!(problems(Mqtt::new("", ["a"])), "broker_url: has no host (expected HOST:PORT)");
        assert_eq!(
            problems(Mqtt::new("h", [""])),
            "topics[0]: is the text ``, which is no topic filter: a topic filter is not empty"
        );
        assert_eq!(
            problems(Mqtt::new("h", Vec::<String>::new())),
            "topics: is an empty list (expected a list of at least one text)"
        );
    }

    #[test]
    fn values_made_by_code_keep_the_same_rules() {
        type Change = fn(&mut Mqtt);
        let cases: [(Change, &str); 14] = [
            (|m| m.topics.clear(), "topics: is an empty list (expected a list of at least one text)"),
            (|m| m.topics.push("a/#".into()), "topics[1]: is there twice (expected each filter once)"),
            (|m| m.client_id.clear(), "client_id: is empty"),
            (|m| m.clean_session = false, "client_id: is a generated one"),
            (
                |m| m.keep_alive = Duration::ZERO,
                "keep_alive_secs: is `0` (expected an integer from 5 to 65535)",
            ),
            (|m| m.max_inflight = 70_000, "max_inflight: is `70000` (expected an integer from 1 to 65535)"),
            (
                |m| m.retry.multiplier = f64::NAN,
                "retry_multiplier: is `NaN` (expected a number from 1.0 to 10.0)",
            ),
            (
                |m| {
                    m.retry =
                        Retry { max: Duration::from_millis(200), initial: Duration::from_secs(1), ..m.retry }
                },
                "retry_max_ms: is below",
            ),
            (|m| m.url.host = "a b".into(), "broker_url: has a host that is neither"),
            (|m| m.session_expiry_secs = 5, "session_expiry_secs: has no effect on MQTT 3.1.1"),
            (|m| m.max_packet_size = 1 << 27, "max_packet_size: is greater than max_inflight_bytes"),
            (
                |m| m.auth = Some(Credentials { username: None, password: Some(Secret::new("p")) }),
                "auth.password: is alone",
            ),
            (
                |m| m.tls = Some(Tls { ca_cert: Some("/nonexistent/ca.pem".into()), ..Tls::default() }),
                "tls.ca_cert: cannot be read: /nonexistent/ca.pem",
            ),
            (
                |m| {
                    let (topic, payload) = ("a/+".into(), vec![0xff; 70_000]);
                    m.last_will = Some(LastWill { topic, payload, qos: QoS::AtMostOnce, retain: false });
                },
                "last_will.topic: a topic name has no wildcards, this one has +\nlast_will.payload: has 70000 bytes",
            ),
        ];
        for (change, expected) in cases {
            let mut mqtt = good();
            change(&mut mqtt);
            let wrong = problems(mqtt.validate());
            assert!(wrong.starts_with(expected), "{wrong}");
        }
        let mut mqtt = good();
        mqtt.last_will =
            Some(LastWill { topic: "w".into(), payload: vec![0xff, 0], qos: QoS::AtMostOnce, retain: true });
        mqtt.tls = Some(Tls::default());
        (mqtt.client_id, mqtt.clean_session, mqtt.version) = ("c".into(), false, Version::V5);
        mqtt.session_expiry_secs = 60;
        mqtt.validate().unwrap();
    }
}
