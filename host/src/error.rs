//! Every error of the library, grouped by who has to act on it.

// ---- The configuration: whoever wrote the file has to act.

/// Why a configuration cannot be used. Shows `FILE:LINE:COL: KEY: what is wrong` for each problem, one a line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The configuration file.
        file: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{}", problems.iter().map(|problem| format!("{}:{problem}", file.display())).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// The configuration file.
        file: std::path::PathBuf,
        /// All that is wrong with it, in the order of the file.
        problems: Vec<crate::config::Problem>,
    },
}

// ---- A JSONL file of messages: whoever wrote it has to act.

/// Why a file of messages cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JsonlError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line of it is wrong.
    #[error("{}:{line}: {what}", file.display())]
    Line {
        /// The file.
        file: std::path::PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what was expected.
        what: String,
    },
}

// ---- HTTP: whoever runs the host has to act.

/// The configured address of `/metrics`, `/health` and `/ready` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (settings.http.listen): {source}")]
pub struct HttpError {
    /// The address.
    pub address: std::net::SocketAddr,
    /// What the system says.
    pub source: std::io::Error,
}
