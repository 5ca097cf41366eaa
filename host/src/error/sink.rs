//! Sinks: the destination, or the disk.

use std::io;
use std::path::PathBuf;

use super::TlsError;

/// Why a sink cannot take a delivery, now or ever. What can be tried again is tried again by the sink itself.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The sink was closed; what it had not committed is not acknowledged.
    #[error("the sink is closed")]
    Closed,
    /// The output file cannot be used.
    #[error("cannot open the output {}: {source}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the output file.
    #[error("the output {} is in use by another process: give each host its own file", file.display())]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// Nobody reads the output any more.
    #[error("the reader of the output is gone")]
    ReaderGone,
    /// TLS to Rivven is configured wrongly.
    #[error("TLS to Rivven: {0}")]
    Tls(#[from] TlsError),
}
