//! Who we are, and what is said of us when we are gone.

use rivven_integration_tests::broker::{Broker, PASSWORD, USERNAME};
use rivven_integration_tests::client::Client;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;
use rivven_integration_tests::wait::wait_for;
use rumqttc::{LastWill, Login, QoS};
use serde_json::json;

use crate::{TIMEOUT, logged, start, with};

#[tokio::test(flavor = "multi_thread")]
async fn key_auth() {
    let broker = Broker::setup().password().start().await.unwrap();
    let auth = json!({ "username": USERNAME, "password": PASSWORD });
    let mut host = start(with(&broker.url(), json!({ "auth": auth })));
    host.ready().await.unwrap();

    // A wrong password is named, and tried again ever more slowly.
    let auth = json!({ "username": USERNAME, "password": "battery staple" });
    let host =
        start(with(&broker.url(), json!({ "auth": auth, "retry_initial_ms": 40, "retry_max_ms": 100_000 })));
    let reason = host.not_ready("the MQTT broker refused the login").await.unwrap();
    assert!(reason.contains("(code 0x0"), "{reason}");
    let attempts = async || logged(&host, "failed_attempts").len() >= 5;
    wait_for("five attempts", TIMEOUT, attempts).await.unwrap();
    assert_eq!(logged(&host, "failed_attempts")[..5], [1, 2, 3, 4, 5]);
    let secrets = [
        reason,
        host.log(),
        host.get("/metrics").await.unwrap().body,
        host.get("/status").await.unwrap().body,
    ];
    assert!(secrets.iter().all(|text| !text.contains("battery staple")));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_auth_with_a_user_name_alone() {
    let broker = Scripted::listen().await.unwrap();
    let _host = start(with(&broker.url(), json!({ "auth": { "username": "me" } })));
    let (_session, connect) = broker.accept().await.unwrap();
    assert_eq!(connect.login, Some(Login::new("me", "")));
}

/// Only 5.0 allows it (3.1.1 section 3.1.2.9, 5.0 section 3.1.2.9).
#[tokio::test(flavor = "multi_thread")]
async fn key_auth_with_a_password_alone() {
    let broker = Scripted::listen().await.unwrap();
    let _host = start(with(&broker.url(), json!({ "auth": { "password": "token" }, "mqtt_version": "5.0" })));
    let (_session, opening) = Session5::accept(&broker).await.unwrap();
    let login = opening.login.unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("", "token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_client_id() {
    let broker = Scripted::listen().await.unwrap();
    let _host = start(with(&broker.url(), json!({ "client_id": "me" })));
    let (_session, connect) = broker.accept().await.unwrap();
    assert_eq!(connect.client_id, "me");

    let mut generated = Vec::new();
    for _ in 0..2 {
        let _host = start(with(&broker.url(), json!({})));
        let (_session, connect) = broker.accept().await.unwrap();
        let digits = connect.client_id.strip_prefix("rivven-mqtt-").unwrap().to_owned();
        assert!(
            digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "{digits}"
        );
        generated.push(digits);
    }
    assert_ne!(generated[0], generated[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_last_will() {
    let broker = Scripted::listen().await.unwrap();
    let everything = json!({ "topic": "wills/me", "payload": "gone", "qos": "exactly_once", "retain": true });
    // `message` is what the existing connector calls the payload.
    let defaults = json!({ "topic": "wills/me", "message": "gone" });
    for (will, qos, retain) in [(everything, QoS::ExactlyOnce, true), (defaults, QoS::AtLeastOnce, false)] {
        let _host = start(with(&broker.url(), json!({ "last_will": will })));
        let (_session, connect) = broker.accept().await.unwrap();
        assert_eq!(connect.last_will, Some(LastWill::new("wills/me", "gone", qos, retain)));
        let _host = start(with(&broker.url(), json!({ "last_will": will, "mqtt_version": 5 })));
        let (_session, opening) = Session5::accept(&broker).await.unwrap();
        let will = opening.will.unwrap();
        assert_eq!((&will.topic[..], &will.message[..]), (&b"wills/me"[..], &b"gone"[..]));
        assert_eq!((will.qos as u8, will.retain), (qos as u8, retain));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_last_will_fires_when_the_host_is_killed_and_not_when_it_is_stopped() {
    let broker = Broker::launch().await.unwrap();
    let mut witness = Client::connect(broker.port(), "witness").await.unwrap();
    witness.subscribe("wills", QoS::AtLeastOnce).await.unwrap();
    let source =
        with(&broker.url(), json!({ "last_will": { "topic": "wills", "payload": "died", "retain": true } }));
    let mut host = start(source);
    host.ready().await.unwrap();
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    // Had the will fired, it would come before this.
    let mut other = Client::connect(broker.port(), "other").await.unwrap();
    other
        .publish(QoS::AtLeastOnce, [rivven_integration_tests::client::Message::new("wills", "nobody died")])
        .await
        .unwrap();
    assert_eq!(witness.message(TIMEOUT).await.unwrap().payload, "nobody died");

    host.restart().unwrap();
    host.ready().await.unwrap();
    host.kill().await.unwrap();
    assert_eq!(witness.message(TIMEOUT).await.unwrap().payload, "died");
}
