//! TLS of outgoing connections: certificates, keys and names.

use std::path::PathBuf;

/// TLS settings that cannot be used, or a handshake that failed. What went wrong on the way is in the message of the latter: each
/// names the certificate and what to do.
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
    /// The server's certificate is too old.
    #[error(
        "the certificate of the server expired at {since}; renew it there, or set the clock of this machine right"
    )]
    Expired {
        /// Its last moment, RFC 3339.
        since: String,
    },
    /// The server's certificate is of the future.
    #[error(
        "the certificate of the server is not valid before {from}; replace it there, or set the clock of this machine right"
    )]
    NotYetValid {
        /// Its first moment, RFC 3339.
        from: String,
    },
    /// The server's certificate is for others.
    #[error(
        "the certificate of the server is for {}, not for `{wanted}`; connect by a name of the certificate, or set `server_name` to one",
        if presented.is_empty() { "nobody".into() } else { presented.join(", ") }
    )]
    WrongName {
        /// The host of the address, or `server_name`.
        wanted: String,
        /// The names of the certificate.
        presented: Vec<String>,
    },
    /// Nobody who is trusted vouches for the server's certificate.
    #[error(
        "the certificate of the server is not signed by an authority of {}; set `ca_cert` to the certificate of the authority that signed it",
        ca_cert.as_ref().map_or("this system".into(), |path| path.display().to_string())
    )]
    UnknownAuthority {
        /// Whose authorities are trusted; `None`: the system's.
        ca_cert: Option<PathBuf>,
    },
    /// What the server sends first is no certificate of a server.
    #[error(
        "the first certificate that the server sends is that of an authority; let it send its own first, and those that lead to the          authority behind it"
    )]
    ChainOrder,
    /// The server speaks only what is older than TLS 1.2.
    #[error("the server speaks no TLS that is safe ({reason}); turn on TLS 1.2 or 1.3 there")]
    Version {
        /// How it says so.
        reason: String,
    },
    /// The server wants to know who we are.
    #[error("the server wants a client certificate; set `client_cert` and `client_key`")]
    ClientCertificateMissing,
    /// The server knows who we are and does not like it.
    #[error(
        "the server does not accept the client certificate {} ({alert}); it has to be valid now and signed by an authority that the \
         server trusts",
        path.display()
    )]
    ClientCertificateRefused {
        /// The file.
        path: PathBuf,
        /// What the server says, by its name in RFC 8446, section 6.2.
        alert: String,
    },
    /// No TLS came.
    #[error("what answers does not speak TLS ({reason}); is this the port for TLS?")]
    NotTls {
        /// What came.
        reason: String,
    },
    /// Everything else: versions, algorithms, a connection that breaks.
    #[error(transparent)]
    Handshake(std::io::Error),
    /// The certificates, keys and protocol versions do not go together.
    #[error("TLS settings")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}
