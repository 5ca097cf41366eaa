//! What a running source counts, how fast it is, and how it ends.

use std::io::Write;
use std::time::{Duration, Instant};

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use rivven_mqtt::config::LastWill;
use rivven_mqtt::metrics::MqttSourceMetricsSnapshot;
use rivven_mqtt::{MqttError, MqttSource, MqttSourceConfig, QoS};
use rumqttc::QoS as Wire;

use crate::support::{
    TIMEOUT, config, end, is_up, logged, numbers, persistent, publish_to_end, read, read_to_end, source,
    source_with_state, subscribed, texts, thread_ends, threads,
};

/// Bytes of topics and payloads.
fn size(messages: &[Message]) -> u64 {
    messages.iter().map(|message| (message.topic.len() + message.payload.len()) as u64).sum()
}

pub async fn metrics() {
    let mut broker = Broker::launch().await.unwrap();
    let mut settings = config(broker.url(), &["plant/#"]);
    settings.empty_poll_delay = Duration::from_millis(500);
    let source = source(settings);
    assert_eq!(source.metrics().snapshot(), MqttSourceMetricsSnapshot::default());
    // A broker that is not there is no connection.
    broker.stop().await.unwrap();
    let failed = async || {
        assert!(source.read_batch().await.unwrap().unwrap().is_empty());
        source.metrics().snapshot().errors > 0
    };
    wait_for("an attempt to connect fails", TIMEOUT, failed).await.unwrap();
    let counts = source.metrics().snapshot();
    assert_eq!((counts.connections, counts.disconnections, counts.messages_received), (0, 0, 0));

    broker.start().await.unwrap();
    subscribed(&source).await;
    let connected = source.metrics().snapshot();
    assert_eq!((connected.connections, connected.disconnections), (1, 0));
    assert!(connected.errors >= counts.errors);
    // Half a second in which nothing comes, and which is no latency.
    let idle = Instant::now();
    assert!(source.read_batch().await.unwrap().unwrap().is_empty());
    assert!(idle.elapsed() >= Duration::from_millis(500));
    publish(broker.port(), Wire::AtLeastOnce, [Message::new("plant/first", "1")]).await.unwrap();
    read(&source).await;
    let idle = idle.elapsed();
    let first = source.metrics().snapshot();
    assert!(u128::from(first.receive_latency_us) < idle.as_micros() / 2, "{first:?} within {idle:?}");
    let batches = (first.batch_count, first.batch_size_sum, first.batch_size_min, first.batch_size_max);
    assert_eq!((first.messages_received, batches), (1, (1, 1, 1, 1)));

    let messages = numbers("plant/a", 0..99);
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    assert_eq!(read_to_end(&source).await.len(), 99);
    let counts = source.metrics().snapshot();
    assert_eq!(counts.messages_received, 101);
    assert_eq!(counts.bytes_received, size(&messages) + "plant/first1end".len() as u64);
    assert_eq!((counts.batch_size_sum, counts.batch_size_min), (101, 1));
    assert!((2..=101).contains(&counts.batch_count) && counts.batch_size_max >= 1, "{counts:?}");
    assert_eq!(counts.avg_batch_size(), 101.0 / counts.batch_count as f64);
    assert_eq!(counts.messages_per_second(10.0), 10.1);
    assert_eq!((counts.connections, counts.disconnections, counts.errors), (1, 0, connected.errors));

    // The broker goes and comes back.
    broker.stop().await.unwrap();
    broker.start().await.unwrap();
    let back = async || source.metrics().snapshot().connections == 2 && is_up(&source);
    wait_for("the source is back", TIMEOUT, back).await.unwrap();
    publish_to_end(&broker, Wire::AtLeastOnce, &[]).await;
    assert!(read_to_end(&source).await.is_empty());
    let counts = source.metrics().snapshot();
    assert_eq!((counts.disconnections, counts.messages_received), (1, 102));
    assert!(counts.errors > connected.errors, "{counts:?}");
    end(source).await;

    let expected = format!(
        "# HELP rivven_mqtt_source_messages_received_total Total messages received\n\
         # TYPE rivven_mqtt_source_messages_received_total counter\n\
         rivven_mqtt_source_messages_received_total 102\n\
         # HELP rivven_mqtt_source_bytes_received_total Total bytes received\n\
         # TYPE rivven_mqtt_source_bytes_received_total counter\n\
         rivven_mqtt_source_bytes_received_total {}\n",
        counts.bytes_received
    );
    let text = counts.to_prometheus_format("rivven");
    assert!(text.starts_with(&expected), "{text}");
    for line in ["connections_total 2", "disconnections_total 1", &format!("errors_total {}", counts.errors)]
    {
        assert!(text.contains(&format!("\nrivven_mqtt_source_{line}\n")), "{text}");
    }
}

pub async fn metrics_snapshot_and_reset() {
    let broker = Broker::launch().await.unwrap();
    let source = source(config(broker.url(), &["plant/#"]));
    subscribed(&source).await;
    let messages = numbers("plant/a", 0..10);
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    assert_eq!(read_to_end(&source).await.len(), 10);

    let metrics = source.metrics();
    let before = metrics.snapshot();
    assert_eq!((before.messages_received, before.connections), (11, 1));
    assert_eq!((before.bytes_received, before.batch_size_sum), (size(&messages) + 3, 11));
    assert_eq!(metrics.snapshot(), before, "a look changes nothing");
    assert_eq!(metrics.snapshot_and_reset(), before);
    assert_eq!(metrics.snapshot(), MqttSourceMetricsSnapshot::default());
    assert_eq!(metrics.snapshot_and_reset(), MqttSourceMetricsSnapshot::default());
    let json = serde_json::to_string(&before).unwrap();
    assert!(
        json.starts_with(&format!(r#"{{"messages_received":11,"bytes_received":{},"#, before.bytes_received))
    );
    assert_eq!(serde_json::from_str::<MqttSourceMetricsSnapshot>(&json).unwrap(), before);

    // Counted on from zero, on the connection of before; what the loss equation is about is not reset.
    let messages = numbers("plant/a", 0..4);
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    assert_eq!(read_to_end(&source).await.len(), 4);
    let after = metrics.snapshot();
    assert_eq!((after.messages_received, after.bytes_received), (5, size(&messages) + 3));
    assert_eq!((after.connections, after.disconnections, after.errors), (0, 0, 0));
    assert_eq!(after.batch_size_sum, 5);
    assert!((1..=5).contains(&after.batch_size_min) && after.batch_size_max <= 5, "{after:?}");
    assert_eq!(source.ledger().received, 16);
    metrics.reset();
    assert_eq!(metrics.snapshot(), MqttSourceMetricsSnapshot::default());
    assert!(
        metrics.snapshot().to_prometheus_format("x").contains("\nx_mqtt_source_messages_received_total 0\n")
    );
    // The one END was acknowledged by the read behind it, the other is in flight.
    let settled = async || source.ledger().in_flight() == 1;
    wait_for("all but the last are acknowledged", TIMEOUT, settled).await.unwrap();
    end(source).await;
}

fn with_will(mut config: MqttSourceConfig) -> MqttSourceConfig {
    config.last_will = Some(LastWill {
        topic: format!("wills/{}", config.client_id),
        payload: b"gone".to_vec(),
        qos: QoS::AtLeastOnce,
        retain: false,
    });
    config
}

/// The documentation's consumer in the background: what it read, once it has ended.
fn consume(source: &MqttSource) -> tokio::task::JoinHandle<Result<Vec<String>, MqttError>> {
    let reader = source.clone();
    tokio::spawn(async move {
        let mut read = Vec::new();
        while let Some(event) = reader.read().await? {
            read.push(event.text().unwrap().to_owned());
            if reader.is_shutting_down() {
                break;
            }
        }
        Ok(read)
    })
}

pub async fn shutdown() {
    let broker = Broker::launch().await.unwrap();
    let mut watcher = Client::connect(broker.port(), "watcher").await.unwrap();
    watcher.subscribe("wills/#", Wire::AtLeastOnce).await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let settings = || with_will(persistent(config(broker.url(), &["plant/#"]), "bye"));
    let source = source_with_state(settings(), &state);
    subscribed(&source).await;
    assert!(threads("bye") > 0);
    let consumer = consume(&source);
    publish(broker.port(), Wire::AtLeastOnce, numbers("plant/a", 0..20)).await.unwrap();
    let consumed =
        async || source.ledger().settled.committed == 19 || source.ledger().settled.committed == 20;
    wait_for("all are consumed", TIMEOUT, consumed).await.unwrap();
    assert!(!source.is_shutting_down());
    source.shutdown();
    assert!(source.is_shutting_down());
    let read =
        tokio::time::timeout(TIMEOUT, consumer).await.expect("the task does not end").unwrap().unwrap();
    assert_eq!(read, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    tokio::time::timeout(TIMEOUT, source.closed()).await.expect("the source does not end");
    thread_ends("bye").await;
    assert!(source.read().await.unwrap().is_none() && source.read_batch().await.unwrap().is_none());
    logged(&broker, "Received DISCONNECT from bye\n", 1).await;
    // In this order: what would come before it has not come.
    publish(broker.port(), Wire::AtLeastOnce, [Message::new("wills/none", "")]).await.unwrap();
    assert_eq!(watcher.message(TIMEOUT).await.unwrap().topic, "wills/none");

    // Everything was acknowledged before the DISCONNECT.
    publish_to_end(&broker, Wire::AtLeastOnce, &[]).await;
    let next = source_with_state(settings(), &state);
    assert_eq!(texts(&read_to_end(&next).await), [""; 0]);
    end(next).await;

    a_shutdown_waits_for_what_is_being_processed().await;
}

/// On the wire: the message that a reader has when the shutdown comes is acknowledged when the reader is done with it, then
/// comes DISCONNECT, and then the end of the connection.
async fn a_shutdown_waits_for_what_is_being_processed() {
    let broker = Scripted::listen().await.unwrap();
    let mut settings = config(broker.url(), &["plant/#"]);
    settings.client_id = "busy".into();
    let source = source(with_will(settings));
    let ((mut session, connect, _), event) = tokio::join!(
        async {
            let (mut session, connect, subscribe) = broker.accept_fresh().await.unwrap();
            session.publish(Wire::AtLeastOnce, 1, "plant/a", b"in work").await.unwrap();
            session.publish(Wire::AtLeastOnce, 2, "plant/a", b"unread").await.unwrap();
            (session, connect, subscribe)
        },
        read(&source)
    );
    assert_eq!(connect.last_will.unwrap().topic, "wills/busy");
    assert_eq!(event.text(), Ok("in work"));
    source.shutdown();
    session.silent(Duration::from_millis(300)).await.unwrap();
    assert!(source.read().await.unwrap().is_none());
    session.puback(1).await.unwrap();
    session.disconnect().await.unwrap();
    session.closed().await.unwrap();
    tokio::time::timeout(TIMEOUT, source.closed()).await.expect("the source does not end");
    thread_ends("busy").await;
}

pub async fn high_throughput() {
    const COUNT: usize = 10_000;
    const TOPICS: usize = 10;
    let broker = Broker::setup().line("max_inflight_messages 1000").start().await.unwrap();
    let source = source(config(broker.url(), &["fleet/+/telemetry"]));
    subscribed(&source).await;
    let port = broker.port();
    let start = Instant::now();
    let publisher = tokio::spawn(async move {
        let message = |n| Message::new(format!("fleet/{}/telemetry", n % TOPICS), format!("{n:0100}"));
        publish(port, Wire::AtLeastOnce, (0..COUNT).map(message)).await
    });
    let mut next: [usize; TOPICS] = std::array::from_fn(|vehicle| vehicle);
    let mut received = 0;
    while received < COUNT {
        let batch = tokio::time::timeout(TIMEOUT, source.read_batch()).await.unwrap().unwrap().unwrap();
        for event in &batch {
            let n: usize = event.text().unwrap().parse().unwrap();
            let vehicle = n % TOPICS;
            assert_eq!(event.topic(), format!("fleet/{vehicle}/telemetry"));
            assert_eq!(event.payload().len(), 100);
            // None is missing, none comes twice, and each vehicle's are in order.
            assert_eq!(n, next[vehicle], "fleet/{vehicle}");
            next[vehicle] += TOPICS;
        }
        received += batch.len();
        batch.ack();
        assert!(start.elapsed() < 4 * TIMEOUT, "{received} of {COUNT} have come");
    }
    let elapsed = start.elapsed().as_secs_f64();
    publisher.await.unwrap().unwrap();
    let counts = source.metrics().snapshot();
    assert_eq!((received, counts.messages_received), (COUNT, COUNT as u64));
    let rate = format!(
        "{COUNT} messages in {elapsed:.2} s: {:.0} messages/s, {:.0} bytes/s, batches of {:.1}, {:.2} ms to the hand-over\n",
        counts.messages_per_second(elapsed),
        counts.bytes_per_second(elapsed),
        counts.avg_batch_size(),
        counts.avg_receive_latency_ms()
    );
    // Past the test harness, which would keep the output of a test that passes.
    std::io::stderr().write_all(rate.as_bytes()).unwrap();
    let acknowledged = async || source.ledger().settled.committed == COUNT as u64;
    wait_for("all are acknowledged", TIMEOUT, acknowledged).await.unwrap();
    end(source).await;
}
