//! Certificates of one test: an authority, a server certificate for `localhost`, and client certificates.

use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

/// For what needs an RSA key.
const RSA_KEY: &str = include_str!("rsa_key_for_tests.pem");

/// PEM texts.
#[derive(Clone)]
pub struct Certificates {
    /// The authority's certificate: what a client has to trust.
    pub ca: String,
    /// The server's certificate, for `localhost` and 127.0.0.1.
    pub server: String,
    /// Its key.
    pub server_key: String,
    /// A client's certificate, with the common name `fleet`.
    pub client: String,
    /// Its key, of an elliptic curve, as PKCS#8.
    pub client_key: String,
    authority: Arc<CertifiedIssuer<'static, KeyPair>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl Certificates {
    /// Fresh ones.
    pub fn generate() -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "rivven-mqtt test authority");
        let authority = Arc::new(CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?);
        let (server, server_key) = server(&authority, |_| {})?;
        let client_key = KeyPair::generate()?;
        let client = client(&authority, &client_key)?;
        let client_key = client_key.serialize_pem();
        Ok(Certificates { ca: authority.pem(), server, server_key, client, client_key, authority })
    }

    /// The same with another certificate of the server: expired, or for another host.
    pub fn with_server(&self, change: impl FnOnce(&mut CertificateParams)) -> Result<Self> {
        let (server, server_key) = server(&self.authority, change)?;
        Ok(Certificates { server, server_key, ..self.clone() })
    }

    /// The same with a server whose certificate is signed by an authority between, and what leads to the root: the PEM text has the
    /// server's certificate, then that authority's.
    pub fn with_intermediate(&self) -> Result<Self> {
        let mut between = CertificateParams::new(Vec::new())?;
        between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        between.distinguished_name.push(DnType::CommonName, "rivven-mqtt test authority between");
        let between = CertifiedIssuer::signed_by(between, KeyPair::generate()?, &self.authority)?;
        let (server, server_key) = server(&between, |_| {})?;
        Ok(Certificates { server: format!("{server}{}", between.pem()), server_key, ..self.clone() })
    }

    /// Another client, whose key is of RSA.
    pub fn with_rsa_client(&self) -> Result<Self> {
        let key = KeyPair::from_pem(RSA_KEY)?;
        let client = client(&self.authority, &key)?;
        Ok(Certificates { client, client_key: key.serialize_pem(), ..self.clone() })
    }
}

fn server(
    authority: &CertifiedIssuer<'static, KeyPair>,
    change: impl FnOnce(&mut CertificateParams),
) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    change(&mut server);
    Ok((server.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}

fn client(authority: &CertifiedIssuer<'static, KeyPair>, key: &KeyPair) -> Result<String> {
    let mut client = CertificateParams::new(Vec::new())?;
    client.distinguished_name.push(DnType::CommonName, "fleet");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(client.signed_by(key, authority)?.pem())
}

/// The key inside of a PKCS#8 key (RFC 5958), which is PKCS#1 or SEC1, as PEM with this label.
pub fn unwrap_key(pkcs8: &str, label: &str) -> Result<String> {
    let body = pkcs8.split_once("-----BEGIN PRIVATE KEY-----").context("no PKCS#8 key")?.1;
    let body = body.split_once("-----END").context("no end of the key")?.0;
    let der = STANDARD.decode(body.split_whitespace().collect::<String>())?;
    // SEQUENCE { version INTEGER, algorithm SEQUENCE, key OCTET STRING, .. }
    let (fields, _) = element(&der)?;
    let (_, after_version) = element(fields)?;
    let (_, after_algorithm) = element(after_version)?;
    let (key, _) = element(after_algorithm)?;
    let text = STANDARD.encode(key);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    Ok(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")))
}

/// The content of the first DER element, and what follows it.
fn element(der: &[u8]) -> Result<(&[u8], &[u8])> {
    let (_, rest) = der.split_first().context("no DER")?;
    let (&first, rest) = rest.split_first().context("no length")?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f)).context("a cut length")?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    rest.split_at_checked(length).context("a cut element")
}
