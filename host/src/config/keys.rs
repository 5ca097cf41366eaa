//! Every key of the configuration as data: its type, range, default and meaning. The reader takes them from here, so that
//! what is accepted, what a message says and what is documented are one thing.

/// A section: the keys that a mapping may have.
pub type Keys = &'static [Key];

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Another name that is accepted for it.
    pub alias: Option<&'static str>,
    /// What its value is.
    pub kind: Kind,
    /// Whether the section is wrong without it.
    pub required: bool,
    /// Its value when it is not there, as in the file; `None` where that is no value, or depends on others.
    pub default: Option<&'static str>,
    /// What it means, with its unit.
    pub doc: &'static str,
}

/// What the value of a key is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text. A plain number is taken as it is written.
    Text,
    /// `true` or `false`.
    Flag,
    /// An integer of this range.
    Integer(u64, u64),
    /// A number of this range.
    Number(f64, f64),
    /// One of these names; each with other spellings that are accepted.
    Choice(&'static [(&'static str, &'static [&'static str])]),
    /// Path of a file or folder, relative to the folder of the configuration file.
    Path,
    /// A list of at least one text.
    Texts,
    /// A section.
    Section(Keys),
    /// A section, or a list of at least one.
    SectionOrList(Keys),
    /// Sections by names of the user's choice, at least one.
    Sections(Keys),
    /// Any YAML that is JSON too.
    Anything,
    /// A key of other programs that this one does not have, and what to use instead.
    Refused(&'static str),
}

impl Key {
    const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Key { name, alias: None, kind, required: false, default: None, doc }
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }
}

use Kind::{
    Anything, Choice, Flag, Integer, Number, Path, Refused, Section, SectionOrList, Sections, Text, Texts,
};

const DAY_MS: u64 = 86_400_000;
const GIB: u64 = 1 << 30;
const BAD_MESSAGE: Kind = Choice(&[("dead_letter", &[]), ("drop", &[]), ("stop", &[])]);
const QOS: Kind = Choice(&[("at_most_once", &["0"]), ("at_least_once", &["1"]), ("exactly_once", &["2"])]);

/// The file with several sources.
pub const ROOT: Keys = &[
    Key::new("broker", Section(BROKER), "The Rivven cluster. Required when the sink is rivven."),
    Key::new("sources", Sections(SOURCE), "The sources by name.").required(),
    Key::new("settings", Section(SETTINGS), "What belongs to the process."),
];

/// `broker`.
pub const BROKER: Keys = &[
    Key::new("bootstrap_servers", Texts, "HOST:PORT of one or more Rivven servers.").required(),
    Key::new("connections", Integer(1, 90), "Writers, each with a connection of its own.").or("32"),
    Key::new("auth", Section(BROKER_AUTH), "Credentials, where the servers require them."),
    Key::new("tls", Section(TLS), "Turns on TLS to the servers."),
];

/// `broker.auth`.
pub const BROKER_AUTH: Keys = &[
    Key::new("username", Text, "User name.").required(),
    Key::new("password", Text, "Password; best as ${VARIABLE}.").required(),
];

/// `tls`.
pub const TLS: Keys = &[
    Key::new("ca_cert", Path, "PEM file of the certificate authorities to trust instead of the system's."),
    Key::new("client_cert", Path, "PEM file of the client's certificate chain; together with client_key."),
    Key::new("client_key", Path, "PEM file of the client's key: PKCS#8, PKCS#1 or SEC1."),
    Key::new("server_name", Text, "Name to verify instead of the host of the address."),
    Key::new("alpn", Texts, "ALPN protocols to offer."),
    Key::new(
        "insecure_skip_verify",
        Flag,
        "Accept any certificate. Anyone can read and change the messages.",
    )
    .or("false"),
];

/// `settings`.
pub const SETTINGS: Keys = &[
    Key::new("state_dir", Path, "Folder for what must survive a restart.").or("./state"),
    Key::new("http", Section(HTTP), "Address of /metrics, /health, /ready and the status page."),
    Key::new(
        "shutdown_grace_ms",
        Integer(0, DAY_MS),
        "How long a shutdown waits for messages in flight, in milliseconds.",
    )
    .or("10000"),
];

/// `settings.http`.
pub const HTTP: Keys = &[Key::new(
    "listen",
    Text,
    "IP:PORT to listen on. When this is given and in use, the host does not start.",
)
.or("127.0.0.1:9091")];

/// `sources.NAME`.
pub const SOURCE: Keys = &[
    Key::new("type", Choice(&[("mqtt-source", &[])]), "The kind of source.").required(),
    Key::new("topic", Text, "Destination: a Rivven topic, or a template such as iot.{topic[0]}.").required(),
    Key::new("config", Section(MQTT), "The MQTT client.").required(),
    Key::new(
        "plugin",
        SectionOrList(PLUGIN),
        "The WebAssembly component that every message goes through, or several, in this order.",
    ),
    Key::new("format", Choice(&[("json", &[]), ("raw", &[])]), "Record value of a forwarded message.")
        .or("json"),
    Key::new("key", Text, "Record key: a template over the MQTT topic, or none.").or("{topic}"),
    Key::new("on_reject", BAD_MESSAGE, "What happens to a message that the plugin rejects.")
        .or("dead_letter"),
    Key::new(
        "on_fault",
        BAD_MESSAGE,
        "What happens to a message on which the plugin fails, or that Rivven can never take.",
    )
    .or("dead_letter"),
    Key::new(
        "dead_letter_topic",
        Text,
        "Rivven topic of dead letters; the default is the destination and .dlq.",
    ),
    Key::new(
        "partitions",
        Integer(1, 10_000),
        "Partitions of a topic that has to be created; default: the server's.",
    ),
];

/// The file with one source, as the existing connector has it.
pub const SINGLE: Keys = &[
    SOURCE[0], SOURCE[1], SOURCE[2], SOURCE[3], SOURCE[4], SOURCE[5], SOURCE[6], SOURCE[7], SOURCE[8],
    SOURCE[9], ROOT[0], ROOT[2],
];

/// `sources.NAME.config`.
pub const MQTT: Keys = &[
    Key::new("broker_url", Text, "mqtt://HOST:PORT, or mqtts:// for TLS; ws://HOST:PORT/PATH, or wss://, for a WebSocket.").required(),
    Key::new("topics", Texts, "Topic filters to subscribe to.").required(),
    Key::new("client_id", Text, "Client identifier; the default is rivven-mqtt- and 8 random digits."),
    Key::new("qos", QOS, "Quality of service to subscribe with.").or("at_least_once"),
    Key::new("clean_session", Flag, "Start without a session: what arrives while disconnected is lost.")
        .or("true"),
    Key::new(
        "session_expiry_secs",
        Integer(1, u32::MAX as u64),
        "Seconds that the broker keeps the session, on MQTT 5.0; 4294967295 is for ever.",
    )
    .or("4294967295"),
    Key::new(
        "retained",
        Choice(&[("all", &[]), ("new_only", &[]), ("skip", &[])]),
        "Which retained messages are taken: all that the broker sends, those of filters that are new to the session, or none.",
    )
    .or("all"),
    Key::new("auth", Section(AUTH), "Credentials."),
    Key::new("tls", Section(TLS), "Turns TLS on whatever the scheme."),
    Key::new("last_will", Section(LAST_WILL), "What the broker publishes when the connection is lost."),
    Key::new(
        "retry_initial_ms",
        Integer(10, 60_000),
        "First delay between connection attempts, in milliseconds.",
    )
    .or("100"),
    Key::new(
        "retry_max_ms",
        Integer(100, 300_000),
        "Greatest delay between connection attempts, in milliseconds.",
    )
    .or("10000"),
    Key::new("retry_multiplier", Number(1.0, 10.0), "Growth of the delay.").or("2.0"),
    Key::new(
        "max_reconnect_attempts",
        Integer(0, u32::MAX as u64),
        "Failed attempts in a row before the source gives up; 0 is never.",
    )
    .or("0"),
    Key::new("reconnect_delay_ms", Refused("set retry_initial_ms instead"), "Not used."),
    Key::new(
        "empty_poll_delay_ms",
        Integer(1, 60_000),
        "Idle tick in milliseconds: a source without messages for so long gives back the memory that it keeps for batches. \
         Never delays a message.",
    )
    .or("50"),
    Key::new("keep_alive_secs", Integer(5, 65_535), "Keep-alive interval in seconds.").or("60"),
    Key::new(
        "connect_timeout_secs",
        Integer(1, 300),
        "Seconds for one attempt, from the name look-up to the last subscription. Each address of the name has its share.",
    )
    .or("30"),
    Key::new(
        "mqtt_version",
        Choice(&[("3.1.1", &["v3.1.1", "v311", "v4", "4"]), ("5.0", &["5", "v5", "v5.0"])]),
        "Protocol version.",
    )
    .or("3.1.1"),
    Key::new("max_inflight", Integer(1, 65_535), "Messages that may be unacknowledged in the host.")
        .or("1000"),
    Key::new(
        "max_inflight_bytes",
        Integer(64 << 10, 64 * GIB),
        "Bytes of topics and payloads that may be unacknowledged in the host.",
    )
    .or("67108864"),
    Key::new(
        "max_packet_size",
        Integer(1 << 10, 268_435_460),
        "Greatest packet in bytes; a greater one becomes a dead letter with its topic and size.",
    )
    .or("262144"),
    Key::new("max_batch", Integer(1, 65_536), "Greatest batch, in messages.").or("2048"),
    Key::new("parse_json_payload", Flag, "In format json, a payload that is JSON is embedded as it is.")
        .or("true"),
    Key::new("include_metadata", Flag, "In format json, a record has metadata.").or("true"),
];

/// `sources.NAME.config.auth`.
pub const AUTH: Keys = &[
    Key::new("username", Text, "User name."),
    Key::new("password", Text, "Password; best as ${VARIABLE}."),
    Key::new("ca_cert", Path, "As in tls."),
    Key::new("client_cert", Path, "As in tls."),
    Key::new("client_key", Path, "As in tls."),
];

/// `sources.NAME.config.last_will`.
pub const LAST_WILL: Keys = &[
    Key::new("topic", Text, "MQTT topic name.").required(),
    Key::new("payload", Text, "Payload.").alias("message").or(""),
    Key::new("qos", QOS, "Quality of service.").or("at_least_once"),
    Key::new("retain", Flag, "Whether the broker retains it.").or("false"),
];

/// `sources.NAME.plugin`. What is in [`OF_SOURCE`] stands at the first plugin of a list and is about all of them.
pub const PLUGIN: Keys = &[
    Key::new("path", Path, "The component, a .wasm file.").required(),
    Key::new(
        "name",
        Text,
        "What it is called in logs and dead letters, and whose state is its own; by default the file's name without .wasm.",
    ),
    Key::new("sha256", Text, "What the SHA-256 of the file has to be: 64 hexadecimal digits."),
    Key::new("config", Anything, "Handed to the plugin as JSON."),
    Key::new(
        "workers",
        Integer(1, 256),
        "Instances that run side by side; each MQTT topic stays with one. In a list: at the first plugin.",
    )
    .or("1"),
    Key::new("limits", Section(LIMITS), "What the sandbox allows."),
    Key::new(
        "flush_interval_ms",
        Integer(10, DAY_MS),
        "How often an aggregating plugin gives back what it holds, in milliseconds. In a list: at the first plugin.",
    )
    .or("1000"),
    Key::new(
        "max_faults_per_minute",
        Integer(0, 100_000),
        "With more faults than this in a minute the source pauses until the plugin is replaced; 0 is never. In a list: at the first plugin.",
    )
    .or("100"),
];

/// The keys of [`PLUGIN`] that are about all plugins of a source.
pub const OF_SOURCE: [&str; 3] = ["workers", "flush_interval_ms", "max_faults_per_minute"];

/// `sources.NAME.plugin.limits`.
pub const LIMITS: Keys = &[
    Key::new("memory_mb", Integer(1, 4_096), "Memory of one worker's instance, in MiB.").or("64"),
    Key::new("deadline_ms", Integer(1, 600_000), "Wall time of one call, in milliseconds.").or("1000"),
    Key::new("outputs_per_message", Integer(1, 1_000_000), "Records made of one message.").or("1000"),
    Key::new("output_bytes", Integer(1_024, GIB), "Bytes of all records of one call.").or("16777216"),
    Key::new("stack_kb", Integer(64, 8_192), "Stack of the plugin's code, in KiB.").or("512"),
    Key::new(
        "log_lines_per_second",
        Integer(0, 100_000),
        "Log lines a second; the rest is dropped and counted.",
    )
    .or("100"),
    Key::new("metrics", Integer(0, 10_000), "Distinct metrics; the rest is dropped and counted.").or("100"),
    Key::new(
        "state_mb",
        Integer(0, 4_096),
        "Keys and values in the plugin's state, with 128 bytes for each, in MiB.",
    )
    .or("16"),
    Key::new("component_mb", Integer(1, 1_024), "Size of the component file, in MiB.").or("64"),
    Key::new("compile_seconds", Integer(1, 3_600), "Wall time of compiling the component, in seconds.")
        .or("120"),
    Key::new("compile_mb", Integer(64, 65_536), "Memory of compiling the component, in MiB.").or("2048"),
    Key::new(
        "instances",
        Integer(1, 1_024),
        "Core instances, memories and tables that the component is made of, each.",
    )
    .or("128"),
    Key::new("handles", Integer(16, 1_000_000), "Resource handles that an instance may have at a time.")
        .or("1000"),
];
