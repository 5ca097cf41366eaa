//! MQTT: the broker, the network, or our session.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use super::TlsError;

/// Why an MQTT connection was not made, or ended, or why a source gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MqttError {
    /// Settings that cannot be used, the broker's URL among them: each problem names its key.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config {
        /// All that is wrong.
        problems: Vec<crate::config::Problem>,
    },
    /// No TCP connection; look at the address, the network and whether the broker runs.
    #[error("cannot connect to the MQTT broker at {broker}")]
    Connect {
        /// `host:port`.
        broker: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// One attempt took longer than `connect_timeout_ms`.
    #[error("the MQTT broker at {broker} did not answer within {} ms: still waiting for {waiting_for}", .after.as_millis())]
    Timeout {
        /// `host:port`.
        broker: String,
        /// The configured bound.
        after: Duration,
        /// What had not come yet.
        waiting_for: &'static str,
    },
    /// The TLS handshake failed, mostly because of a certificate; the source says which problem.
    #[error("TLS handshake with the MQTT broker at {broker} failed")]
    Handshake {
        /// `host:port`.
        broker: String,
        /// The certificate or protocol problem.
        source: std::io::Error,
    },
    /// The TLS settings cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The CONNACK refuses the connection (3.1.1 section 3.2.2.3, 5.0 section 3.2.2.2).
    #[error("the MQTT broker refused the connection: {reason} (code {code:#04x})")]
    Refused {
        /// Return code or reason code.
        code: u8,
        /// What it means, and what the broker adds.
        reason: String,
    },
    /// A subscription was refused or downgraded, or a stale one could not be removed.
    #[error("subscription to `{filter}`: {reason}")]
    Subscription {
        /// The topic filter.
        filter: String,
        /// What the broker answered.
        reason: String,
    },
    /// The broker sent DISCONNECT (5.0 section 3.14).
    #[error("the MQTT broker disconnected: {reason} (code {code:#04x})")]
    Disconnected {
        /// Reason code.
        code: u8,
        /// What it means, and what the broker adds.
        reason: String,
    },
    /// DISCONNECT 0x8E: session taken over.
    #[error(
        "another client connected with the client id `{client_id}` and took the session over; give each client an id of its own"
    )]
    TakenOver {
        /// Our client id.
        client_id: String,
    },
    /// The broker sent what the specification does not allow.
    #[error("{packet} from the MQTT broker: {reason}")]
    Malformed {
        /// The kind of packet.
        packet: &'static str,
        /// What is wrong with it.
        reason: Cow<'static, str>,
        /// Reason code for the DISCONNECT of 5.0 (0x81 malformed, 0x82 protocol error, ...).
        code: u8,
    },
    /// The connection ended without a DISCONNECT.
    #[error("the MQTT broker closed the connection")]
    Closed,
    /// The same again and again, soon after each connect.
    #[error(
        "the MQTT broker keeps closing the connection soon after it is made; does another client use the client id `{client_id}`?"
    )]
    Flapping {
        /// Our client id.
        client_id: String,
    },
    /// Reading or writing failed.
    #[error("the connection to the MQTT broker broke")]
    Io(#[from] std::io::Error),
    /// No answer to a PINGREQ (3.1.1 section 3.12).
    #[error("the MQTT broker did not answer a ping within {} ms", .after.as_millis())]
    NoPingResponse {
        /// How long it was waited for.
        after: Duration,
    },
    /// The state of the session cannot be read or made durable; nothing is acknowledged that depends on it.
    #[error("MQTT session state in {}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value does not fit into a packet.
    #[error("{what} cannot be encoded: {reason}")]
    Encode {
        /// The kind of packet.
        what: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The plugin workers ended though nobody asked them to.
    #[error("the plugin workers of the source are gone; unacknowledged messages stay with the broker")]
    WorkersGone,
    /// `max_reconnect_attempts` is reached.
    #[error("gave up after {attempts} connection attempts in a row")]
    GaveUp {
        /// How many there were.
        attempts: u32,
        /// Why the last one failed.
        source: Box<MqttError>,
    },
}
