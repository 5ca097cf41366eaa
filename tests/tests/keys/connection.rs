//! Where and how to connect.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::certs::Certificates;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::net::free_port;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::{TIMEOUT, lines, start, start_many, with};

#[tokio::test(flavor = "multi_thread")]
async fn key_broker_url() {
    let certificates = Certificates::generate().unwrap();
    let broker = Broker::setup().tls(&certificates).websockets().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &certificates.ca).unwrap();
    let plain = broker.url().replace("mqtt://", "");
    let (tls, ws, wss) = (broker.tls_url().replace("mqtts://", ""), broker.ws_url(), broker.wss_url());
    let urls = [
        plain.clone(),
        format!("mqtt://{plain}"),
        format!("tcp://{plain}/"),
        format!("mqtts://{tls}"),
        format!("ssl://{tls}"),
        format!("TLS://{tls}"),
        ws.clone(),
        format!("{ws}/mqtt"),
        wss.clone(),
        format!("{wss}/some/path"),
        // A `tls` section turns TLS on whatever the scheme.
        wss.replace("wss://", "ws://"),
    ];
    let mut host = start_many(urls.iter().enumerate().map(|(index, url)| {
        let mut keys = json!({ "client_id": format!("c{index:02}") });
        if !url.contains(&plain) && !url.starts_with(&ws) {
            keys["tls"] = json!({ "ca_cert": ca });
        }
        with(url, keys)
    }));
    host.ready().await.unwrap();
    let payload = "x".repeat(100_000);
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("a/1", payload.clone())]).await.unwrap();
    let mut found = lines(&host, urls.len()).await;
    found.sort();
    let expected: Vec<_> =
        (0..urls.len()).map(|index| Line::new(&format!("to-{index:02}"), "a/1", &payload)).collect();
    assert!(found == expected, "not exactly one record for each of {urls:?}");
    // All clients say goodbye, also through a WebSocket.
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    let said_goodbye = async || {
        let log = broker.logs().await.unwrap();
        (0..urls.len()).all(|index| log.contains(&format!("Client c{index:02} disconnected.")))
    };
    wait_for("the broker has a DISCONNECT of each client", TIMEOUT, said_goodbye).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_broker_url_with_an_ipv6_literal() {
    let broker = Scripted::listen_on(Ipv6Addr::LOCALHOST.into()).await.unwrap();
    assert!(broker.url().starts_with("mqtt://[::1]:"));
    let mut host = start(with(&broker.url(), json!({})));
    let _session = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_mqtt_version() {
    const LEVEL_4: [&str; 4] = ["3.1.1", "v3.1.1", "v4", "4"];
    const LEVEL_5: [&str; 4] = ["5.0", "5", "v5", "v5.0"];
    let broker = Scripted::listen().await.unwrap();
    let mut spellings = vec![json!(null), json!(4), json!(5), json!(5.0)];
    spellings.extend(LEVEL_4.iter().chain(&LEVEL_5).map(|text| json!(text)));
    let host = start_many(spellings.iter().enumerate().map(|(index, spelling)| {
        let mut source = with(&broker.url(), json!({ "client_id": format!("c{index:02}") }));
        if !spelling.is_null() {
            source["config"]["mqtt_version"] = spelling.clone();
        }
        source
    }));
    let mut levels = BTreeMap::new();
    let mut open = Vec::new();
    for _ in &spellings {
        let mut stream = broker.stream().await.unwrap();
        // CONNECT: type, length, "MQTT" with its length, level (3.1.1 and 5.0, section 3.1.2.2).
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[2..8], *b"\0\x04MQTT");
        let mut rest = vec![0; usize::from(head[1]) - 7];
        stream.read_exact(&mut rest).await.unwrap();
        let id = rest.windows(3).find(|id| id[0] == b'c' && id[1].is_ascii_digit()).unwrap();
        levels.insert(String::from_utf8(id.to_vec()).unwrap(), head[8]);
        open.push(stream);
    }
    let expected: BTreeMap<String, u8> = spellings
        .iter()
        .enumerate()
        .map(|(index, spelling)| {
            let five = spelling.as_f64() == Some(5.0) || LEVEL_5.iter().any(|text| spelling == text);
            (format!("c{index:02}"), if five { 5 } else { 4 })
        })
        .collect();
    assert_eq!(levels, expected, "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn key_keep_alive_secs() {
    let broker = Scripted::listen().await.unwrap();
    // Nobody answers there: the sink is stalled.
    let rivven = Rivven::reserve().unwrap();
    let source = with(&broker.url(), json!({ "keep_alive_secs": 5, "max_inflight": 10 }));
    let config = rivven_integration_tests::config::with_source(&rivven, source);
    let host = rivven_integration_tests::host::Host::start(&config).unwrap();
    let (mut session, connect, _) = broker.accept_fresh().await.unwrap();
    assert_eq!(connect.keep_alive, 5);
    session.publish_many(QoS::AtLeastOnce, 50, "a/1", b"x").await.unwrap();
    host.wait_for_ledger("the window is full", TIMEOUT, |ledger| ledger.in_flight == 10).await.unwrap();
    // The broker may leave after one and a half times the interval (3.1.1 section 3.1.2.10).
    for _ in 0..2 {
        let before = Instant::now();
        session.ping(Duration::from_millis(7_500)).await.unwrap();
        assert!(before.elapsed() > Duration::from_secs(2), "{:?}", before.elapsed());
    }
    assert_eq!(host.ledger().await.unwrap().received, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_connect_timeout_secs() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(with(&broker.url(), json!({ "connect_timeout_secs": 1 })));
    let (mut silent, _) = broker.accept().await.unwrap();
    let reason = host.not_ready("did not answer within 1000 ms").await.unwrap();
    assert!(reason.contains("waiting for CONNACK"), "{reason}");
    silent.closed().await.unwrap();
    let (_session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn key_connect_timeout_secs_of_each_handshake() {
    let broker = Scripted::listen().await.unwrap();
    let address = broker.address();
    for (url, waiting_for) in [
        (format!("mqtts://{address}"), "TCP and TLS"),
        (format!("ws://{address}"), "TCP and WebSocket"),
        (format!("wss://{address}"), "TCP, TLS and WebSocket"),
    ] {
        let tls = json!({ "insecure_skip_verify": true });
        let mut keys = json!({ "connect_timeout_secs": 1 });
        if !url.starts_with("ws:") {
            keys["tls"] = tls;
        }
        let host = start(with(&url, keys));
        let _silent = broker.stream().await.unwrap();
        host.not_ready(&format!("still waiting for {waiting_for}")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_broker_url_of_what_is_no_broker() {
    let closed = free_port().unwrap();
    let host = start(with(&format!("mqtt://127.0.0.1:{closed}"), json!({})));
    host.not_ready(&format!("cannot connect to the MQTT broker at 127.0.0.1:{closed}: Connection refused"))
        .await
        .unwrap();

    // A WebSocket where there is none, and the other way round.
    let broker = Broker::setup().websockets().start().await.unwrap();
    let host = start(with(&broker.url().replace("mqtt://", "ws://"), json!({})));
    host.not_ready("are this the port of its WebSocket listener and `/mqtt` its path?").await.unwrap();
}
