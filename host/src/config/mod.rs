//! The configuration: validated types that every stage takes, and the YAML that they are read from.
//!
//! A value of a type here is right: ranges, names, files and combinations have been checked by [`load`], which reports all
//! problems of a file at once, each with its line and key.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::message::QoS;

#[cfg(feature = "mqtt")]
mod client;
#[cfg(feature = "mqtt")]
mod embed;
#[cfg(feature = "mqtt")]
pub mod keys;
#[cfg(feature = "mqtt")]
mod load;
mod problem;
#[cfg(feature = "mqtt")]
mod read;
#[cfg(feature = "mqtt")]
mod risk;
#[cfg(feature = "mqtt")]
mod schema;
#[cfg(feature = "mqtt")]
mod source;
#[cfg(feature = "mqtt")]
mod syntax;
#[cfg(all(test, feature = "mqtt"))]
mod tests;
#[cfg(feature = "mqtt")]
mod url;
#[cfg(feature = "mqtt")]
mod yaml;

#[cfg(all(feature = "mqtt", any(test, fuzzing)))]
pub(crate) use load::fuzz;
#[cfg(feature = "mqtt")]
pub use load::{load, parse_limits};
pub use problem::Problem;
#[cfg(feature = "mqtt")]
pub use risk::Risk;
#[cfg(feature = "mqtt")]
pub use schema::schema;

/// The whole configuration of a host.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where records go, if the sink is Rivven.
    pub broker: Option<Broker>,
    /// The sources by name. At least one.
    pub sources: BTreeMap<String, Source>,
    /// What belongs to the process.
    pub settings: Settings,
    /// The file that it was read from, where that holds a password itself and not the name of a variable.
    pub password_file: Option<PathBuf>,
}

/// Process-wide settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for what must survive a restart.
    pub state_dir: PathBuf,
    /// Address of `/metrics`, `/health` and `/ready`.
    pub http: Http,
    /// How long a shutdown may wait for messages in flight (default 10 s).
    pub shutdown_grace: Duration,
}

/// The HTTP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Whether the file names it: then an address in use is an error, else a warning.
    pub configured: bool,
}

/// The Rivven cluster.
#[derive(Debug, Clone)]
pub struct Broker {
    /// `host:port` of one or more servers.
    pub bootstrap_servers: Vec<String>,
    /// Writers, each with a connection of its own (1 to 90, default 32; rivvend allows 100 connections per address).
    pub connections: usize,
    /// Credentials, where the servers require them.
    pub auth: Option<Credentials>,
    /// TLS to the servers.
    pub tls: Option<Tls>,
}

/// A user name and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
}

/// A string that never appears in logs, errors or `Debug` output.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value` from being printed.
    pub fn new(value: impl Into<String>) -> Self {
        Secret(value.into())
    }

    /// `text` without the secret. One of less than four characters may be part of anything, and stays.
    pub fn hide_in(&self, text: &str) -> String {
        match self.0.chars().count() {
            0..4 => text.to_owned(),
            _ => text.replace(&self.0, "***"),
        }
    }

    /// The secret itself, for the wire only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// TLS of one connection. Files are PEM; they have been read and parsed once by [`load`], and are read again on each connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authorities to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// Client certificate chain; together with `client_key`.
    pub client_cert: Option<PathBuf>,
    /// Key of the client certificate: PKCS#8, PKCS#1 or SEC1.
    pub client_key: Option<PathBuf>,
    /// Name to verify instead of the URL's host.
    pub server_name: Option<String>,
    /// ALPN protocols to offer.
    pub alpn: Vec<String>,
    /// Accept any certificate; a warning at every start.
    pub insecure_skip_verify: bool,
}

/// One source: an MQTT client, its plugin, and what its records look like.
#[derive(Debug, Clone)]
pub struct Source {
    /// The MQTT side.
    pub mqtt: Mqtt,
    /// The plugins, in the order in which each message goes through them; without one every message passes.
    pub plugins: Vec<Plugin>,
    /// Workers, each with an instance of every plugin; messages are sharded by topic (default 1).
    pub workers: usize,
    /// How often plugins that aggregate are flushed (default 1 s).
    pub flush_interval: Duration,
    /// So many faults a minute are borne, one more is quarantine (default 100); 0: all are.
    pub max_faults_per_minute: u32,
    /// How a forwarded message becomes a record.
    pub record: Record,
    /// What happens to a message that the plugin rejects.
    pub on_reject: BadMessage,
    /// What happens to a message that makes the plugin fault, or that the sink can never take.
    pub on_fault: BadMessage,
}

/// What happens to a message that cannot go its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadMessage {
    /// Write a dead letter, then acknowledge.
    #[default]
    DeadLetter,
    /// Acknowledge, count, log.
    Drop,
    /// Stop the source and leave the message unacknowledged.
    Stop,
}

/// MQTT protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    #[default]
    V4,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Which retained messages are taken. On 5.0 the broker is told (retain handling, section 3.8.3.1); 3.1.1 has no word for it, so
/// there the driver asks for less or skips what it did not want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retained {
    /// All that the broker sends, so again after each SUBSCRIBE.
    #[default]
    All,
    /// Those of filters that the session did not have before.
    NewOnly,
    /// None.
    Skip,
}

/// An MQTT client: every key of `sources.NAME.config`.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// Where the broker is.
    pub url: BrokerUrl,
    /// Topic filters to subscribe to; legal, no duplicates.
    pub topics: Vec<String>,
    /// As configured, or `rivven-mqtt-` and 8 random hexadecimal digits.
    pub client_id: String,
    /// Requested for every filter.
    pub qos: QoS,
    /// Clean session (3.1.1) or clean start with a session that ends with the connection (5.0).
    pub clean_session: bool,
    /// Session expiry on 5.0 when `clean_session` is false (default: never, 0xFFFFFFFF).
    pub session_expiry_secs: u32,
    /// Which retained messages are taken (default all).
    pub retained: Retained,
    /// Credentials.
    pub auth: Option<Credentials>,
    /// TLS, by scheme or by a `tls:` block.
    pub tls: Option<Tls>,
    /// Published by the broker when the connection is lost.
    pub last_will: Option<LastWill>,
    /// Delay before and between connection attempts.
    pub retry: Retry,
    /// Idle tick of the source: without messages for so long it gives back the memory that it keeps for batches. Never delays
    /// a message.
    pub empty_poll_delay: Duration,
    /// Keep-alive interval, 5 s to 65,535 s (default 60 s).
    pub keep_alive: Duration,
    /// Bound of one connection attempt, from the name look-up to the last SUBACK (default 30 s).
    pub connect_timeout: Duration,
    /// Protocol version.
    pub version: Version,
    /// Messages that may be unacknowledged in the host; receive-maximum on 5.0 (default 1,000).
    pub max_inflight: usize,
    /// Bytes of topics and payloads that may be unacknowledged in the host (default 64 MiB).
    pub max_inflight_bytes: usize,
    /// Greatest packet that is taken, in bytes (default 256 KiB); a greater one is dead-lettered with its topic and size.
    pub max_packet_size: usize,
    /// Greatest batch, in messages (default 2,048).
    pub max_batch: usize,
    /// In a JSON event, a payload that is JSON is embedded as it is (default true).
    pub parse_json_payload: bool,
    /// A JSON event has `metadata` (default true).
    pub include_metadata: bool,
}

/// Where an MQTT broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path of the WebSocket, when the scheme is `ws` or `wss`.
    pub websocket: Option<String>,
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The last will (MQTT 3.1.1 section 3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWill {
    /// Topic name without wildcards.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Quality of service of the will.
    pub qos: QoS,
    /// Whether the broker retains it.
    pub retain: bool,
}

/// Exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// First delay, 10 ms to 60 s (default 100 ms).
    pub initial: Duration,
    /// Greatest delay, 100 ms to 300 s (default 10 s).
    pub max: Duration,
    /// Growth, 1.0 to 10.0 (default 2.0).
    pub multiplier: f64,
    /// Attempts in a row before the source fails; 0 is for ever (default).
    pub max_attempts: u32,
}

/// A plugin and its limits.
#[derive(Clone)]
pub struct Plugin {
    /// What it is called in logs, metrics and dead letters, and whose state is its own (default: the file's name without its
    /// extension).
    pub name: Option<String>,
    /// The component.
    pub path: PathBuf,
    /// What the file's SHA-256 has to be.
    pub sha256: Option<[u8; 32]>,
    /// The `config:` of the plugin as JSON text, handed to `init`.
    pub config: String,
    /// What came from variables, which `config` may have: not shown when the plugin says it in an error.
    pub secrets: Vec<Secret>,
    /// What the sandbox allows.
    pub limits: Limits,
}

impl fmt::Debug for Plugin {
    /// Without `config`: it may hold keys and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plugin { name, path, sha256, config: _, secrets: _, limits } = self;
        f.debug_struct("Plugin")
            .field("name", name)
            .field("path", path)
            .field("sha256", sha256)
            .field("config", &"***")
            .field("limits", limits)
            .finish()
    }
}

/// Limits of one plugin instance. Exceeding one is a fault, except for logs and metrics, which are dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory and tables of all instances of a worker, in bytes (`memory_mb`, default 64 MiB).
    pub memory: usize,
    /// Wall time of one call (`deadline_ms`, default 1 s).
    pub deadline: Duration,
    /// Outputs for one message (`outputs_per_message`, default 1,000).
    pub outputs_per_message: usize,
    /// Bytes of all outputs of one call (`output_bytes`, default 16 MiB). Twice as much is the hostcall fuel.
    pub output_bytes: usize,
    /// Stack of the plugin's code, in bytes (`stack_kb`, default 512 KiB).
    pub stack: usize,
    /// Log lines a second, from `log`, stdout and stderr together (`log_lines_per_second`, default 100).
    pub log_lines_per_second: u32,
    /// Distinct metrics that a plugin may name (`metrics`, default 100).
    pub metrics: usize,
    /// Keys and values in `state`, with 128 bytes for each, in bytes (`state_mb`, default 16 MiB).
    pub state: usize,
    /// Size of the component file, in bytes (`component_mb`, default 64 MiB).
    pub component: usize,
    /// Wall time of compiling the component (`compile_seconds`, default 120 s).
    pub compile_time: Duration,
    /// Memory of the process that compiles the component, in bytes (`compile_mb`, default 2 GiB).
    pub compile_memory: usize,
    /// Core instances, memories and tables of an instance, each (`instances`, default 128).
    pub instances: usize,
    /// Resource handles of an instance at a time (`handles`, default 1,000). A batch is one, and so is each standard stream.
    pub handles: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 64 << 20,
            deadline: Duration::from_secs(1),
            outputs_per_message: 1_000,
            output_bytes: 16 << 20,
            stack: 512 << 10,
            log_lines_per_second: 100,
            metrics: 100,
            state: 16 << 20,
            component: 64 << 20,
            compile_time: Duration::from_secs(120),
            compile_memory: 2 << 30,
            instances: 128,
            handles: 1_000,
        }
    }
}

/// What a record looks like and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Destination topic.
    pub topic: Template,
    /// Record key; `None` is no key.
    pub key: Option<Template>,
    /// Record value of a forwarded message.
    pub format: Format,
    /// Where dead letters go.
    pub dead_letter_topic: String,
    /// Partitions of a topic that has to be created (`None`: the server's default).
    pub partitions: Option<u32>,
}

/// Record value of a forwarded message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A JSON event: topic, payload, qos, retain, timestamp, metadata.
    #[default]
    Json,
    /// The payload, byte for byte.
    Raw,
}

/// Text with parts of the MQTT topic: `{topic}` is the whole, `{topic[1]}` its second level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePart>);

/// One part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text as it is.
    Text(String),
    /// The whole MQTT topic.
    Topic,
    /// One level of the MQTT topic, from 0; empty where there is none.
    Level(usize),
}
