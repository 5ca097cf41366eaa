//! What each quality of service promises.

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::proxy::{Fate, HANDSHAKE, Kind, Proxy};
use rivven_integration_tests::wait::wait_for;
use rivven_mqtt::{MqttSource, QoS};
use rumqttc::QoS as Wire;
use tokio::sync::mpsc;

use crate::support::{
    END, TIMEOUT, config, contents, contents_of, count_in_log, end, is_up, let_go, logged, numbers,
    persistent, publish_to_end, read, read_to_end, source_with_state, subscribed, texts,
};

pub async fn at_most_once() {
    let broker = Broker::launch().await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = persistent(config(broker.url(), &["plant/#"]), "forgetful");
        config.qos = QoS::AtMostOnce;
        config
    };
    let first = source_with_state(config(), &state);
    subscribed(&first).await;
    logged(&broker, "plant/# (QoS 0)", 1).await;
    // Whatever they are published with.
    let messages = numbers("plant/a", 0..30);
    for (qos, messages) in
        [Wire::AtMostOnce, Wire::AtLeastOnce, Wire::ExactlyOnce].into_iter().zip(messages.chunks(10))
    {
        publish(broker.port(), qos, messages.to_vec()).await.unwrap();
    }
    publish_to_end(&broker, Wire::AtMostOnce, &[]).await;
    let events = read_to_end(&first).await;
    assert_eq!(contents(&events), contents_of(&messages));
    for event in &events {
        assert_eq!((event.qos(), event.packet_id(), event.duplicate()), (QoS::AtMostOnce, 0, false));
    }
    end(first).await;

    // Fire and forget: although the session is kept, nothing waits for a client that is away.
    publish(broker.port(), Wire::AtMostOnce, numbers("plant/a", 30..40)).await.unwrap();
    let second = source_with_state(config(), &state);
    subscribed(&second).await;
    publish_to_end(&broker, Wire::AtMostOnce, &numbers("plant/a", 40..41)).await;
    assert_eq!(texts(&read_to_end(&second).await), ["40"]);
    end(second).await;
    // No message was acknowledged, up to the end.
    logged(&broker, "Received DISCONNECT from forgetful\n", 2).await;
    let log = broker.logs().await.unwrap();
    for acknowledgement in ["PUBACK", "PUBREC", "PUBCOMP"] {
        assert!(!log.contains(&format!("Received {acknowledgement} from forgetful")), "{log}");
    }
}

pub async fn at_least_once() {
    let broker = Broker::launch().await.unwrap();
    let proxy = Proxy::listen(broker.port()).await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = || persistent(config(proxy.url(), &["plant/#"]), "patient");
    let first = source_with_state(config(), &state);
    subscribed(&first).await;
    let mut publisher = Client::connect(broker.port(), "publisher").await.unwrap();
    let acknowledged = "Received PUBACK from patient";

    // The message is lost with its connection: what comes is the copy with the DUP flag, and it is the only one.
    proxy.cut_at(Kind::Publish, Fate::Lost);
    publisher.publish(Wire::AtLeastOnce, numbers("plant/a", 0..1)).await.unwrap();
    let event = read(&first).await;
    assert_eq!((event.text(), event.qos(), event.duplicate()), (Ok("0"), QoS::AtLeastOnce, true));
    proxy.has_cut(TIMEOUT).await.unwrap();

    // The acknowledgement is lost, which asking for the next sends: the message comes again.
    proxy.cut_at(Kind::PubAck, Fate::Lost);
    let again = read(&first).await;
    assert_eq!((again.text(), again.duplicate()), (Ok("0"), true));
    proxy.has_cut(TIMEOUT).await.unwrap();
    assert_eq!(count_in_log(&broker, acknowledged).await, 0);
    // Asking acknowledges though there is nothing to give.
    assert!(first.read_batch().await.unwrap().unwrap().is_empty());
    logged(&broker, acknowledged, 1).await;

    // The connection is lost while the message is being processed: it comes again too.
    proxy.cut_at(Kind::Publish, Fate::Arrives);
    publisher.publish(Wire::AtLeastOnce, numbers("plant/a", 1..2)).await.unwrap();
    let both = [read(&first).await, read(&first).await];
    assert_eq!(texts(&both), ["1", "1"]);
    assert_eq!((both[0].duplicate(), both[1].duplicate()), (false, true));
    proxy.has_cut(TIMEOUT).await.unwrap();

    // Nothing is acknowledged that nobody has asked behind, however much comes after it.
    publisher.publish(Wire::AtLeastOnce, numbers("plant/a", 2..10)).await.unwrap();
    let all = async || first.ledger().in_flight() == 9;
    wait_for("all messages are in the source", TIMEOUT, all).await.unwrap();
    let_go(first).await;
    logged(&broker, "Received DISCONNECT from patient\n", 1).await;
    assert_eq!(count_in_log(&broker, acknowledged).await, 1);
    let second = source_with_state(config(), &state);
    publish_to_end(&broker, Wire::AtLeastOnce, &[]).await;
    let events = read_to_end(&second).await;
    assert_eq!(texts(&events), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    end(second).await;
}

/// Events as they come; each is acknowledged at once, by asking for the next.
fn reading(source: &MqttSource) -> mpsc::UnboundedReceiver<(String, bool)> {
    let (send, receive) = mpsc::unbounded_channel();
    let source = source.clone();
    tokio::spawn(async move {
        while let Some(event) = source.read().await.unwrap() {
            assert_eq!(event.qos(), QoS::ExactlyOnce);
            send.send((event.text().unwrap().to_owned(), event.duplicate())).unwrap();
        }
    });
    receive
}

pub async fn exactly_once() {
    let broker = Broker::launch().await.unwrap();
    let proxy = Proxy::listen(broker.port()).await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut config = persistent(config(proxy.url(), &["plant/#"]), "exact");
    config.qos = QoS::ExactlyOnce;
    let source = source_with_state(config.clone(), &state);
    subscribed(&source).await;
    let mut events = reading(&source);
    let mut publisher = Client::connect(broker.port(), "publisher").await.unwrap();
    let mut expected = Vec::new();
    for (n, (kind, fate)) in HANDSHAKE.into_iter().enumerate() {
        proxy.cut_at(kind, fate);
        let text = format!("{n}: {kind:?} {fate:?}");
        publisher.publish(Wire::ExactlyOnce, [Message::new("plant/a", text.clone())]).await.unwrap();
        proxy.has_cut(TIMEOUT).await.unwrap();
        // Each handshake is brought to its end on the next connection.
        logged(&broker, "Received PUBCOMP from exact", n + 1).await;
        let connected = async || source.metrics().snapshot().connections == n as u64 + 2 && is_up(&source);
        wait_for("the source is back", TIMEOUT, connected).await.unwrap();
        expected.push(text);
    }
    let counts = source.metrics().snapshot();
    assert_eq!((counts.connections, counts.disconnections), (9, 8));

    // Where a source ends between PUBREC and PUBCOMP, the next one goes on: what it may not hand out again is in its state.
    proxy.cut_at(Kind::PubRec, Fate::Lost);
    publisher.publish(Wire::ExactlyOnce, [Message::new("plant/a", "restart")]).await.unwrap();
    proxy.has_cut(TIMEOUT).await.unwrap();
    expected.push("restart".into());
    end(source).await;
    let source = source_with_state(config, &state);
    let mut events_of_next = reading(&source);
    publisher.publish(Wire::ExactlyOnce, [Message::new(END, "end")]).await.unwrap();
    expected.push("end".into());
    logged(&broker, "Received PUBCOMP from exact", expected.len()).await;
    end(source).await;

    let mut read = Vec::new();
    while let Some((text, _)) = events.recv().await {
        read.push(text);
    }
    while let Some((text, _)) = events_of_next.recv().await {
        read.push(text);
    }
    assert_eq!(read, expected);
}
