//! The address of an MQTT broker. What is wrong with one is said without showing it: it may hold a password.

use super::BrokerUrl;
use super::problem::nearest;

/// A scheme, whether it is TLS, whether it is a WebSocket, and its port.
type Scheme = (&'static str, bool, bool, u16);

const SCHEMES: [Scheme; 7] = [
    ("mqtt", false, false, 1883),
    ("tcp", false, false, 1883),
    ("mqtts", true, false, TLS_PORT),
    ("ssl", true, false, TLS_PORT),
    ("tls", true, false, TLS_PORT),
    ("ws", false, true, 80),
    ("wss", true, true, WSS_PORT),
];
const TLS_PORT: u16 = 8883;
const WSS_PORT: u16 = 443;
const EXPECTED: &str = "expected mqtt, tcp, mqtts, ssl, tls, ws or wss";

/// The path of a WebSocket whose URL has none: what EMQX, HiveMQ, VerneMQ and AWS listen on. Mosquitto takes any.
const DEFAULT_PATH: &str = "/mqtt";

/// Reads `[SCHEME://]HOST[:PORT]`, and `ws://HOST[:PORT][/PATH]`; the flag says whether the connection is by TLS, which a `tls:`
/// block (`with_tls`) turns on whatever the scheme. Without a port it is that of the scheme: 1883, or 8883 with TLS; 80 for a
/// WebSocket, or 443 with TLS. The path of a WebSocket is kept as it is, `/` included.
pub(super) fn parse(url: &str, with_tls: bool) -> Result<(BrokerUrl, bool), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("mqtt", url));
    if rest.contains('@') {
        return Err(
            "holds a user name or a password (put them under `auth`, as username and password)".into()
        );
    }
    let scheme = scheme.to_ascii_lowercase();
    let Some(&(_, tls, websocket, port)) = SCHEMES.iter().find(|(name, ..)| *name == scheme) else {
        let hint = nearest(&scheme, SCHEMES.map(|(name, ..)| name))
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        return Err(format!("has an unknown scheme ({EXPECTED}{hint})"));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = match (websocket, path) {
        (false, "" | "/") => None,
        (false, _) => return Err("has a path or a query (expected SCHEME://HOST:PORT)".into()),
        (true, "") => Some(DEFAULT_PATH.to_owned()),
        (true, path) if legal_path(path) => Some(path.to_owned()),
        (true, _) => {
            let wrong = "has a query, or a path with what must be percent-encoded";
            return Err(format!("{wrong} (expected {scheme}://HOST:PORT/PATH)"));
        }
    };
    let (host, given) = host_and_port(authority)?;
    let default = match (tls || with_tls, websocket) {
        (true, false) => TLS_PORT,
        (true, true) => WSS_PORT,
        (false, _) => port,
    };
    Ok((BrokerUrl { host, port: given.unwrap_or(default), websocket: path }, tls || with_tls))
}

/// RFC 3986, section 3.3.
fn legal_path(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b))
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
        for (url, with_tls, host, port, path, tls) in [
            ("ws://h", false, "h", 80, "/mqtt", false),
            ("wss://h", false, "h", 443, "/mqtt", true),
            ("WS://h", true, "h", 443, "/mqtt", true),
            ("ws://h:8080/", false, "h", 8080, "/", false),
            ("wss://h/a/b%20c/", false, "h", 443, "/a/b%20c/", true),
            ("ws://[::1]:9001/mqtt", true, "::1", 9001, "/mqtt", true),
        ] {
            let expected = BrokerUrl { host: host.into(), port, websocket: Some(path.into()) };
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
            "ws://hunter2:x/mqtt",
            "ws://h/mqtt?token=hunter2",
            "ws://h?token=hunter2",
            "ws://h/hunter2#",
            "ws://h/hunter 2",
            "ws://u:hunter2@h/mqtt",
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
