//! Every error of the library, grouped by who has to act on it.

mod config;
#[cfg(feature = "mqtt")]
mod dlq;
#[cfg(feature = "mqtt")]
mod journal;
#[cfg(feature = "mqtt")]
mod mqtt;
mod plugin;
mod sink;
mod tls;

use std::path::PathBuf;

use tokio::task::JoinError;

pub use config::{ConfigError, HttpError, JsonlError};
#[cfg(feature = "mqtt")]
pub use dlq::DlqError;
#[cfg(feature = "mqtt")]
pub use journal::JournalError;
#[cfg(feature = "mqtt")]
pub use mqtt::MqttError;
pub use plugin::{Fault, PluginError};
pub use sink::SinkError;
pub use tls::TlsError;

/// Why a host did not start, or a source of it failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A plugin cannot be used.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The durable state of a plugin cannot be used.
    #[cfg(feature = "mqtt")]
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The sink is Rivven, and the configuration does not say where Rivven is.
    #[error("the configuration has no `broker`: say where Rivven is, or choose another sink with `--sink`")]
    NoBroker,
    /// Another host uses the state folder: both would take each other's sessions and state.
    #[error(
        "the state folder {} is in use by another host{}: end that one, or give this one a `settings.state_dir` of its own",
        folder.display(),
        process.map(|process| format!(" (process {process})")).unwrap_or_default()
    )]
    StateInUse {
        /// The folder.
        folder: PathBuf,
        /// The other host's process, if it is known.
        process: Option<u32>,
    },
    /// The MQTT side of a source has failed for good.
    #[cfg(feature = "mqtt")]
    #[error("source {name}")]
    Mqtt {
        /// The source.
        name: String,
        /// What happened.
        source: MqttError,
    },
    /// A source was stopped: a policy says `stop`, its plugin does not start again, or its sink is closed.
    #[error("source {name} stopped: {reason}")]
    Stopped {
        /// The source.
        name: String,
        /// Why.
        reason: String,
    },
    /// A bug of this program: the thread of a source has panicked.
    #[error("the thread of source {name} has died; what it had not acknowledged stays with the broker")]
    Died {
        /// The source.
        name: String,
    },
    /// The system starts no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// A bug of this program.
    #[error("a task of the host has panicked")]
    Panicked(#[source] JoinError),
}

/// `error` and its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
