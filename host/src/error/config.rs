//! What the user wrote: the configuration, a file of messages, an address.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a configuration cannot be used. Shows `FILE:LINE:COL: KEY: what is wrong` for each problem, one a line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is wrong.
    #[error("{}", problems.iter().map(|problem| format!("{}:{problem}", file.display())).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// The configuration file.
        file: PathBuf,
        /// All that is wrong with it, in the order of the file.
        problems: Vec<crate::config::Problem>,
    },
}

/// Why a file of messages cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line of it is wrong.
    #[error("{}:{line}: {what}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what was expected.
        what: String,
    },
}

/// The configured address of `/metrics`, `/health` and `/ready` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (settings.http.listen): {source}")]
pub struct HttpError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}
