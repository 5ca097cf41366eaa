//! Reading an MQTT client: every key of `sources.NAME.config`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::read::Section;
use super::{Credentials, LastWill, Mqtt, Retained, Retry, Secret, Tls, Version, url};
use crate::message::QoS;
use crate::mqtt::{validate_filter, validate_topic_name};

/// Text of MQTT is at most this long, in bytes (MQTT 3.1.1 section 1.5.3).
const MAX_TEXT: usize = 65_535;
/// No certificate or key file is greater, in bytes.
const MAX_PEM: u64 = 16 << 20;

/// The client in `section`; `None` has left a problem.
pub(super) fn read_mqtt(section: &Section<'_>) -> Option<Mqtt> {
    let version = if section.choice("mqtt_version") == "5.0" { Version::V5 } else { Version::V4 };
    let clean_session = section.flag("clean_session");
    let auth = section.section("auth");
    let tls = read_client_tls(section, auth.as_ref());
    let url = section.parsed("broker_url", |text| url::parse(text, tls.is_some()));
    let topics = read_topics(section);
    let client_id = read_client_id(section, clean_session);
    let session_expiry_secs = read_session_expiry(section, version, clean_session);
    let auth = auth.and_then(|auth| read_auth(&auth, version));
    let last_will = section.section("last_will").map(|will| read_last_will(&will));
    let retry = read_retry(section);
    let max_inflight_bytes = section.size("max_inflight_bytes", 1);
    let max_packet_size = section.size("max_packet_size", 1);
    if max_packet_size > max_inflight_bytes {
        let what =
            format!("is greater than max_inflight_bytes, {max_inflight_bytes} (expected at most that)");
        section.problem("max_packet_size", what);
    }
    let (qos, retained) = (read_qos(section), read_retained(section));
    let empty_poll_delay = Duration::from_millis(section.integer("empty_poll_delay_ms"));
    let keep_alive = Duration::from_secs(section.integer("keep_alive_secs"));
    let connect_timeout = Duration::from_secs(section.integer("connect_timeout_secs"));
    let max_inflight = section.size("max_inflight", 1);
    let max_batch = section.size("max_batch", 1);
    let (parse_json_payload, include_metadata) =
        (section.flag("parse_json_payload"), section.flag("include_metadata"));
    let (url, tls_by_scheme) = url?;
    let last_will = match last_will {
        Some(will) => Some(will?),
        None => None,
    };
    Some(Mqtt {
        url,
        topics,
        client_id: client_id?,
        qos,
        clean_session,
        session_expiry_secs,
        retained,
        auth,
        tls: tls.or_else(|| tls_by_scheme.then(Tls::default)),
        last_will,
        retry,
        empty_poll_delay,
        keep_alive,
        connect_timeout,
        version,
        max_inflight,
        max_inflight_bytes,
        max_packet_size,
        max_batch,
        parse_json_payload,
        include_metadata,
    })
}

fn read_qos(section: &Section<'_>) -> QoS {
    match section.choice("qos") {
        "at_most_once" => QoS::AtMostOnce,
        "exactly_once" => QoS::ExactlyOnce,
        _ => QoS::AtLeastOnce,
    }
}

fn read_retained(section: &Section<'_>) -> Retained {
    match section.choice("retained") {
        "new_only" => Retained::NewOnly,
        "skip" => Retained::Skip,
        _ => Retained::All,
    }
}

fn read_topics(section: &Section<'_>) -> Vec<String> {
    let mut topics = Vec::new();
    let mut seen = HashMap::new();
    for (field, filter) in section.texts("topics") {
        if let Err(what) = validate_filter(filter) {
            field.problem(format!("is {}, which is no topic filter: {what}", field.node.describe()));
        } else if let Some(line) = seen.insert(filter, field.node.at.line) {
            let which =
                if line > 0 { format!("the filter of line {line} again") } else { "there twice".into() };
            field.problem(format!("is {which} (expected each filter once)"));
        } else {
            topics.push(filter.to_owned());
        }
    }
    topics
}

fn read_client_id(section: &Section<'_>, clean_session: bool) -> Option<String> {
    if !section.has("client_id") {
        if !clean_session {
            let what = "is missing (expected a client id of its own, because clean_session is false: the session belongs to it)";
            section.missing("client_id", what);
        }
        return Some(format!("rivven-mqtt-{:08x}", fastrand::u32(..)));
    }
    section.parsed("client_id", |text| match check_text(text) {
        Ok(()) if text.is_empty() => {
            Err("is empty (expected a client id, or no such key for a generated one)".into())
        }
        Ok(()) => Ok(text.to_owned()),
        Err(what) => Err(what),
    })
}

/// What may be in a string of MQTT (3.1.1 section 1.5.3).
fn check_text(text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT {
        Err(format!("has {} bytes (expected at most {MAX_TEXT})", text.len()))
    } else if text.contains(char::is_control) {
        Err("has a control character (expected none)".into())
    } else {
        Ok(())
    }
}

fn read_session_expiry(section: &Section<'_>, version: Version, clean_session: bool) -> u32 {
    let seconds = section.integer("session_expiry_secs");
    if section.has("session_expiry_secs") {
        if version != Version::V5 {
            section.problem(
                "session_expiry_secs",
                "has no effect on MQTT 3.1.1 (expected `mqtt_version: 5.0`, or no such key)",
            );
        } else if clean_session {
            section.problem(
                "session_expiry_secs",
                "has no effect with a clean session (expected `clean_session: false`, or no such key)",
            );
        }
    }
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn read_auth(section: &Section<'_>, version: Version) -> Option<Credentials> {
    let limited = |name| section.parsed(name, |text| check_text(text).map(|()| text.to_owned()));
    let credentials =
        Credentials { username: limited("username"), password: limited("password").map(Secret::new) };
    if section.has("password") && !section.has("username") && version == Version::V4 {
        // MQTT 3.1.1 section 3.1.2.9: without a user name there must be no password.
        section.problem("password", "is alone, which only MQTT 5.0 allows (expected username too)");
    }
    (credentials.username.is_some() || credentials.password.is_some()).then_some(credentials)
}

fn read_last_will(section: &Section<'_>) -> Option<LastWill> {
    let topic = section.parsed("topic", |text| validate_topic_name(text).map(|()| text.to_owned()));
    let payload = section.parsed("payload", |text| match text.len() {
        // MQTT 3.1.1 section 3.1.3.3: the length is a 16-bit integer.
        0..=MAX_TEXT => Ok(text.as_bytes().to_vec()),
        length => Err(format!("has {length} bytes (expected at most {MAX_TEXT})")),
    });
    let (qos, retain) = (read_qos(section), section.flag("retain"));
    Some(LastWill { topic: topic?, payload: payload?, qos, retain })
}

fn read_retry(section: &Section<'_>) -> Retry {
    let (initial, max) = (section.integer("retry_initial_ms"), section.integer("retry_max_ms"));
    if max < initial {
        section.problem(
            "retry_max_ms",
            format!("is below retry_initial_ms, {initial} (expected at least that)"),
        );
    }
    Retry {
        initial: Duration::from_millis(initial),
        max: Duration::from_millis(max),
        multiplier: section.number("retry_multiplier"),
        max_attempts: u32::try_from(section.integer("max_reconnect_attempts")).unwrap_or(u32::MAX),
    }
}

/// TLS of the client, from `tls` and from the keys of it that the existing connector has under `auth`.
fn read_client_tls(section: &Section<'_>, auth: Option<&Section<'_>>) -> Option<Tls> {
    let block = section.section("tls").map(|tls| read_tls(&tls));
    let names = ["ca_cert", "client_cert", "client_key"];
    let Some(auth) = auth.filter(|auth| names.iter().any(|name| auth.has(name))) else {
        return block;
    };
    if section.has("tls") {
        for name in names.iter().filter(|name| auth.has(name)) {
            auth.problem(name, "stands beside a `tls` section (expected it there, not here)");
        }
        return block;
    }
    let (ca_cert, client_cert, client_key) = read_files(auth);
    Some(Tls { ca_cert, client_cert, client_key, ..Tls::default() })
}

/// The `tls` section of the client or of Rivven.
pub(super) fn read_tls(section: &Section<'_>) -> Tls {
    let (ca_cert, client_cert, client_key) = read_files(section);
    let server_name = section.has("server_name").then(|| {
        section.parsed("server_name", |text| match ServerName::try_from(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!("is `{text}` (expected a DNS name or an address)")),
        })
    });
    let mut alpn = Vec::new();
    if section.has("alpn") {
        for (field, protocol) in section.texts("alpn") {
            match protocol.len() {
                1..=255 => alpn.push(protocol.to_owned()),
                length => field.problem(format!("has {length} bytes (expected 1 to 255)")),
            }
        }
    }
    let insecure_skip_verify = section.flag("insecure_skip_verify");
    if insecure_skip_verify && section.has("ca_cert") {
        section.problem("insecure_skip_verify", "makes ca_cert useless (expected one of the two)");
    }
    Tls { ca_cert, client_cert, client_key, server_name: server_name.flatten(), alpn, insecure_skip_verify }
}

fn read_files(section: &Section<'_>) -> (Option<PathBuf>, Option<PathBuf>, Option<PathBuf>) {
    let certificates = |pem: &[u8]| {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            certificate.map_err(|error| format!("is no PEM file of certificates: {error}"))?;
            found += 1;
        }
        if found > 0 {
            Ok(())
        } else {
            Err("holds no certificate (expected a PEM file with `BEGIN CERTIFICATE`)".into())
        }
    };
    let key = |pem: &[u8]| match PrivateKeyDer::from_pem_slice(pem) {
        Ok(_) => Ok(()),
        Err(rustls_pki_types::pem::Error::NoItemsFound) => {
            Err("holds no key (expected a PEM file with a PKCS#8, PKCS#1 or SEC1 key that is not encrypted)"
                .into())
        }
        // What is wrong with a key is not shown with its bytes.
        Err(_) => Err("is no PEM file of a key (expected PKCS#8, PKCS#1 or SEC1)".into()),
    };
    let files = (
        read_file(section, "ca_cert", certificates),
        read_file(section, "client_cert", certificates),
        read_file(section, "client_key", key),
    );
    for (one, other) in [("client_cert", "client_key"), ("client_key", "client_cert")] {
        if section.has(one) && !section.has(other) {
            section.problem(one, format!("is there without {other} (expected both or none)"));
        }
    }
    files
}

fn read_file(
    section: &Section<'_>,
    name: &str,
    check: impl Fn(&[u8]) -> Result<(), String>,
) -> Option<PathBuf> {
    let (field, path) = section.path(name)?;
    let pem = match (section.context.world.read)(&path, MAX_PEM) {
        Ok(pem) => pem,
        Err(error) => {
            field.problem(format!("cannot be read: {}: {error}", path.display()));
            return None;
        }
    };
    match check(&pem) {
        Ok(()) => Some(path),
        Err(what) => {
            field.problem(format!("{}: {what}", path.display()));
            None
        }
    }
}
