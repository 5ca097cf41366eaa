//! Defaults, and URLs that are none.

use std::time::Duration;

use rivven_integration_tests::net::free_port;
use rivven_integration_tests::scripted::Scripted;
use rivven_mqtt::config::{BrokerUrl, Retained, Retry, Version};
use rivven_mqtt::{MqttError, MqttSource, MqttSourceConfig, QoS};
use rumqttc::{Protocol, QoS as Wire};

use crate::support::{TIMEOUT, config, end, source};

fn is_generated(client_id: &str) -> bool {
    let digits = client_id.strip_prefix("rivven-mqtt-").unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub async fn config_defaults() {
    let built = MqttSourceConfig::new("mqtt://broker.example", ["sensors/#"]).unwrap();
    let read =
        MqttSourceConfig::from_yaml("broker_url: mqtt://broker.example\ntopics: ['sensors/#']\n").unwrap();
    let parsed: MqttSourceConfig =
        serde_json::from_str(r#"{"broker_url": "mqtt://broker.example", "topics": ["sensors/#"]}"#).unwrap();
    assert_ne!(built.client_id, read.client_id, "two clients with one id would throw each other out");
    for config in [built, read, parsed] {
        // Every field, so that none is forgotten here.
        let MqttSourceConfig {
            url,
            topics,
            client_id,
            qos,
            clean_session,
            session_expiry_secs,
            retained,
            auth,
            tls,
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
        } = config;
        assert_eq!(url, BrokerUrl { host: "broker.example".into(), port: 1883, websocket: None });
        assert_eq!(topics, ["sensors/#"]);
        assert!(is_generated(&client_id), "{client_id}");
        assert_eq!((qos, clean_session, version), (QoS::AtLeastOnce, true, Version::V4));
        assert_eq!((session_expiry_secs, retained), (u32::MAX, Retained::All));
        assert!(auth.is_none() && tls.is_none() && last_will.is_none());
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(10));
        assert_eq!(retry, Retry { initial, max, multiplier: 2.0, max_attempts: 0 });
        assert_eq!(empty_poll_delay, Duration::from_millis(50));
        assert_eq!((keep_alive, connect_timeout), (Duration::from_secs(60), Duration::from_secs(30)));
        assert_eq!((max_inflight, max_inflight_bytes), (1_000, 64 << 20));
        assert_eq!((max_packet_size, max_batch), (256 << 10, 2_048));
        assert!(parse_json_payload && include_metadata);
    }
    // Ports by scheme.
    for (url, port, tls) in [
        ("broker.example", 1883, false),
        ("tcp://broker.example", 1883, false),
        ("mqtts://broker.example", 8883, true),
        ("ssl://broker.example", 8883, true),
        ("tls://[::1]", 8883, true),
    ] {
        let config = MqttSourceConfig::new(url, ["a"]).unwrap();
        assert_eq!((config.url.port, config.tls.is_some()), (port, tls), "{url}");
    }

    // The same on the wire.
    let broker = Scripted::listen().await.unwrap();
    let source = MqttSource::new(MqttSourceConfig::new(broker.url(), ["sensors/#"]).unwrap()).unwrap();
    let script = async {
        let (mut session, connect, subscribe) = broker.accept_fresh().await.unwrap();
        assert!(is_generated(&connect.client_id), "{}", connect.client_id);
        assert_eq!((connect.protocol, connect.keep_alive, connect.clean_session), (Protocol::V4, 60, true));
        assert!(connect.last_will.is_none() && connect.login.is_none());
        let filters: Vec<_> =
            subscribe.filters.iter().map(|filter| (filter.path.as_str(), filter.qos)).collect();
        assert_eq!(filters, [("sensors/#", Wire::AtLeastOnce)]);
        session.publish(Wire::AtLeastOnce, 1, "sensors/a", b"21.50").await.unwrap();
        session
    };
    let (mut session, event) = tokio::join!(script, crate::support::read(&source));
    let json: serde_json::Value = serde_json::from_str(&event.to_json()).unwrap();
    assert_eq!(json["payload"], 21.5, "JSON is embedded");
    assert_eq!(json["metadata"]["client_id"], source.config().client_id.as_str());
    source.shutdown();
    assert!(source.read().await.unwrap().is_none());
    session.puback(1).await.unwrap();
    session.disconnect().await.unwrap();
    drop(session);
    end(source).await;
}

pub async fn invalid_broker_url() {
    let credentials = "holds a user name or a password (put them under `auth`, as username and password)";
    let port = "has an illegal port (expected 1 to 65535)";
    let host = "has a host that is neither a DNS name nor an address";
    let missing = "has no host (expected HOST:PORT)";
    let colons = "has more than one colon (expected HOST:PORT; an IPv6 address needs brackets: [::1]:1883)";
    let path = "has a path or a query (expected SCHEME://HOST:PORT)";
    let cases = [
        ("", missing),
        ("mqtt://", missing),
        ("mqtt://:1883", missing),
        ("mqtt://user:hunter2@broker", credentials),
        ("hunter2@broker", credentials),
        ("mqtt://broker:0", port),
        ("mqtt://broker:65536", port),
        ("mqtt://broker:", port),
        ("mqtt://broker:mqtt", port),
        ("mqtt://bro ker", host),
        ("mqtt://brök.er", host),
        ("mqtt://::1", colons),
        ("broker:1883:1884", colons),
        ("mqtt://[::1", "has `[` without `]`"),
        ("mqtt://[broker]", "has no IPv6 address in its brackets"),
        ("mqtt://[::1]1883", "has text after `]` (expected :PORT)"),
        ("mqtt://broker/topic", path),
        ("mqtt://broker?x=1", path),
    ];
    for (url, expected) in cases {
        let error = MqttSourceConfig::new(url, ["sensors/#"]).unwrap_err();
        assert!(matches!(error, MqttError::Config { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("broker_url: {expected}"), "{url}");
        assert!(!format!("{error:?}").contains("hunter2"));
        let text = format!("topics: [sensors/#]\nbroker_url: '{url}'\n");
        let error = MqttSourceConfig::from_yaml(&text).unwrap_err();
        assert_eq!(error.to_string(), format!("2:13: broker_url: {expected}"));
    }
    for (url, hint) in
        [("http://broker", None), ("mqt://broker", Some("mqtt")), ("mqttss://broker", Some("mqtts"))]
    {
        let error = MqttSourceConfig::new(url, ["sensors/#"]).unwrap_err().to_string();
        assert!(
            error.starts_with("broker_url: has an unknown scheme (expected mqtt, tcp, mqtts, ssl"),
            "{error}"
        );
        let hint = hint.map(|scheme| format!("; did you mean {scheme}?)"));
        assert_eq!(error.contains("did you mean"), hint.is_some(), "{error}");
        assert!(hint.is_none_or(|hint| error.ends_with(&hint)), "{error}");
    }

    // An address that is right and where nobody answers.
    let mut dead = config(format!("mqtt://127.0.0.1:{}", free_port().unwrap()), &["sensors/#"]);
    dead.retry.max_attempts = 2;
    let cause = format!("cannot connect to the MQTT broker at {}", dead.url);
    let source = source(dead);
    let report = source.check().await;
    let reason = report.step("broker_connectivity").unwrap().reason.as_deref().unwrap();
    assert_eq!(reason, format!("{cause}: Connection refused (os error 111)"));
    let error = tokio::time::timeout(TIMEOUT, source.read()).await.unwrap().unwrap_err();
    let MqttError::GaveUp { attempts: 2, source: last } = error else { panic!("{error:?}") };
    assert_eq!(last.to_string(), cause);
    let counts = source.metrics().snapshot();
    assert_eq!((counts.errors, counts.connections), (2, 0));
    end(source).await;
}
