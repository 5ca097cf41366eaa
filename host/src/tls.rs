//! TLS of outgoing connections. One crypto provider, named explicitly: the process default belongs to nobody.

use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
};

use crate::config::Tls;
use crate::error::TlsError;

/// Does the handshake on a connection to `host`.
///
/// # Errors
///
/// The settings cannot be used, or the handshake fails; then the error names the certificate problem.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    settings: &Tls,
    host: &str,
    stream: S,
) -> Result<TlsStream<S>, TlsError> {
    let name = server_name(settings, host)?;
    let of_files = settings.clone();
    let connector = tokio::task::spawn_blocking(move || connector(&of_files)).await.map_err(io::Error::other);
    let connector = connector.map_err(TlsError::Handshake)??;
    connector.connect(name, stream).await.map_err(|error| match explain(&error, settings) {
        Some(problem) => problem,
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            TlsError::NotTls { reason: error.to_string() }
        }
        None => TlsError::Handshake(error),
    })
}

/// The certificate problem that ended a connection, if it is one. A server that is not content with the client's certificate says
/// so after the handshake (RFC 8446, section 4.4.2.4), so this is for what is read later, too.
pub fn explain(error: &io::Error, settings: &Tls) -> Option<TlsError> {
    use CertificateError::{
        BadSignature, ExpiredContext, NotValidForNameContext, NotValidYetContext, Other, UnknownIssuer,
    };
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(problem) => match problem {
            ExpiredContext { not_after, .. } => Some(TlsError::Expired { since: rfc_3339(*not_after) }),
            NotValidYetContext { not_before, .. } => {
                Some(TlsError::NotYetValid { from: rfc_3339(*not_before) })
            }
            NotValidForNameContext { expected, presented } => Some(TlsError::WrongName {
                wanted: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| plain_name(name).to_owned()).collect(),
            }),
            // The signature is bad when another authority has the same name.
            UnknownIssuer | BadSignature => {
                Some(TlsError::UnknownAuthority { ca_cert: settings.ca_cert.clone() })
            }
            // rustls has no variant for it; the verifier behind it says so by this name.
            Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => Some(TlsError::ChainOrder),
            _ => None,
        },
        problem @ (Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )) => Some(TlsError::Version { reason: problem.to_string() }),
        Error::AlertReceived(alert) => {
            use AlertDescription::{
                AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
                CertificateUnknown, DecryptError, HandshakeFailure, UnknownCA, UnsupportedCertificate,
            };
            match (alert, &settings.client_cert) {
                // TLS 1.2 has no name for a certificate that is missing.
                (CertificateRequired | HandshakeFailure | BadCertificate, None) => {
                    Some(TlsError::ClientCertificateMissing)
                }
                (
                    BadCertificate
                    | UnsupportedCertificate
                    | CertificateRevoked
                    | CertificateExpired
                    | CertificateUnknown
                    | UnknownCA
                    | AccessDenied
                    | DecryptError,
                    Some(path),
                ) => Some(TlsError::ClientCertificateRefused {
                    path: path.clone(),
                    alert: format!("{alert:?}"),
                }),
                _ => None,
            }
        }
        Error::InvalidMessage(_) => Some(TlsError::NotTls { reason: error.to_string() }),
        _ => None,
    }
}

fn rfc_3339(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// A name as rustls shows it, `DnsName("a.example")` or `IpAddress(127.0.0.1)`, without the kind.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// A connector that trusts and presents what `settings` say. Reads the files anew, so that a renewed certificate is used from
/// the next connection on.
///
/// # Errors
///
/// A file that cannot be read or has not what it should have, no certificate authority on the system, or a key that does not
/// belong to its certificate.
pub fn connector(settings: &Tls) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(settings_error)?;
    let builder = if settings.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(roots(settings.ca_cert.as_deref())?)
    };
    let mut config = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "client certificate")?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file_error(key, "private key", e))?;
            builder.with_client_auth_cert(chain, key).map_err(settings_error)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name to verify: the configured one, else the host of the URL.
///
/// # Errors
///
/// It is neither a DNS name nor an IP address.
pub fn server_name(settings: &Tls, host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = settings.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName { name: name.to_owned() })
}

fn roots(ca_cert: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_cert {
        for certificate in certificates(path, "CA certificate")? {
            roots.add(certificate).map_err(|e| file_error(path, "CA certificate", e))?;
        }
        return Ok(roots);
    }
    let native = rustls_native_certs::load_native_certs();
    // Some systems carry certificates that rustls cannot parse; the others are enough.
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        let reasons: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "the store is empty".to_owned() } else { reasons.join("; ") };
        return Err(TlsError::NoRoots { reason });
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| file_error(path, what, e))?;
    if certificates.is_empty() {
        return Err(file_error(path, what, rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn file_error(
    path: &Path,
    what: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> TlsError {
    TlsError::File { path: path.to_owned(), what, source: Box::new(source) }
}

fn settings_error(error: Error) -> TlsError {
    TlsError::Settings(Box::new(error))
}

/// `insecure_skip_verify`: any certificate, but the handshake must still be signed with its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
