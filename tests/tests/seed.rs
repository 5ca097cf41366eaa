//! The configuration of the existing connector's page runs as it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use rivven_integration_tests::broker::{Broker, PASSWORD};
use rivven_integration_tests::certs::Certificates;
use rivven_integration_tests::client::{Client, Message};
use rivven_integration_tests::host::Host;
use rivven_integration_tests::rivven::Rivven;
use rumqttc::QoS;
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(30);
/// The page's text, byte for byte.
const SEED: &str = include_str!("../../host/src/config/seed.yaml");

/// Replaces what is there once.
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_existing_connector_runs() {
    let certificates = Certificates::generate().unwrap();
    let broker = Broker::setup()
        .password()
        .tls(&certificates)
        .tls_line("require_certificate true")
        .start()
        .await
        .unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let address = broker.tls_url().replace("mqtts://", "mqtt://");
    let variables = [("MQTT_PASSWORD", PASSWORD), ("RIVVEN_BOOTSTRAP_SERVERS", &rivven.address())];
    let mut host = Host::start_verbatim(&variables, |folder| {
        let mut text = replace(SEED, "mqtt://broker.hivemq.com:1883", &address);
        let files = [
            ("ca.pem", &certificates.ca),
            ("client.pem", &certificates.client),
            ("client.key", &certificates.client_key),
        ];
        for (file, pem) in files {
            fs::write(folder.join(file), pem)?;
            text = replace(&text, &format!("/etc/ssl/{file}"), folder.join(file).to_str().unwrap());
        }
        Ok(text)
    })
    .unwrap();
    host.wait_for_log("subscribed", TIMEOUT).await.unwrap();

    let mut client = Client::login(broker.port(), "publisher").await.unwrap();
    let messages = [
        Message::new("sensors/room1/temperature", r#"{"celsius": 21.50}"#),
        Message::new("sensors/room1/humidity", "nobody asked for it"),
        Message::new("devices/a/b/c", "text"),
    ];
    client.publish(QoS::AtLeastOnce, messages).await.unwrap();
    let records = rivven.wait_for_records("iot-events", 2, TIMEOUT).await.unwrap();
    let mut events: Vec<_> =
        records.iter().map(|record| (record.key_text(), record.json().unwrap())).collect();
    events.sort_by(|one, other| one.0.cmp(&other.0));
    let found: Vec<_> = events
        .iter()
        .map(|(key, event)| {
            (key.as_str(), &event["topic"], &event["payload"], &event["metadata"]["client_id"])
        })
        .collect();
    let client_id = json!("rivven-mqtt-client");
    assert_eq!(
        found,
        [
            ("devices/a/b/c", &json!("devices/a/b/c"), &json!("text"), &client_id),
            (
                "sensors/room1/temperature",
                &json!("sensors/room1/temperature"),
                &json!({ "celsius": 21.5 }),
                &client_id
            ),
        ]
    );
    // Byte for byte: the JSON is embedded as it came.
    assert!(records.iter().any(|record| record.text().contains(r#"{"celsius": 21.50}"#)));

    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
    let log = host.log();
    assert!(log.contains("mqtt-source: received 2 = committed 2"), "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
}
