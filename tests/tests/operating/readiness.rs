//! `/ready` is 503 in each state in which a source takes nothing or cannot write, and names it.

use nix::sys::signal::Signal;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::certs::Certificates;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config::{self, SOURCE};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::net::free_port;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rumqttc::QoS;
use serde_json::json;

use crate::{reaches, start, with};

/// `/ready` says no because of this, in a line of the part; the process is well all the same, and the metrics say no too.
async fn not_ready(host: &Host, part: &str, reason: &str) {
    let body = host.not_ready(reason).await.unwrap();
    let line = body.lines().find(|line| line.contains(reason)).unwrap();
    assert!(line.starts_with(&format!("{SOURCE}: {part}: ")), "{body}");
    assert_eq!(host.get("/health").await.unwrap().status, 200);
    reaches(host, "ready", "", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_and_no_answer() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(with(&broker.url(), json!({ "connect_timeout_secs": 3 })));
    let _silent = broker.stream().await.unwrap();
    not_ready(&host, "mqtt", "connecting").await;
    not_ready(&host, "mqtt", "did not answer within 3000 ms: still waiting for CONNACK").await;
    reaches(&host, "reconnects_total", "reason=\"timeout\"", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_refuses_or_has_a_wrong_certificate() {
    let down = start(with(&format!("mqtt://127.0.0.1:{}", free_port().unwrap()), json!({})));
    not_ready(&down, "mqtt", "Connection refused").await;

    let certificates = Certificates::generate().unwrap();
    let broker = Broker::setup().password().tls(&certificates).start().await.unwrap();
    let refused = start(with(&broker.url(), json!({ "auth": { "username": "fleet", "password": "wrong" } })));
    not_ready(&refused, "mqtt", "refused the login").await;

    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("ca.pem");
    std::fs::write(&other, Certificates::generate().unwrap().ca).unwrap();
    let url = broker.tls_url();
    let untrusted = start(with(&url, json!({ "tls": { "ca_cert": other } })));
    not_ready(&untrusted, "mqtt", "TLS handshake").await;
    let metrics = untrusted.metrics().await.unwrap();
    let count = crate::of_source(&metrics, "reconnects_total", "reason=\"tls\"");
    assert!(count >= Some(1.0), "{count:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rivven_that_is_down_or_refuses_and_a_full_disk() {
    let broker = Broker::launch().await.unwrap();
    let down = Rivven::reserve().unwrap();
    let host = Host::start(&config::with_source(&down, with(&broker.url(), json!({})))).unwrap();
    not_ready(&host, "sink", "Connection refused").await;

    let rivven = Rivven::launch().await.unwrap();
    let mut config = config::with_source(&rivven, with(&broker.url(), json!({})));
    config["broker"]["auth"] = json!({ "username": "me", "password": "wrong" });
    let host = Host::start(&config).unwrap();
    not_ready(&host, "sink", "uthentication").await;

    // Every write to it fails as one to a full disk does.
    let config = config::without_rivven(with(&broker.url(), json!({})));
    let mut host = Host::start_with(&config, &["--sink", "file:/dev/full"]).unwrap();
    host.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("a/1", "x")]).await.unwrap();
    not_ready(&host, "sink", "No space left on device").await;
    let metrics = host.metrics().await.unwrap();
    assert_eq!(metrics.0["rivven_mqtt_sink_failing"], 1.0);
    assert!(metrics.0["rivven_mqtt_sink_failures_total"] >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stopped_while_another_goes_on() {
    let broker = Broker::launch().await.unwrap();
    let mut source = with(&broker.url(), json!({}));
    config::plugin(&mut source, &guests::example("transform").unwrap(), json!({ "topic": "celsius" }));
    source["on_reject"] = "stop".into();
    let mut config = config::without_rivven(source);
    config["sources"]["other"] = config::source(&broker.url(), &["b/#"]);
    let mut host = Host::start_with(&config, &["--sink", "discard"]).unwrap();
    host.ready().await.unwrap();
    let messages = [Message::new("a/1", "no JSON"), Message::new("b/1", "whatever")];
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    not_ready(&host, "mqtt", &format!("source {SOURCE} stopped: ")).await;
    let ready = host.metrics().await.unwrap().0["rivven_mqtt_source_ready{source=\"other\"}"];
    assert_eq!(ready, 1.0);
    assert_eq!(host.terminate().await.unwrap().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_shuts_down() {
    let broker = Scripted::listen().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut host = Host::start(&config::with_source(&rivven, with(&broker.url(), json!({})))).unwrap();
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
    rivven.freeze().unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a/1", b"x").await.unwrap();
    reaches(&host, "messages_in_flight", "", 1.0).await;
    host.signal(Signal::SIGTERM).unwrap();
    not_ready(&host, "mqtt", "shutting down").await;
    rivven.thaw().unwrap();
    session.puback(1).await.unwrap();
    session.disconnect().await.unwrap();
    assert_eq!(host.ended().await.unwrap().code(), Some(0));
}
