//! The address of an MQTT broker. What is wrong with one is said without showing it: it may hold a password.

use super::BrokerUrl;
use super::problem::nearest;

const PLAIN_PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;
const SCHEMES: [&str; 5] = ["mqtt", "tcp", "mqtts", "ssl", "tls"];

/// Reads `[SCHEME://]HOST[:PORT]`; the flag says whether the connection is by TLS, which a `tls:` block (`with_tls`) turns on
/// whatever the scheme. Without a port it is 1883, or 8883 with TLS.
pub(super) fn parse(url: &str, with_tls: bool) -> Result<(BrokerUrl, bool), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("mqtt", url));
    if rest.contains('@') {
        return Err(
            "holds a user name or a password (put them under `auth`, as username and password)".into()
        );
    }
    let scheme = scheme.to_ascii_lowercase();
    let tls = match scheme.as_str() {
        "mqtt" | "tcp" => with_tls,
        "mqtts" | "ssl" | "tls" => true,
        "ws" | "wss" => {
            return Err(format!(
                "has the scheme {scheme}, but MQTT over WebSocket is not supported (expected mqtt, tcp, mqtts, ssl or tls)"
            ));
        }
        other => {
            let hint =
                nearest(other, SCHEMES).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            return Err(format!("has an unknown scheme (expected mqtt, tcp, mqtts, ssl or tls{hint})"));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("has a path or a query (expected SCHEME://HOST:PORT)".into());
    }
    let (host, port) = host_and_port(authority)?;
    let default = if tls { TLS_PORT } else { PLAIN_PORT };
    Ok((BrokerUrl { host, port: port.unwrap_or(default), websocket: None }, tls))
}

/// Reads `HOST[:PORT]`, where an IPv6 address is in brackets.
pub(super) fn host_and_port(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has `[` without `]`")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "has no IPv6 address in its brackets")?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("has text after `]` (expected :PORT)".into()),
        }
    } else {
        match authority.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err("has more than one colon (expected HOST:PORT; an IPv6 address needs brackets: [::1]:1883)".into());
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err("has no host (expected HOST:PORT)".into());
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.len() > 253 || !host.chars().all(legal) {
        return Err("has a host that is neither a DNS name nor an address".into());
    }
    let port = match port.map(str::parse) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("has an illegal port (expected 1 to 65535)".into()),
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, with_tls, host, port, tls) in [
            ("mqtt://h", false, "h", 1883, false),
            ("h", false, "h", 1883, false),
            ("h:1", false, "h", 1, false),
            ("tcp://broker.hivemq.com:1884/", false, "broker.hivemq.com", 1884, false),
            ("mqtts://h", false, "h", 8883, true),
            ("SSL://h", false, "h", 8883, true),
            ("tls://h:1", false, "h", 1, true),
            ("mqtt://h", true, "h", 8883, true),
            ("mqtt://h:1883", true, "h", 1883, true),
            ("mqtt://[::1]", false, "::1", 1883, false),
            ("mqtts://[fe80::1]:9", false, "fe80::1", 9, true),
            ("127.0.0.1:65535", false, "127.0.0.1", 65535, false),
        ] {
            let expected = BrokerUrl { host: host.into(), port, websocket: None };
            assert_eq!(parse(url, with_tls), Ok((expected, tls)), "{url}");
        }
    }

    #[test]
    fn wrong_addresses_are_not_shown() {
        for url in [
            "mqtt://u:hunter2@h",
            "mqtt://u:hun/ter2@h",
            "hunter2@h",
            "http://hunter2",
            "ws://hunter2",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://hunter2:0",
            "mqtt://hunter2:65536",
            "mqtt://hunter2:",
            "mqtt://::1",
            "mqtt://[hunter2]",
            "mqtt://[::1",
            "mqtt://[::1]hunter2",
            "mqtt://hunter2/path",
            "mqtt://hunter2 x",
        ] {
            let wrong = parse(url, false).unwrap_err();
            assert!(!wrong.contains("hunter2"), "{url}: {wrong}");
        }
    }
}
