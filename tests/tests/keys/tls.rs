//! TLS: whom to trust, who we are, and what goes wrong.

use std::path::PathBuf;

use rcgen::date_time_ymd;
use rivven_integration_tests::broker::{Broker, Setup};
use rivven_integration_tests::certs::{Certificates, unwrap_key};
use rivven_integration_tests::scripted::Scripted;
use serde_json::{Value, json};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;

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
