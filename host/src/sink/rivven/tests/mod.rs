#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod real;
mod refused;
mod server;
mod topics;

use std::collections::HashMap;

use rivven_protocol::{BrokerInfo, PartitionMetadata, Request, Response, TopicMetadata};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;

use self::server::{Reply, Server, text};
use super::*;
use crate::config::{Broker, Credentials, Format, Secret, Tls};
use crate::message::{Batch, Tally, Verdict};
use crate::record::tests::{column, delivery, delivery_of, record, shape};

/// Short, but long enough for a machine that is busy.
const QUICK: Times = Times {
    connect: Duration::from_secs(10),
    request: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    backoff: Duration::from_millis(2),
    backoff_max: Duration::from_millis(10),
    rate_limited: Duration::from_millis(5),
};

/// Whatever takes longer than this never comes.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it never came")
}

fn broker(servers: &[String], connections: usize) -> Broker {
    Broker { bootstrap_servers: servers.to_vec(), connections, auth: None, tls: None }
}

fn start(server: &Server, connections: usize) -> Arc<RivvenSink> {
    let topics = vec![("events".to_owned(), None)];
    Arc::new(RivvenSink::start_with(&broker(&[server.address()], connections), topics, QUICK).unwrap())
}

async fn deliver(sink: &Arc<RivvenSink>, delivery: Delivery) -> Result<(), SinkError> {
    let sink = sink.clone();
    tokio::task::spawn_blocking(move || sink.deliver(delivery)).await.unwrap()
}

async fn tally(mut settled: UnboundedReceiver<Box<Batch>>) -> Tally {
    soon(settled.recv()).await.expect("the delivery was dropped").tally
}

fn committed(committed: u64) -> Tally {
    Tally { committed, ..Tally::default() }
}

fn error(message: &str) -> Response {
    Response::Error { message: message.into() }
}

/// A script that does `first` about the first `PublishBatch`, and the usual from then on.
fn once(first: impl FnOnce() -> Reply + Send + 'static) -> impl FnMut(&Request) -> Reply + Send + 'static {
    let mut first = Some(first);
    move |request| match request {
        Request::PublishBatch { .. } => first.take().map_or(Reply::Usual, |first| first()),
        _ => Reply::Usual,
    }
}

async fn not_ready(status: &Status, reason: &str) {
    soon(async {
        while !status.reasons().iter().any(|line| line.contains(reason)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn ready(status: &Status) {
    soon(async {
        while !status.reasons().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_committed_with_their_keys_and_the_producers_partition() {
    let server = Server::start(|_| Reply::Usual).await;
    let sink = start(&server, 4);
    let (mut delivery, settled) = delivery(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    delivery.outcome.verdicts = vec![Verdict::Pass, Verdict::Emit, Verdict::Drop];
    delivery.outcome.outputs.of = vec![1];
    delivery.outcome.outputs.topics = column(&["other"]);
    delivery.outcome.outputs.keys = column(&["k"]);
    delivery.outcome.outputs.values = column(&["out"]);
    delivery.batch.tally = Tally { committed: 2, dropped: 1, dead_lettered: 0 };
    let shape = delivery.shape.clone();
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 2, dropped: 1, dead_lettered: 0 });
    let mut log = server.log();
    log.sort_by(|a, b| a.topic.cmp(&b.topic));
    let partition = |key: &[u8]| rivven_core::hash::murmur2_partition(key, 4);
    let expected = |topic: &str, key: &'static [u8], value: &'static [u8]| server::Committed {
        topic: topic.into(),
        partition: partition(key),
        key: Some(key.into()),
        value: value.into(),
    };
    assert_eq!(log, [expected("events", b"a", b"1"), expected("other", b"k", b"out")]);
    assert_eq!(shape.metrics.records_written.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_without_records_is_settled_at_once() {
    let server = Server::start(|_| Reply::Silence).await;
    let sink = start(&server, 1);
    let (mut delivery, settled) = delivery(&[("a", b"1")]);
    delivery.outcome.verdicts = vec![Verdict::Drop];
    delivery.batch.tally = Tally { dropped: 1, ..Tally::default() };
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await.dropped, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_and_a_failure_are_tried_again() {
    for reply in [
        Reply::Close,
        Reply::CommitAndClose,
        Reply::Answer(error("WAL_ERROR: disk full")),
        Reply::AnswerAndClose(error("RATE_LIMIT_EXCEEDED: Too many requests")),
        Reply::Answer(Response::Throttled {
            throttle_time_ms: 1,
            quota_type: "q".into(),
            entity: "e".into(),
        }),
        Reply::Answer(Response::Pong),
    ] {
        let duplicated = matches!(reply, Reply::CommitAndClose);
        let server = Server::start(once(|| reply)).await;
        let sink = start(&server, 1);
        let (delivery, settled) = delivery(&[("a", b"1")]);
        let metrics = delivery.shape.metrics.clone();
        deliver(&sink, delivery).await.unwrap();
        assert_eq!(tally(settled).await, committed(1));
        assert_eq!(server.values("events"), if duplicated { vec!["1", "1"] } else { vec!["1"] });
        assert_eq!(metrics.sink_retries.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_in_a_time_out_and_another_connection() {
    let server = Server::start(once(|| Reply::Silence)).await;
    let times = Times { request: Duration::from_millis(200), ..QUICK };
    let topics = vec![("events".to_owned(), None)];
    let sink = Arc::new(RivvenSink::start_with(&broker(&[server.address()], 1), topics, times).unwrap());
    let (delivery, settled) = delivery(&[("a", b"1")]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, committed(1));
    assert_eq!(server.requests("PublishBatch").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_settled_that_is_not_committed() {
    let refuse = |request: &Request| match request {
        Request::PublishBatch { topic, .. } if topic == "events" => {
            Reply::Answer(error("WAL_ERROR: disk full"))
        }
        _ => Reply::Usual,
    };
    let server = Server::start(refuse).await;
    let sink = start(&server, 2);
    let status = Status::default();
    sink.attach(status.clone());
    let (mut delivery, mut settled) = delivery(&[("a", b"1"), ("b", b"2")]);
    delivery.outcome.verdicts = vec![Verdict::Pass, Verdict::Emit];
    delivery.outcome.outputs.of = vec![1];
    delivery.outcome.outputs.topics = column(&["other"]);
    delivery.outcome.outputs.values = column(&["2"]);
    deliver(&sink, delivery).await.unwrap();
    server.seen("PublishBatch { topic: \"other\"", 1).await;
    server.seen("PublishBatch { topic: \"events\"", 4).await;
    not_ready(&status, "WAL_ERROR: disk full").await;
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Empty);
    sink.close().await;
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Disconnected);
    let (late, _) = crate::record::tests::delivery(&[("a", b"1")]);
    assert!(matches!(deliver(&sink, late).await, Err(SinkError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_is_found() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let server = Server::start(|_| Reply::Usual).await;
    // The first of two servers is down.
    let servers = [format!("127.0.0.1:{port}"), server.address()];
    let sink = Arc::new(RivvenSink::start_with(&broker(&servers, 2), Vec::new(), QUICK).unwrap());
    let status = Status::default();
    sink.attach(status.clone());
    let (delivery, settled) = delivery(&[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, committed(3));
    ready(&status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_found_and_written_to() {
    let leader = Server::start(|_| Reply::Usual).await;
    let port = leader.port;
    let other = Server::start(move |request| match request {
        Request::PublishBatch { .. } => {
            Reply::Answer(error("NOT_LEADER_FOR_PARTITION: Not leader for partition 1. Leader is node 'b'"))
        }
        Request::GetClusterMetadata { .. } => Reply::Answer(Response::ClusterMetadata {
            controller_id: None,
            brokers: vec![BrokerInfo::new("a", "127.0.0.1", 1), BrokerInfo::new("b", "127.0.0.1", port)],
            topics: vec![TopicMetadata::new(
                "events",
                (0..4).map(|number| PartitionMetadata::new(number).with_leader("b")).collect(),
            )],
        }),
        _ => Reply::Usual,
    })
    .await;
    let sink = start(&other, 1);
    for _ in 0..2 {
        let (delivery, settled) = delivery(&[("a", b"1")]);
        deliver(&sink, delivery).await.unwrap();
        assert_eq!(tally(settled).await, committed(1));
    }
    assert_eq!(leader.values("events"), ["1", "1"]);
    assert_eq!(other.requests("PublishBatch").len(), 1, "the leader is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_vanished_is_put_right() {
    for (message, remedy) in [
        ("UNKNOWN_TOPIC_OR_PARTITION: gone", "CreateTopic { name: \"events\", partitions: Some(4) }"),
        ("INVALID_PARTITION: 3 of 1", "CreatePartitions { topic: \"events\", new_partition_count: 4"),
    ] {
        let mut broken = true;
        let server = Server::start(move |request| match request {
            Request::PublishBatch { .. } if broken => Reply::Answer(error(message)),
            Request::CreateTopic { .. } | Request::CreatePartitions { .. } => {
                broken = false;
                Reply::Usual
            }
            _ => Reply::Usual,
        })
        .await;
        let sink = start(&server, 1);
        let (delivery, settled) = delivery(&[("a", b"1")]);
        deliver(&sink, delivery).await.unwrap();
        assert_eq!(tally(settled).await, committed(1));
        assert_eq!(server.requests(remedy).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_created_with_its_partitions() {
    let server = Server::start(|request| match request {
        Request::GetMetadata { .. } => Reply::Answer(error("Topic not found")),
        _ => Reply::Usual,
    })
    .await;
    let mut record = record("iot.{topic[0]}", Format::Raw);
    record.partitions = Some(7);
    let sink = start(&server, 1);
    let (delivery, settled) = delivery_of(shape(record, BadMessage::DeadLetter).0, &[("a/b", b"1")]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, committed(1));
    let created = server.requests("CreateTopic");
    assert_eq!(created[0], "CreateTopic { name: \"events\", partitions: None }");
    assert_eq!(created[1], "CreateTopic { name: \"iot.a\", partitions: Some(7) }");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_a_key_survives_failures() {
    let mut count = 0;
    let server = Server::start(move |request| match request {
        Request::PublishBatch { .. } => {
            count += 1;
            match count {
                n if n % 7 == 0 => Reply::Close,
                n if n % 11 == 0 => Reply::CommitAndClose,
                n if n % 13 == 0 => Reply::Answer(error("BUFFER_FULL: retry later")),
                _ => Reply::Usual,
            }
        }
        _ => Reply::Usual,
    })
    .await;
    let sink = start(&server, 8);
    let mut deliveries = Vec::new();
    for round in 0..40 {
        let payloads: Vec<_> =
            (0..25).map(|n| (format!("key{}", n % 5), format!("{:05}", round * 25 + n))).collect();
        let messages: Vec<_> = payloads.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        let (delivery, settled) = delivery(&messages);
        deliver(&sink, delivery).await.unwrap();
        deliveries.push(settled);
    }
    for settled in deliveries {
        assert_eq!(tally(settled).await, committed(25));
    }
    let mut of_key: HashMap<String, Vec<String>> = HashMap::new();
    for record in server.log() {
        let values = of_key.entry(text(&record.key.unwrap())).or_default();
        let value = text(&record.value);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    assert_eq!(of_key.len(), 5);
    for values in of_key.values() {
        assert_eq!(values.len(), 200);
        assert!(values.is_sorted(), "{values:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_replaced_without_a_retry() {
    let server = Server::start(|_| Reply::Usual).await;
    let times = Times { idle: Duration::ZERO, ..QUICK };
    let sink = Arc::new(RivvenSink::start_with(&broker(&[server.address()], 1), Vec::new(), times).unwrap());
    for _ in 0..3 {
        let (delivery, settled) = delivery(&[("a", b"1")]);
        let metrics = delivery.shape.metrics.clone();
        deliver(&sink, delivery).await.unwrap();
        assert_eq!(tally(settled).await, committed(1));
        assert_eq!(metrics.sink_retries.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
    assert_eq!(server.values("events").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_named_without_the_password() {
    let server = Server::start(|request| match request {
        Request::ScramClientFirst { .. } => Reply::Answer(error("AUTHENTICATION_FAILED")),
        _ => Reply::Usual,
    })
    .await;
    let mut broker = broker(&[server.address()], 1);
    broker.auth = Some(Credentials { username: Some("me".into()), password: Some(Secret::new("pass-1234")) });
    let sink = RivvenSink::start_with(&broker, Vec::new(), QUICK).unwrap();
    let status = Status::default();
    sink.attach(status.clone());
    not_ready(&status, "AUTHENTICATION_FAILED").await;
    assert!(!status.reasons()[0].contains("pass-1234"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_carries_handshake_login_and_records() {
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring::default_provider;

    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["rivven.test".into()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let server = Server::start_with(Some(Arc::new(config).into()), |_| Reply::Usual).await;
    let folder = tempfile::tempdir().unwrap();
    let ca_cert = folder.path().join("ca.pem");
    std::fs::write(&ca_cert, cert.pem()).unwrap();
    let trusting = Tls { ca_cert: Some(ca_cert), server_name: Some("rivven.test".into()), ..Tls::default() };
    let mut broker = broker(&[server.address()], 1);
    broker.auth = Some(Credentials { username: Some("me".into()), password: Some(Secret::new("pass-1234")) });

    broker.tls = Some(Tls { server_name: Some("other.test".into()), ..trusting.clone() });
    let sink = RivvenSink::start_with(&broker, Vec::new(), QUICK).unwrap();
    let status = Status::default();
    sink.attach(status.clone());
    not_ready(&status, "certificate").await;
    assert!(server.requests("").is_empty());

    for tls in [trusting.clone(), Tls { insecure_skip_verify: true, ..Tls::default() }] {
        broker.tls = Some(tls);
        let sink = Arc::new(RivvenSink::start_with(&broker, Vec::new(), QUICK).unwrap());
        let (delivery, settled) = delivery(&[("a", b"1")]);
        deliver(&sink, delivery).await.unwrap();
        assert_eq!(tally(settled).await, committed(1));
    }
    assert!(server.requests("Authenticate")[0].contains("\"me\""), "{:?}", server.requests("Authenticate"));

    broker.tls = Some(Tls { ca_cert: Some(folder.path().join("none.pem")), ..Tls::default() });
    assert!(matches!(RivvenSink::start(&broker, []), Err(SinkError::Tls(_))));
}
