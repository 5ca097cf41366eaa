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
        source: TlsError,
    },
    /// What answers is no WebSocket that speaks MQTT (5.0 section 6), mostly because the path or the port is another one.
    #[error(
        "WebSocket handshake with the MQTT broker at {broker} failed; are this the port of its WebSocket listener and `{path}` its path?"
    )]
    WebSocket {
        /// `host:port`.
        broker: String,
        /// Path of the URL.
        path: String,
        /// What came instead.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS settings cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The CONNACK refuses the user name or the password, or what they stand for is not allowed to connect: return codes 4 and 5
    /// of 3.1.1 (section 3.2.2.3), reason codes 0x86 and 0x87 of 5.0 (section 3.2.2.2).
    #[error("the MQTT broker refused the login: {reason} (code {code:#04x})")]
    BadCredentials {
        /// Return code or reason code.
        code: u8,
        /// What it means, and what the broker adds.
        reason: String,
    },
    /// The CONNACK refuses the connection for another reason (3.1.1 section 3.2.2.3, 5.0 section 3.2.2.2).
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
    /// The state of the session cannot be opened or read.
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
    /// A bug of this program: the thread of the source has panicked.
    #[error("the thread of the source has died; what was not acknowledged stays with the broker")]
    Died,
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

impl MqttError {
    /// What a refusing CONNACK means: its return code (3.1.1) or reason code (5.0), and what the broker says.
    pub(crate) fn refused(code: u8, reason: String) -> Self {
        match code {
            4 | 5 | 0x86 | 0x87 => MqttError::BadCredentials { code, reason },
            _ => MqttError::Refused { code, reason },
        }
    }

    /// Whether trying again with the same settings is in vain until somebody changes them, here or at the broker: a wrong
    /// password, a refused subscription, an unusable certificate. What the network or a busy broker causes is not.
    pub fn is_permanent(&self) -> bool {
        match self {
            MqttError::Config { .. }
            | MqttError::BadCredentials { .. }
            | MqttError::Subscription { .. }
            | MqttError::Tls(_)
            | MqttError::Store { .. }
            | MqttError::Encode { .. }
            | MqttError::GaveUp { .. } => true,
            // The version, the client id, the authentication method, a ban, the last will: 3.1.1 section 3.2.2.3, 5.0 section
            // 3.2.2.2. The others are those of a broker that has trouble of its own.
            MqttError::Refused { code, .. } => {
                matches!(code, 1 | 2 | 0x81 | 0x82 | 0x84 | 0x85 | 0x8a | 0x8c | 0x90 | 0x95 | 0x99..=0x9b)
            }
            // Only TLS itself says such things; a connection that breaks is another error.
            MqttError::Handshake { source: TlsError::Handshake(error), .. } => {
                error.get_ref().is_some_and(|error| error.is::<tokio_rustls::rustls::Error>())
            }
            MqttError::Handshake { source, .. } => !matches!(source, TlsError::NotTls { .. }),
            _ => false,
        }
    }

    /// What to do about it, for a person; `None` where the error says it already.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            MqttError::Connect { .. } => {
                "look whether the broker runs, whether broker_url has its host and port, and what is between (nc -zv HOST PORT)"
            }
            MqttError::Timeout { waiting_for: "CONNACK", .. } => {
                "look whether an MQTT broker listens on this port, and whether it expects TLS there (mqtts://)"
            }
            MqttError::Timeout { .. } => {
                "look at the network and firewalls between, or raise connect_timeout_secs"
            }
            MqttError::Handshake { source: TlsError::Handshake(_), .. } => {
                "look at ca_cert, server_name and the client certificate, and whether the port is the broker's TLS port"
            }
            MqttError::BadCredentials { .. } => {
                "correct auth.username and auth.password, or let the broker allow this client"
            }
            MqttError::Refused { code: 1 | 0x84, .. } => "set mqtt_version to the broker's",
            MqttError::Refused { code: 2 | 0x85, .. } => "set another client_id, one that the broker allows",
            MqttError::Refused { code: 0x9c | 0x9d, .. }
            | MqttError::Disconnected { code: 0x9c | 0x9d, .. } => {
                "set broker_url to the server that it names, if you trust it: the host does not follow"
            }
            MqttError::Refused { .. } => "look into the log of the broker",
            MqttError::Subscription { .. } => {
                "let the broker allow the filter for this user, or take it out of topics"
            }
            MqttError::Closed | MqttError::Io(_) => {
                "look into the log of the broker; a broker that expects TLS, or a WebSocket, closes like this too"
            }
            MqttError::Store { .. } => {
                "look whether the folder is writable and whether another process uses it"
            }
            _ => return None,
        })
    }
}
