//! TLS of outgoing connections, with one crypto provider (ring).

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::Tls;
use crate::error::TlsError;

/// A connector that trusts and presents what `tls` says. Reads the files anew, so that a renewed certificate is used from the
/// next connection on.
///
/// # Errors
///
/// A file that cannot be read or holds no certificate or key, a key that does not fit, or a system without trusted roots.
pub fn connector(tls: &Tls) -> Result<TlsConnector, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(insecure::AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    let mut config = match (&tls.client_cert, &tls.client_key) {
        (Some(chain), Some(key)) => {
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|source| pem(key, source))?;
            builder.with_client_auth_cert(certificates(chain)?, key_der).map_err(TlsError::Config)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name that the server's certificate has to be for: the configured one, else `host`.
///
/// # Errors
///
/// The name is neither a DNS name nor an address.
pub fn server_name(tls: &Tls, host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName { name: name.to_owned() })
}

fn roots(tls: &Tls) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_cert {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(TlsError::Config)?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|source| pem(file, source))? {
        none if none.is_empty() => Err(TlsError::NoCertificate { file: file.to_owned() }),
        certificates => Ok(certificates),
    }
}

fn pem(file: &Path, source: rustls_pki_types::pem::Error) -> TlsError {
    TlsError::Pem { file: file.to_owned(), source }
}

/// Whoever holds the configuration chose not to know whom they talk to; the connection is still encrypted.
mod insecure {
    use std::sync::Arc;

    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use tokio_rustls::rustls::client::danger::{
        HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
    };
    use tokio_rustls::rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
    use tokio_rustls::rustls::{DigitallySignedStruct, Error, SignatureScheme};

    use super::CryptoProvider;

    #[derive(Debug)]
    pub(super) struct AnyCertificate(pub Arc<CryptoProvider>);

    impl ServerCertVerifier for AnyCertificate {
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
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
