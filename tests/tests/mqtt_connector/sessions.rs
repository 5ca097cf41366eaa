//! Last will, retained messages, and sessions that are kept or lost.

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::proxy::Proxy;
use rivven_integration_tests::wait::wait_for;
use rivven_mqtt::config::LastWill;
use rivven_mqtt::{MqttSourceConfig, QoS};
use rumqttc::{Publish, QoS as Wire};

use crate::support::{
    TIMEOUT, config, contents, contents_of, end, is_up, let_go, logged, numbers, persistent, publish_to_end,
    read, read_to_end, source, source_with_state, subscribed, texts,
};

/// Topic, payload, QoS and flag of what another client got.
fn parts(message: &Publish) -> (&str, &[u8], Wire, bool) {
    (&message.topic, &message.payload, message.qos, message.retain)
}

pub async fn last_will_config() {
    const STATUS: &str = "clients/rivven/status";
    let broker = Broker::launch().await.unwrap();
    let proxy = Proxy::listen(broker.port()).await.unwrap();
    // As the documentation has it; `message` is what the existing connector calls the payload.
    let read_config = |payload_key: &str| {
        let text = format!(
            "broker_url: {}\ntopics: [plant/#]\nclient_id: mortal\nlast_will:\n  topic: {STATUS}\n  {payload_key}: disconnected\n  \
             qos: at_least_once\n  retain: true\n",
            proxy.url()
        );
        MqttSourceConfig::from_yaml(&text).unwrap()
    };
    let config = read_config("payload");
    let will = LastWill {
        topic: STATUS.into(),
        payload: b"disconnected".to_vec(),
        qos: QoS::AtLeastOnce,
        retain: true,
    };
    assert_eq!(config.last_will, Some(will.clone()));
    assert_eq!(read_config("message").last_will, Some(will));

    let mut watcher = Client::connect(broker.port(), "watcher").await.unwrap();
    watcher.subscribe("clients/#", Wire::AtLeastOnce).await.unwrap();
    let source = source(config);
    assert!(source.check().await.passed());
    subscribed(&source).await;
    // The connection breaks, and the broker says so for the client: once, because the check before had no will.
    proxy.cut();
    let message = watcher.message(TIMEOUT).await.unwrap();
    assert_eq!(parts(&message), (STATUS, &b"disconnected"[..], Wire::AtLeastOnce, false));
    let back = async || source.metrics().snapshot().connections == 2 && is_up(&source);
    wait_for("the source is back", TIMEOUT, back).await.unwrap();
    // It is retained for those who come later.
    let mut late = Client::connect(broker.port(), "late").await.unwrap();
    late.subscribe("clients/#", Wire::AtLeastOnce).await.unwrap();
    assert_eq!(
        parts(&late.message(TIMEOUT).await.unwrap()),
        (STATUS, &b"disconnected"[..], Wire::AtLeastOnce, true)
    );

    // Who takes leave has no last will.
    end(source).await;
    logged(&broker, "Received DISCONNECT from mortal\n", 1).await;
    publish(broker.port(), Wire::AtLeastOnce, [Message::new("clients/other", "alive")]).await.unwrap();
    let message = watcher.message(TIMEOUT).await.unwrap();
    assert_eq!(parts(&message), ("clients/other", &b"alive"[..], Wire::AtLeastOnce, false));
}

pub async fn retained_message() {
    let broker = Broker::launch().await.unwrap();
    let before = [
        Message::new("plant/a", "old").retained(),
        Message::new("plant/a", "new").retained(),
        Message::new("plant/b", [0, 0xff]).retained(),
        // An empty one takes back what was retained (section 3.3.1.3).
        Message::new("plant/c", "gone").retained(),
        Message::new("plant/c", "").retained(),
        Message::new("plant/d", "not retained"),
        Message::new("other/e", "elsewhere").retained(),
    ];
    publish(broker.port(), Wire::AtLeastOnce, before).await.unwrap();
    let first = source(config(broker.url(), &["plant/#"]));
    let mut kept = vec![read(&first).await, read(&first).await];
    kept.sort_by(|a, b| a.topic().cmp(b.topic()));
    let expected = [Message::new("plant/a", "new"), Message::new("plant/b", [0, 0xff])];
    assert_eq!(contents(&kept), contents_of(&expected));
    for event in &kept {
        assert!(event.retain() && !event.duplicate());
        let json: serde_json::Value = serde_json::from_str(&event.to_json()).unwrap();
        assert_eq!(json["retain"], true);
    }
    // For those who are subscribed already it is a message like any other.
    let live = [Message::new("plant/a", "live").retained(), Message::new("plant/d", "live too")];
    publish_to_end(&broker, Wire::AtLeastOnce, &live).await;
    let events = read_to_end(&first).await;
    assert_eq!(contents(&events), contents_of(&live));
    assert!(events.iter().all(|event| !event.retain() && event.to_json().contains(r#""retain":false"#)));
    end(first).await;

    // The next who subscribes gets the latest.
    let second = source(config(broker.url(), &["plant/a"]));
    let event = read(&second).await;
    assert_eq!((event.topic(), event.text(), event.retain()), ("plant/a", Ok("live"), true));
    end(second).await;
}

pub async fn persistent_session() {
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let settings = || persistent(config(broker.url(), &["plant/#"]), "resumes");
    let kept = || source_with_state(settings(), &state);
    let asked = "Received SUBSCRIBE from resumes\n";
    let first = kept();
    subscribed(&first).await;
    end(first).await;

    // Published while the source is away.
    let messages = numbers("plant/a", 0..50);
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    let second = kept();
    let mut events = Vec::new();
    while events.len() < 10 {
        events.push(read(&second).await);
    }
    assert_eq!(contents(&events), contents_of(&messages[..10]));
    assert!(events.iter().all(|event| !event.duplicate()));
    let_go(second).await;

    // Nine were acknowledged; the rest waits on.
    let third = kept();
    let events = read_to_end(&third).await;
    assert_eq!(contents(&events), contents_of(&messages[9..]));
    assert!(events[0].duplicate(), "it had been delivered");
    logged(&broker, "as resumes (p2, c0, k60)", 3).await;
    // A session keeps its subscriptions.
    logged(&broker, asked, 1).await;

    // The broker loses the session: a client with the same id wants a clean one. The source subscribes again.
    let thief = Client::connect(broker.port(), "resumes").await.unwrap();
    let _ = thief.disconnect().await;
    logged(&broker, asked, 2).await;
    let back = async || third.metrics().snapshot().connections == 2 && is_up(&third);
    wait_for("the source is back", TIMEOUT, back).await.unwrap();
    publish_to_end(&broker, Wire::AtLeastOnce, &numbers("plant/a", 50..53)).await;
    assert_eq!(texts(&read_to_end(&third).await), ["50", "51", "52"]);
    end(third).await;

    // With a clean session nothing is kept.
    let clean = || {
        let mut config = settings();
        (config.client_id, config.clean_session) = ("starts-afresh".into(), true);
        source(config)
    };
    let before = clean();
    subscribed(&before).await;
    end(before).await;
    publish(broker.port(), Wire::AtLeastOnce, numbers("plant/a", 100..110)).await.unwrap();
    let after = clean();
    subscribed(&after).await;
    publish_to_end(&broker, Wire::AtLeastOnce, &numbers("plant/a", 110..111)).await;
    assert_eq!(texts(&read_to_end(&after).await), ["110"]);
    end(after).await;
}
