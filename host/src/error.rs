//! Every error of the library, grouped by who has to act on it.

use std::io;
use std::path::PathBuf;

// Sinks

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

// TLS

/// What is wrong with the TLS of an outgoing connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// A PEM file without a certificate.
    #[error("{} holds no certificate", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// Certificates or keys that do not go together.
    #[error("{0}")]
    Config(#[source] tokio_rustls::rustls::Error),
    /// The system has no trusted roots.
    #[error("the system has no trusted certificate authorities: set `ca_cert`")]
    NoSystemRoots,
    /// The name to verify is no name.
    #[error("`{name}` is neither a DNS name nor an address: set `server_name`")]
    ServerName {
        /// The name.
        name: String,
    },
}
