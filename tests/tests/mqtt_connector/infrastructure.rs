//! The broker is there, and messages go from one client through it into a source.

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message};
use rivven_mqtt::QoS;
use rumqttc::QoS as Wire;
use serde_json::{Value, json};

use crate::support::{
    TIMEOUT, config, contents, contents_of, end, logged, publish_to_end, read_to_end, source, subscribed,
};

pub async fn container_starts() {
    let mut broker = Broker::launch().await.unwrap();
    let log = broker.logs().await.unwrap();
    assert!(log.contains("mosquitto version 2."), "{log}");
    let source = source(config(broker.url(), &["plant/#"]));
    let report = source.check().await;
    assert!(report.passed(), "{report}");
    subscribed(&source).await;

    broker.stop().await.unwrap();
    let report = source.check().await;
    assert!(!report.step("broker_connectivity").unwrap().passed, "{report}");

    broker.start().await.unwrap();
    let report = source.check().await;
    assert!(report.passed(), "{report}");
    // The broker has forgotten the clean session, and the source subscribes again of itself.
    logged(&broker, &format!("Received SUBSCRIBE from {}\n", source.config().client_id), 2).await;
    let message = [Message::new("plant/a", "after the restart")];
    publish_to_end(&broker, Wire::AtLeastOnce, &message).await;
    assert_eq!(contents(&read_to_end(&source).await), contents_of(&message));
    end(source).await;
}

pub async fn publish_subscribe() {
    let broker = Broker::launch().await.unwrap();
    let mut config = config(broker.url(), &["plant/press/state", "plant/oven/state"]);
    config.client_id = "plant-reader".into();
    let broker_address = config.url.to_string();
    let source = source(config);
    subscribed(&source).await;
    // Another program's subscriber, to compare with.
    let mut other = Client::connect(broker.port(), "other").await.unwrap();
    for filter in ["plant/press/state", "plant/oven/state"] {
        other.subscribe(filter, Wire::AtLeastOnce).await.unwrap();
    }
    let messages = [
        Message::new("plant/press/state", r#"{"on":true,"bar":1.50}"#),
        Message::new("plant/oven/state", "warm, 30 °C"),
        Message::new("plant/saw/state", "not subscribed to"),
        Message::new("plant/press/state", "off"),
        Message::new("plant/oven/state", ""),
    ];
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    let events = read_to_end(&source).await;

    let mut expected = contents_of(&messages);
    expected.remove(2);
    assert_eq!(contents(&events), expected);
    for (topic, payload) in expected {
        let message = other.message(TIMEOUT).await.unwrap();
        assert_eq!((message.topic, message.payload.to_vec()), (topic, payload));
    }
    for (event, message_id) in events.iter().zip(0..) {
        assert_eq!((event.qos(), event.retain(), event.duplicate()), (QoS::AtLeastOnce, false, false));
        let mut event_json: Value = serde_json::from_str(&event.to_json()).unwrap();
        let timestamp = event_json["timestamp"].take();
        assert!(timestamp.as_str().unwrap().ends_with('Z'), "{timestamp}");
        let payload = match event.text().unwrap() {
            r#"{"on":true,"bar":1.50}"# => json!({"on": true, "bar": 1.50}),
            text => json!(text),
        };
        let expected = json!({
            "topic": event.topic(), "payload": payload, "qos": 1, "retain": false, "timestamp": null,
            "metadata": {
                "client_id": "plant-reader", "broker": broker_address,
                "message_id": message_id, "pkid": event.packet_id(),
            },
        });
        assert_eq!(event_json, expected);
    }
    // The text of a payload that is JSON stays as it is.
    assert!(events[0].to_json().contains(r#""payload":{"on":true,"bar":1.50},"#), "{}", events[0].to_json());
    end(source).await;
}

pub async fn wildcard_subscription() {
    let broker = Broker::launch().await.unwrap();
    let source = source(config(
        broker.url(),
        &["sensors/+/temperature", "devices/#", "building/floor1/room101/hvac", "commands/+/+/action"],
    ));
    subscribed(&source).await;
    let selected = [
        "sensors/room1/temperature",
        "devices/a",
        "sensors/room2/temperature",
        "devices/a/b/c",
        "building/floor1/room101/hvac",
        "commands/robot/arm/action",
    ];
    let others = [
        "sensors/room1/humidity",
        "sensors/temperature",
        "sensors/room1/shelf2/temperature",
        "sensors/room1/temperature/raw",
        "device/a",
        "building/floor1/room102/hvac",
        "commands/robot/action",
        "commands/robot/arm/left/action",
    ];
    // In turn, so that none could come late.
    let mut messages = Vec::new();
    for place in 0..selected.len().max(others.len()) {
        let at_place = [others.get(place), selected.get(place)];
        messages.extend(at_place.into_iter().flatten().map(|topic| Message::new(*topic, *topic)));
    }
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    let events = read_to_end(&source).await;
    assert_eq!(contents(&events), contents_of(&selected.map(|topic| Message::new(topic, topic))));
    end(source).await;
}
