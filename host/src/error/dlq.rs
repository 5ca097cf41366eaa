//! Dead letters: reading them back, and replaying them.

use std::path::PathBuf;

use super::HostError;

/// Why dead letters cannot be read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    /// Rivven cannot be reached, or does not give the records.
    #[error("cannot read the topic {topic} of Rivven at {servers}: {reason}")]
    Topic {
        /// The dead-letter topic.
        topic: String,
        /// The configured servers.
        servers: String,
        /// What happened.
        reason: String,
    },
    /// A file of records cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process replays with the same state folder.
    #[error("{} is in use: another replay runs", path.display())]
    ReplayRuns {
        /// The journal.
        path: PathBuf,
    },
    /// The journal of what was replayed cannot be used.
    #[error("the journal of replayed letters {}: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The policy for bad messages says `stop`, the plugin does not start again, or the sink is closed.
    #[error("the replay stopped: {0}; what is replayed is kept, and the rest can be replayed later")]
    Stopped(String),
    /// A plugin or the sink cannot be used.
    #[error(transparent)]
    Host(#[from] HostError),
}
