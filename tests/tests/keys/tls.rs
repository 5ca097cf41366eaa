//! TLS: whom to trust, who we are, and what goes wrong.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::date_time_ymd;
use rivven_integration_tests::broker::{Broker, Setup};
use rivven_integration_tests::certs::{Certificates, unwrap_key};
use rivven_integration_tests::scripted::Scripted;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::{start, start_many, with};

/// Certificates in files.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(certificates: &Certificates) -> Self {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        files.write("ca.pem", &certificates.ca);
        files.write("client.pem", &certificates.client);
        files.write("client.key", &certificates.client_key);
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trusts the authority and shows the client's certificate.
    fn mutual(&self) -> Value {
        json!({
            "ca_cert": self.path("ca.pem"), "client_cert": self.path("client.pem"), "client_key": self.path("client.key")
        })
    }
}

/// A broker that wants the certificate of a client.
fn strict(certificates: &Certificates) -> Setup {
    Broker::setup().tls(certificates).tls_line("require_certificate true")
}

#[tokio::test(flavor = "multi_thread")]
async fn key_tls() {
    let certificates = Certificates::generate().unwrap();
    let rsa = certificates.with_rsa_client().unwrap();
    let files = Files::new(&certificates);
    let rsa_files = Files::new(&rsa);
    let broker = strict(&certificates).start().await.unwrap();
    let mut mutual = Vec::new();
    for (files, pkcs8, label) in [
        (&files, &certificates.client_key, "EC PRIVATE KEY"),
        (&rsa_files, &rsa.client_key, "RSA PRIVATE KEY"),
    ] {
        // PKCS#8, and what is inside of it: SEC1 or PKCS#1.
        mutual.push(files.mutual());
        let key = unwrap_key(pkcs8, label).unwrap();
        assert!(key.starts_with(&format!("-----BEGIN {label}-----")));
        let mut inside = files.mutual();
        inside["client_key"] = json!(files.write("inside.key", &key));
        mutual.push(inside);
    }
    // A `tls` section turns TLS on whatever the scheme.
    let url = broker.tls_url().replace("mqtts://", "mqtt://");
    let mut host = start_many(mutual.into_iter().map(|tls| with(&url, json!({ "tls": tls }))));
    host.ready().await.unwrap();

    // Without a certificate, and with one of another authority.
    let host = start(with(&broker.tls_url(), json!({ "tls": { "ca_cert": files.path("ca.pem") } })));
    host.not_ready("the server wants a client certificate; set `client_cert` and `client_key`")
        .await
        .unwrap();
    let stranger = Files::new(&Certificates::generate().unwrap());
    let mut tls = stranger.mutual();
    tls["ca_cert"] = json!(files.path("ca.pem"));
    let host = start(with(&broker.tls_url(), json!({ "tls": tls })));
    let reason = host.not_ready("the server does not accept the client certificate").await.unwrap();
    assert!(reason.contains(stranger.path("client.pem").to_str().unwrap()), "{reason}");
}

/// As the existing connector has them.
#[tokio::test(flavor = "multi_thread")]
async fn key_auth_with_the_files_of_tls() {
    let certificates = Certificates::generate().unwrap();
    let files = Files::new(&certificates);
    let broker = strict(&certificates).start().await.unwrap();
    let mut host = start(with(&broker.tls_url(), json!({ "auth": files.mutual() })));
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_tls_names_what_is_wrong_with_the_certificate_of_the_server() {
    let good = Certificates::generate().unwrap();
    let expired = good.with_server(|server| server.not_after = date_time_ymd(2020, 2, 29)).unwrap();
    let early = good.with_server(|server| server.not_before = date_time_ymd(2999, 1, 1)).unwrap();
    let other = good
        .with_server(|server| {
            server.subject_alt_names = vec![
                rcgen::SanType::DnsName("broker.example".try_into().unwrap()),
                rcgen::SanType::IpAddress([192, 0, 2, 1].into()),
            ]
        })
        .unwrap();
    let files = Files::new(&good);
    let ca = files.path("ca.pem");
    let stranger = files.write("stranger.pem", &Certificates::generate().unwrap().ca);
    let unknown = format!(
        "the certificate of the server is not signed by an authority of {}; set `ca_cert` to the certificate of the authority \
         that signed it",
        stranger.display()
    );
    for (certificates, trusted, reason) in [
        (
            &expired,
            Some(&ca),
            "the certificate of the server expired at 2020-02-29T00:00:00Z; renew it there",
        ),
        (
            &early,
            Some(&ca),
            "the certificate of the server is not valid before 2999-01-01T00:00:00Z; replace it there",
        ),
        (
            &other,
            Some(&ca),
            "the certificate of the server is for broker.example, 192.0.2.1, not for `localhost`; connect by",
        ),
        (&good, Some(&stranger), unknown.as_str()),
        (
            &good,
            None,
            "the certificate of the server is not signed by an authority of this system; set `ca_cert`",
        ),
    ] {
        let broker = Broker::setup().tls(certificates).start().await.unwrap();
        let keys = match trusted {
            Some(path) => json!({ "tls": { "ca_cert": path } }),
            None => json!({}),
        };
        let host = start(with(&broker.tls_url(), keys));
        let said = host.not_ready(reason).await.unwrap();
        assert!(said.contains("TLS handshake with the MQTT broker at localhost:"), "{said}");
    }

    // TLS to the port for plain connections.
    let broker = Broker::launch().await.unwrap();
    let url = broker.url().replace("mqtt://", "mqtts://");
    let host = start(with(&url, json!({ "tls": { "ca_cert": ca } })));
    host.not_ready("what answers does not speak TLS").await.unwrap();
}

/// The order of a chain (RFC 5246 section 7.4.2): the server's own certificate comes first.
#[tokio::test(flavor = "multi_thread")]
async fn key_tls_names_a_chain_in_the_wrong_order() {
    let right = Certificates::generate().unwrap().with_intermediate().unwrap();
    let files = Files::new(&right);
    let tls = json!({ "tls": { "ca_cert": files.path("ca.pem") } });
    let broker = Broker::setup().tls(&right).start().await.unwrap();
    let mut host = start(with(&broker.tls_url(), tls.clone()));
    host.ready().await.unwrap();

    // No broker can be set up so wrong, hence one that speaks TLS and no more.
    let mut chain: Vec<_> =
        CertificateDer::pem_slice_iter(right.server.as_bytes()).map(Result::unwrap).collect();
    chain.reverse();
    let key = PrivateKeyDer::from_pem_slice(right.server_key.as_bytes()).unwrap();
    let key = ring::default_provider().key_provider.load_private_key(key).unwrap();
    let certified = Arc::new(CertifiedKey::new(chain, key));
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let scripted = Scripted::listen().await.unwrap();
    let host = start(with(&scripted.url(), tls));
    let stream = scripted.stream().await.unwrap();
    TlsAcceptor::from(Arc::new(server)).accept(stream).await.unwrap_err();
    host.not_ready("the first certificate that the server sends is that of an authority").await.unwrap();
}

/// TLS 1.1 and older are not safe (RFC 8996): said by a server of the time, and by one that is careful.
#[tokio::test(flavor = "multi_thread")]
async fn key_tls_names_a_server_that_is_too_old() {
    let tls = json!({ "tls": { "insecure_skip_verify": true } });
    // ServerHello (RFC 4346 section 7.4.1.3): version 3.2, which is TLS 1.1; a random; no session; TLS_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 0x2f, 0]);
    let hello = [&[22, 3, 2, 0, hello.len() as u8][..], &hello].concat();
    // A fatal alert, protocol_version.
    let alert = vec![21, 3, 1, 0, 2, 2, 70];
    for answer in [hello, alert] {
        let broker = Scripted::listen().await.unwrap();
        let host = start(with(&broker.url(), tls.clone()));
        let mut stream = broker.stream().await.unwrap();
        stream.write_all(&answer).await.unwrap();
        let reason = host.not_ready("the server speaks no TLS that is safe (").await.unwrap();
        assert!(reason.contains("; turn on TLS 1.2 or 1.3 there"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_tls_insecure_skip_verify() {
    const WARNING: &str = "any server is taken for the MQTT broker";
    let certificates = Certificates::generate().unwrap();
    let expired = certificates.with_server(|server| server.not_after = date_time_ymd(2020, 2, 29)).unwrap();
    let broker = Broker::setup().tls(&expired).start().await.unwrap();
    let mut host = start(with(&broker.tls_url(), json!({ "tls": { "insecure_skip_verify": true } })));
    for starts in 1..=2 {
        host.ready().await.unwrap();
        assert_eq!(host.log().matches(WARNING).count(), starts);
        assert_eq!(host.terminate().await.unwrap().code(), Some(0));
        host.restart().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_tls_server_name() {
    let certificates = Certificates::generate().unwrap();
    let named = certificates
        .with_server(|server| {
            server.subject_alt_names = vec![rcgen::SanType::DnsName("broker.example".try_into().unwrap())];
        })
        .unwrap();
    let files = Files::new(&certificates);
    let broker = Broker::setup().tls(&named).start().await.unwrap();
    let tls = json!({ "ca_cert": files.path("ca.pem"), "server_name": "broker.example" });
    let mut host = start(with(&broker.tls_url(), json!({ "tls": tls })));
    host.ready().await.unwrap();

    // It is also what the server is asked for.
    assert_eq!(hello(json!({ "server_name": "broker.example" })).await.0.as_deref(), Some("broker.example"));
    assert_eq!(hello(json!({})).await.0, None, "an address is no server name (RFC 6066 section 3)");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_tls_alpn() {
    assert_eq!(hello(json!({ "alpn": ["mqtt", "x-amzn-mqtt-ca"] })).await.1, ["mqtt", "x-amzn-mqtt-ca"]);
    assert_eq!(hello(json!({})).await.1, [""; 0]);
}

/// Server name and ALPN protocols of a ClientHello.
async fn hello(mut tls: Value) -> (Option<String>, Vec<String>) {
    tls["insecure_skip_verify"] = true.into();
    let broker = Scripted::listen().await.unwrap();
    let _host = start(with(&broker.url(), json!({ "tls": tls })));
    let stream = broker.stream().await.unwrap();
    let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await.unwrap();
    let hello = started.client_hello();
    let alpn = hello.alpn().into_iter().flatten();
    let alpn = alpn.map(|protocol| String::from_utf8(protocol.to_vec()).unwrap()).collect();
    (hello.server_name().map(str::to_owned), alpn)
}
