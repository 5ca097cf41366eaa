//! The driver over TLS.

use std::sync::Arc;

use rumqttc::mqttbytes::v4;
use tempfile::tempdir;

use super::testing::*;
use crate::config::Tls;

/// A certificate authority, and what a server and a client show.
struct Certificates {
    folder: tempfile::TempDir,
    server: tokio_rustls::rustls::ServerConfig,
}

impl Certificates {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        use tokio_rustls::rustls::crypto::ring;
        use tokio_rustls::rustls::server::WebPkiClientVerifier;
        use tokio_rustls::rustls::{RootCertStore, ServerConfig};

        let key = || KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = key();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let (server_key, client_key) = (key(), key());
        let server = CertificateParams::new(vec!["broker.test".into()])
            .unwrap()
            .signed_by(&server_key, &issuer)
            .unwrap();
        let client =
            CertificateParams::new(vec!["me".into()]).unwrap().signed_by(&client_key, &issuer).unwrap();
        let folder = tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(folder.path().join("client.pem"), client.pem()).unwrap();
        std::fs::write(folder.path().join("client.key"), client_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server.der().clone()], server_key.serialize_der().try_into().unwrap())
            .unwrap();
        Certificates { folder, server }
    }

    fn settings(&self) -> Tls {
        Tls {
            ca_cert: Some(self.folder.path().join("ca.pem")),
            client_cert: Some(self.folder.path().join("client.pem")),
            client_key: Some(self.folder.path().join("client.key")),
            server_name: Some("broker.test".into()),
            ..Tls::default()
        }
    }
}

#[tokio::test]
async fn speaks_tls_with_a_client_certificate() {
    let (broker, port) = Broker::new().await;
    let certificates = Certificates::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(certificates.server.clone()));
    let mut running = start_with(port, |settings| settings.tls = Some(certificates.settings()));
    let tcp = soon(broker.0.accept()).await.unwrap().0;
    let mut peer = Peer::new(Box::new(soon(acceptor.accept(tcp)).await.unwrap()));
    assert!(matches!(peer.v4().await, Some(v4::Packet::Connect(_))));
    peer.send(&[0x20, 2, 0, 0]).await;
    assert!(matches!(peer.v4().await, Some(v4::Packet::Subscribe(_))));
    peer.send(&[0x90, 3, 0, 1, 1]).await;
    peer.send(&publish(false, "a/b", &[5; 100_000], 1, 1)).await;
    let batch = running.pipeline.batch().await;
    assert_eq!(batch.message(0).payload(), [5; 100_000]);
    running.pipeline.settle(batch);
    peer.expect(&[puback(1)]).await;
    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.raw().await.unwrap(), [0xe0, 0]);
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_problem_is_named() {
    let (broker, port) = Broker::new().await;
    let (certificates, other) = (Certificates::new(), Certificates::new());
    let missing = certificates.folder.path().join("missing.pem");
    for (change, reason) in [
        (
            Box::new(|tls: &mut Tls| tls.ca_cert = Some(other.folder.path().join("ca.pem")))
                as Box<dyn Fn(&mut Tls)>,
            "the certificate of the server is not signed by an authority of ",
        ),
        (
            Box::new(|tls: &mut Tls| tls.server_name = None),
            "the certificate of the server is for broker.test, not for `127.0.0.1`; ",
        ),
        (
            Box::new(|tls: &mut Tls| tls.ca_cert = Some(missing.clone())),
            "missing.pem has no usable CA certificate: ",
        ),
        (
            Box::new(|tls: &mut Tls| tls.client_key = tls.ca_cert.clone()),
            "ca.pem has no usable private key: ",
        ),
    ] {
        let mut tls = certificates.settings();
        change(&mut tls);
        let running = start_with(port, |settings| settings.tls = Some(tls));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(certificates.server.clone()));
        let serve = async {
            loop {
                let tcp = broker.0.accept().await.unwrap().0;
                let _ = acceptor.accept(tcp).await;
            }
        };
        tokio::select! {
            () = serve => {}
            () = running.not_ready_because(reason) => {}
        }
        running.result.abort();
    }
}
