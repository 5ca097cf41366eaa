//! What the source says without reading: the trial connection, against a scripted broker, and the catalog.

use rumqttc::mqttbytes::v4;
use serde_json::json;

use super::tests::{goodbye, settings, source};
use super::*;
use crate::config::{Credentials, LastWill, Secret};
use crate::message::QoS;
use crate::mqtt::testing::{Broker, publish, soon};

#[tokio::test]
async fn a_check_takes_nothing_from_anyone() {
    let (broker, port) = Broker::new().await;
    let mut settings = settings(port);
    settings.topics = vec!["a/#".into(), "$share/workers/b/+".into(), "c".into()];
    (settings.clean_session, settings.qos) = (false, QoS::ExactlyOnce);
    settings.auth = Some(Credentials { username: Some("u".into()), password: Some(Secret::new("hunter2")) });
    settings.last_will =
        Some(LastWill { topic: "w".into(), payload: b"x".to_vec(), qos: QoS::AtMostOnce, retain: true });
    let source = MqttSource::new(settings).unwrap();
    let script = async {
        let mut peer = broker.accept().await;
        let Some(v4::Packet::Connect(connect)) = peer.v4().await else { panic!("no CONNECT") };
        let id = connect.client_id;
        assert!(id.starts_with("me-check-") && id.len() == 17, "{id}");
        assert!(connect.clean_session && connect.last_will.is_none() && connect.login.is_some());
        peer.send(&[0x20, 2, 0, 0]).await;
        let mut filters = Vec::new();
        for (id, code) in [(1, 2), (2, 2), (3, 0x80)] {
            let Some(v4::Packet::Subscribe(subscribe)) = peer.v4().await else { panic!("no SUBSCRIBE") };
            filters.extend(subscribe.filters.into_iter().map(|filter| (filter.path, filter.qos as u8)));
            // A retained message before the SUBACK, in two parts, larger than is read at once.
            let message = publish(false, "a/b", &[0; 10_000], 1, 9);
            peer.send(&message[..1_000]).await;
            peer.send(&message[1_000..]).await;
            peer.send(&[0x90, 3, 0, id, code]).await;
        }
        let expected = [("a/#".to_owned(), 2), (format!("$share/{id}/b/+"), 2), ("c".to_owned(), 2)];
        assert_eq!(filters, expected);
        // No acknowledgement before it.
        goodbye(peer).await;
        id
    };
    let (id, report) = tokio::join!(script, soon(source.check()));
    assert!(!report.passed());
    assert_eq!(
        report.to_string(),
        format!(
            "broker_connectivity: passed (TCP to 127.0.0.1:{port})\n\
             mqtt_authentication: passed (CONNECT as the user `u` with the client id `{id}`)\n\
             subscription a/#: passed (SUBSCRIBE to `a/#` at QoS 2)\n\
             subscription $share/workers/b/+: passed (SUBSCRIBE to `$share/{id}/b/+` at QoS 2)\n\
             subscription c: failed (SUBSCRIBE to `c` at QoS 2): subscription to `c`: the broker refuses it (0x80): not \
             authorised, or not allowed here; let the broker allow the filter for this user, or take it out of topics\n\
             configuration: passed (ranges, names, files and combinations of the settings)"
        )
    );
    assert!(!format!("{report:?} {source:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_check_says_what_it_could_not_try() {
    let (broker, port) = Broker::new().await;
    let source = source(port);
    let refuse = async {
        let mut peer = broker.accept().await;
        peer.raw().await;
        peer.send(&[0x20, 2, 0, 4]).await;
        assert_eq!(peer.raw().await, None);
    };
    let ((), report) = tokio::join!(refuse, soon(source.check()));
    let step = report.step("mqtt_authentication").unwrap();
    assert_eq!(
        step.reason.as_deref(),
        Some("the MQTT broker refused the login: the user name or the password is wrong (code 0x04)")
    );
    assert!(step.advice.as_deref().unwrap().starts_with("correct auth.username and auth.password"));
    let step = report.step("subscription a/#").unwrap();
    assert_eq!(step.reason.as_deref(), Some("not tried, because mqtt_authentication failed"));
    assert!(
        report.step("broker_connectivity").unwrap().passed && report.step("configuration").unwrap().passed
    );
    drop(broker);
    let report = soon(source.check()).await;
    let passed: Vec<_> = report.steps.iter().map(|step| (step.name.as_str(), step.passed)).collect();
    assert_eq!(
        passed,
        [
            ("broker_connectivity", false),
            ("mqtt_authentication", false),
            ("subscription a/#", false),
            ("configuration", true)
        ]
    );
    assert_eq!(serde_json::to_value(&report).unwrap()["steps"][3]["passed"], json!(true));
}

#[test]
fn the_catalog_names_streams_as_the_existing_connector_does() {
    let mut mqtt = Mqtt::new("h", ["sensors/+/temp", "devices/#", "/a b"]).unwrap();
    let catalog = MqttSource::new(mqtt.clone()).unwrap().discover();
    let names: Vec<_> = catalog.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["sensors__single_temp", "devices__multi", "_a b"]);
    let stream = serde_json::to_value(catalog.find_stream("devices__multi").unwrap()).unwrap();
    assert_eq!(stream["supported_sync_modes"], json!(["full_refresh", "incremental"]));
    assert_eq!(stream["metadata"], json!({"mqtt.filter": "devices/#", "mqtt.qos": 1}));
    assert_eq!(
        stream["json_schema"]["required"],
        json!(["topic", "payload", "qos", "retain", "timestamp", "metadata"])
    );
    let read: Catalog = serde_json::from_value(serde_json::to_value(&catalog).unwrap()).unwrap();
    assert_eq!(read, catalog);
    (mqtt.include_metadata, mqtt.parse_json_payload) = (false, false);
    let schema = &MqttSource::new(mqtt).unwrap().discover().streams[0].json_schema;
    assert!(schema["properties"].get("metadata").is_none());
    assert_eq!(schema["properties"]["payload"], json!({"type": ["string", "null"]}));
}
