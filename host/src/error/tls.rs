//! TLS of outgoing connections: certificates, keys and names.

use std::path::PathBuf;

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file cannot be read or has not what it should have.
    #[error("TLS: {} has no usable {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `CA certificate`, `client certificate` or `private key`.
        what: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system has no certificate authorities.
    #[error("TLS: no certificate authority found on this system ({reason}); set `ca_cert`")]
    NoRoots {
        /// What was tried.
        reason: String,
    },
    /// The name to verify is neither a DNS name nor an address.
    #[error("TLS: `{name}` is not a server name")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The certificates, keys and protocol versions do not go together.
    #[error("TLS settings")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}
