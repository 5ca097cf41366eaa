//! `check`, `discover` and `read`.

use std::collections::BTreeSet;

use rivven_integration_tests::broker::{Broker, PASSWORD, USERNAME};
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::net::free_port;
use rivven_integration_tests::scripted::Scripted;
use rivven_mqtt::config::{Credentials, LastWill, Secret};
use rivven_mqtt::{CheckReport, QoS};
use rumqttc::{ConnectReturnCode, QoS as Wire, SubscribeReasonCode};
use serde_json::{Value, json};

use crate::support::{
    END, TIMEOUT, config, contents, contents_of, count_in_log, end, let_go, logged, numbers, persistent,
    publish_to_end, read, read_to_end, source, source_with_state, subscribed, texts,
};

/// Steps with whether they passed.
fn outcome(report: &CheckReport) -> Vec<(&str, bool)> {
    report.steps.iter().map(|step| (step.name.as_str(), step.passed)).collect()
}

fn reason<'a>(report: &'a CheckReport, step: &str) -> &'a str {
    report.step(step).and_then(|step| step.reason.as_deref()).unwrap_or_default()
}

pub async fn check() {
    let broker = Broker::setup().password().start().await.unwrap();
    let login = |password: &str| {
        Some(Credentials { username: Some(USERNAME.to_owned()), password: Some(Secret::new(password)) })
    };
    let state = tempfile::tempdir().unwrap();
    let mut good = persistent(config(broker.url(), &["sensors/+/temperature"]), "checked");
    good.auth = login(PASSWORD);
    let running = source_with_state(good.clone(), &state);
    subscribed(&running).await;

    // A check of the very same settings, while the source runs.
    let report = source_with_state(good.clone(), &state).check().await;
    let names = [
        "broker_connectivity",
        "mqtt_authentication",
        "subscription sensors/+/temperature",
        "subscription end",
        "configuration",
    ];
    assert_eq!(outcome(&report), names.map(|name| (name, true)), "{report}");
    logged(&broker, "Received DISCONNECT from checked-check-", 1).await;
    publish_as_user(&broker, &numbers("sensors/a/temperature", 0..1)).await;
    assert_eq!(read(&running).await.text(), Ok("0"));
    let counts = running.metrics().snapshot();
    assert_eq!((counts.connections, counts.disconnections), (1, 0));
    end(running).await;

    let mut wrong = good.clone();
    wrong.auth = login("hunter2");
    let report = source_with_state(wrong, &state).check().await;
    assert_eq!(
        outcome(&report),
        names.into_iter().zip([true, false, false, false, true]).collect::<Vec<_>>()
    );
    assert_eq!(
        reason(&report, "mqtt_authentication"),
        "the MQTT broker refused the login: not authorised (code 0x05)"
    );
    assert!(!format!("{report}{report:?}").contains("hunter2"));

    let mut unreachable = good;
    unreachable.url.port = free_port().unwrap();
    let address = unreachable.url.to_string();
    let report = source_with_state(unreachable, &state).check().await;
    assert_eq!(
        outcome(&report),
        names.into_iter().zip([false, false, false, false, true]).collect::<Vec<_>>()
    );
    let expected =
        format!("cannot connect to the MQTT broker at {address}: Connection refused (os error 111)");
    assert_eq!(reason(&report, "broker_connectivity"), expected);

    check_on_the_wire().await;
}

/// What a check says to the broker: a client of its own, without a will, that takes leave; and a refused filter.
async fn check_on_the_wire() {
    let broker = Scripted::listen().await.unwrap();
    let mut config = config(broker.url(), &["secret/#"]);
    config.client_id = "checked".into();
    config.last_will = Some(LastWill {
        topic: "wills/checked".into(),
        payload: b"gone".to_vec(),
        qos: QoS::AtLeastOnce,
        retain: true,
    });
    let source = source(config);
    let script = async {
        let (mut session, connect) = broker.accept().await.unwrap();
        assert!(connect.client_id.starts_with("checked-check-"), "{}", connect.client_id);
        assert!(connect.clean_session && connect.last_will.is_none());
        session.connack(false, ConnectReturnCode::Success).await.unwrap();
        let mut asked = BTreeSet::new();
        while asked.len() < 2 {
            let subscribe = session.subscribe().await.unwrap();
            let codes = subscribe.filters.iter().map(|filter| match filter.path.as_str() {
                "secret/#" => SubscribeReasonCode::Failure,
                _ => SubscribeReasonCode::Success(filter.qos),
            });
            session.suback(&subscribe, codes.collect()).await.unwrap();
            asked.extend(subscribe.filters.into_iter().map(|filter| (filter.path, filter.qos as u8)));
        }
        assert_eq!(asked, BTreeSet::from([("secret/#".to_owned(), 1), ("end".to_owned(), 1)]));
        session.disconnect().await.unwrap();
        session.closed().await.unwrap();
    };
    let (report, ()) = tokio::join!(source.check(), script);
    let expected = [
        ("broker_connectivity", true),
        ("mqtt_authentication", true),
        ("subscription secret/#", false),
        ("subscription end", true),
        ("configuration", true),
    ];
    assert_eq!(outcome(&report), expected);
    assert_eq!(
        reason(&report, "subscription secret/#"),
        "subscription to `secret/#`: the broker refuses it (0x80): not authorised, or not allowed here"
    );
}

async fn publish_as_user(broker: &Broker, messages: &[Message]) {
    let mut client = Client::login(broker.port(), "publisher").await.unwrap();
    client.publish(Wire::AtLeastOnce, messages.iter().cloned()).await.unwrap();
    client.disconnect().await.unwrap();
}

pub async fn discover() {
    let broker = Broker::launch().await.unwrap();
    let filters = [
        ("sensors/+/temperature", "sensors__single_temperature"),
        ("devices/#", "devices__multi"),
        ("building/floor1/room101/hvac", "building_floor1_room101_hvac"),
        ("commands/+/+/action", "commands__single__single_action"),
        ("end", "end"),
    ];
    let source = source(config(broker.url(), &filters.map(|(filter, _)| filter)));
    let catalog = source.discover();
    assert_eq!(source.metrics().snapshot().connections, 0, "nothing is connected for a catalog");
    let catalog = serde_json::to_value(&catalog).unwrap();
    assert_eq!(catalog["streams"].as_array().unwrap().len(), filters.len());
    for (stream, (filter, name)) in catalog["streams"].as_array().unwrap().iter().zip(filters) {
        assert_eq!(stream["name"], name);
        assert_eq!(stream["metadata"], json!({ "mqtt.filter": filter, "mqtt.qos": 1 }));
        assert_eq!(stream["supported_sync_modes"], json!(["full_refresh", "incremental"]));
        for none in ["namespace", "default_cursor_field", "source_defined_primary_key"] {
            assert_eq!(stream[none], Value::Null);
        }
    }

    // What comes then is as the schema says.
    subscribed(&source).await;
    let messages = [
        Message::new("sensors/a/temperature", "21.5"),
        Message::new("devices/x", "text"),
        Message::new("devices/y/z", [0xff, 0xfe]),
    ];
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    let events = read_to_end(&source).await;
    assert_eq!(contents(&events), contents_of(&messages));
    let schema = &catalog["streams"][0]["json_schema"];
    for event in events {
        conforms(&serde_json::from_str(&event.to_json()).unwrap(), schema, "event");
    }
    end(source).await;
}

/// Whether an object has what its schema requires, nothing that it does not know, and the types that it names.
fn conforms(value: &Value, schema: &Value, path: &str) {
    let type_of = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    match &schema["type"] {
        Value::Null => {}
        Value::String(expected) => assert_eq!(type_of(value), expected, "{path}"),
        expected => assert!(expected.as_array().unwrap().contains(&type_of(value).into()), "{path}: {value}"),
    }
    if let Value::String(constant) = &schema["const"] {
        assert_eq!(value, constant, "{path}");
    }
    if schema["type"] == "object" {
        let object = value.as_object().unwrap();
        assert_eq!(schema["additionalProperties"], false, "{path}");
        for required in schema["required"].as_array().unwrap() {
            assert!(object.contains_key(required.as_str().unwrap()), "{path}.{required} is missing: {value}");
        }
        for (key, value) in object {
            let property = &schema["properties"][key];
            assert!(property.is_object(), "the schema knows no {path}.{key}");
            conforms(value, property, &format!("{path}.{key}"));
        }
    }
}

pub async fn read_events() {
    const COUNT: usize = 200;
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = || persistent(config(broker.url(), &["plant/#"]), "reader");
    let first = source_with_state(config(), &state);
    subscribed(&first).await;
    let messages: Vec<_> =
        (0..COUNT).map(|n| Message::new(format!("plant/{}", n % 7), format!("number {n}"))).collect();
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;

    // Half of them, the last of which is read and not acknowledged: the source goes before anybody asks for the next.
    let mut events = Vec::new();
    while events.len() < COUNT / 2 {
        events.push(read(&first).await);
    }
    assert_eq!(contents(&events), contents_of(&messages[..COUNT / 2]));
    logged(&broker, "Received PUBACK from reader", COUNT / 2 - 1).await;
    let_go(first).await;
    logged(&broker, "Received DISCONNECT from reader", 1).await;
    assert_eq!(count_in_log(&broker, "Received PUBACK from reader").await, COUNT / 2 - 1);

    let second = source_with_state(config(), &state);
    let rest = read_to_end(&second).await;
    assert_eq!(contents(&rest), contents_of(&messages[COUNT / 2 - 1..]));
    end(second).await;

    // What is asked for after the last: nothing comes, and nothing is made up.
    let third = source_with_state(config(), &state);
    assert_eq!(texts(&read_to_end(&third).await), [""; 0], "only the end was not acknowledged");
    tokio::time::timeout(TIMEOUT, async {
        let (none, ()) = tokio::join!(third.read(), async { third.shutdown() });
        assert!(none.unwrap().is_none());
    })
    .await
    .unwrap();
    third.closed().await;
    publish(broker.port(), Wire::AtLeastOnce, [Message::new(END, "again")]).await.unwrap();
    let fourth = source_with_state(config(), &state);
    assert_eq!(read(&fourth).await.text(), Ok("again"), "asking once more has acknowledged the end");
    end(fourth).await;
}
