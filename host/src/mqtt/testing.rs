//! For tests: a driver with its channels, and a broker that does what the test says, packet by packet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Driver, Outlet};
use crate::config::{BrokerUrl, Mqtt, Retained, Retry, Version};
use crate::error::MqttError;
use crate::message::{Batch, QoS, Tally, Work};
use crate::metrics::SourceMetrics;
use crate::status::Status;

/// Nothing in a test takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes too long")
}

pub fn settings(port: u16) -> Mqtt {
    Mqtt {
        url: BrokerUrl { host: "127.0.0.1".into(), port, websocket: None },
        topics: vec!["a/#".into()],
        client_id: "me".into(),
        qos: QoS::AtLeastOnce,
        clean_session: true,
        session_expiry_secs: u32::MAX,
        retained: Retained::All,
        auth: None,
        tls: None,
        last_will: None,
        retry: Retry {
            initial: Duration::from_millis(5),
            max: Duration::from_millis(20),
            multiplier: 2.0,
            max_attempts: 0,
        },
        empty_poll_delay: Duration::from_millis(10),
        keep_alive: Duration::from_secs(60),
        connect_timeout: PATIENCE,
        version: Version::V4,
        max_inflight: 1_000,
        max_inflight_bytes: 64 << 20,
        max_packet_size: 256 << 10,
        max_batch: 1_024,
        parse_json_payload: true,
        include_metadata: true,
    }
}

/// The pipeline's ends of the driver's channels.
pub struct Pipeline {
    pub work: Vec<mpsc::Receiver<Work>>,
    pub back: Option<mpsc::UnboundedSender<Box<Batch>>>,
}

pub fn pipeline(workers: usize) -> (Outlet, Pipeline) {
    let (senders, work) = (0..workers).map(|_| mpsc::channel(1)).unzip();
    let (back, receiver) = mpsc::unbounded_channel();
    (Outlet { workers: senders, back: receiver }, Pipeline { work, back: Some(back) })
}

impl Pipeline {
    /// The next batch for the first worker.
    pub async fn batch(&mut self) -> Box<Batch> {
        match soon(self.work[0].recv()).await {
            Some(Work::Batch(batch)) => batch,
            other => panic!("{other:?} instead of a batch"),
        }
    }

    /// Batches until there are `n` messages.
    pub async fn batches(&mut self, n: usize) -> Vec<Box<Batch>> {
        let mut batches = Vec::new();
        let mut messages = 0;
        while messages < n {
            let batch = self.batch().await;
            messages += batch.len();
            batches.push(batch);
        }
        assert_eq!(messages, n);
        batches
    }

    /// The batch is committed.
    pub fn settle(&self, mut batch: Box<Batch>) {
        batch.tally = Tally { committed: batch.len() as u64, ..Tally::default() };
        self.back.as_ref().unwrap().send(batch).unwrap();
    }
}

pub fn driver(settings: Mqtt, state_dir: &Path) -> Driver {
    Driver {
        name: "test".into(),
        settings: Arc::new(settings),
        state_dir: state_dir.into(),
        metrics: Arc::default(),
        status: Status::default(),
        aggregating: Arc::default(),
        grace: PATIENCE,
        fail_fast: false,
    }
}

/// A driver that runs against a scripted broker.
pub struct Running {
    pub pipeline: Pipeline,
    pub metrics: Arc<SourceMetrics>,
    pub status: Status,
    pub stop: watch::Sender<bool>,
    pub result: JoinHandle<Result<(), MqttError>>,
}

pub fn start(driver: Driver) -> Running {
    let (outlet, pipeline) = pipeline(1);
    let (stop, shutdown) = watch::channel(false);
    let (metrics, status) = (driver.metrics.clone(), driver.status.clone());
    let result = tokio::spawn(driver.run(outlet, shutdown));
    Running { pipeline, metrics, status, stop, result }
}

/// A driver for the port of a scripted broker.
pub fn start_with(port: u16, change: impl FnOnce(&mut Mqtt)) -> Running {
    let mut settings = settings(port);
    change(&mut settings);
    start(driver(settings, Path::new("/nonexistent")))
}

/// Shuts down, and commits what is still with the workers.
pub async fn stop(mut running: Running) -> Result<(), MqttError> {
    running.stop.send(true).unwrap();
    // The workers end when they are let go, and with them what they send back through.
    while let Some(work) = soon(running.pipeline.work[0].recv()).await {
        if let Work::Batch(batch) = work {
            running.pipeline.settle(batch);
        }
    }
    running.pipeline.back = None;
    soon(running.result).await.unwrap()
}

impl Running {
    pub async fn not_ready_because(&self, text: &str) {
        soon(async {
            while !self.status.reasons().iter().any(|reason| reason.contains(text)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    pub async fn ready(&self) {
        soon(async {
            while !self.status.reasons().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// One connection on the broker's side.
pub struct Peer {
    stream: Box<dyn super::transport::Stream>,
    bytes: BytesMut,
}

pub struct Broker(pub TcpListener);

impl Broker {
    pub async fn new() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Broker(listener), port)
    }

    pub async fn accept(&self) -> Peer {
        let stream: TcpStream = soon(self.0.accept()).await.unwrap().0;
        Peer::new(Box::new(stream))
    }

    /// Accepts the connection of a 3.1.1 client and says `session_present`.
    pub async fn welcome(&self, session_present: bool) -> Peer {
        let mut peer = self.accept().await;
        assert!(matches!(peer.v4().await, Some(v4::Packet::Connect(_))));
        peer.send(&[0x20, 2, session_present.into(), 0]).await;
        peer
    }

    /// The same, and grants the one filter.
    pub async fn welcome_and_grant(&self, qos: u8) -> Peer {
        let mut peer = self.welcome(false).await;
        assert!(matches!(peer.v4().await, Some(v4::Packet::Subscribe(_))));
        peer.send(&[0x90, 3, 0, 1, qos]).await;
        peer
    }
}

impl Peer {
    pub(in crate::mqtt) fn new(stream: Box<dyn super::transport::Stream>) -> Self {
        Peer { stream, bytes: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    /// What may fail because the client has gone.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        let _ = soon(self.stream.write_all(bytes)).await;
    }

    /// The next packet as it came; `None` at the end.
    pub async fn raw(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(header) = rumqttc::mqttbytes::check(self.bytes.iter(), 1 << 20) {
                return Some(self.bytes.split_to(header.frame_length()).to_vec());
            }
            if soon(self.stream.read_buf(&mut self.bytes)).await.unwrap_or(0) == 0 {
                assert!(self.bytes.is_empty(), "it ended inside of a packet");
                return None;
            }
        }
    }

    pub async fn v4(&mut self) -> Option<v4::Packet> {
        let raw = self.raw().await?;
        Some(v4::Packet::read(&mut BytesMut::from(raw.as_slice()), 1 << 20).unwrap())
    }

    pub async fn v5(&mut self) -> Option<v5::Packet> {
        let raw = self.raw().await?;
        Some(v5::Packet::read(&mut BytesMut::from(raw.as_slice()), None).unwrap())
    }

    /// The next packets are exactly these acknowledgements.
    pub async fn expect(&mut self, packets: &[[u8; 4]]) {
        for packet in packets {
            assert_eq!(self.raw().await.unwrap(), packet);
        }
    }
}

pub fn puback(id: u16) -> [u8; 4] {
    [0x40, 2, (id >> 8) as u8, id as u8]
}

pub fn pubrec(id: u16) -> [u8; 4] {
    [0x50, 2, (id >> 8) as u8, id as u8]
}

pub fn pubrel(id: u16) -> [u8; 4] {
    [0x62, 2, (id >> 8) as u8, id as u8]
}

pub fn pubcomp(id: u16) -> [u8; 4] {
    [0x70, 2, (id >> 8) as u8, id as u8]
}

/// A PUBLISH of 3.1.1; with `v5`, of 5.0 without properties.
pub fn publish(v5: bool, topic: &str, payload: &[u8], qos: u8, id: u16) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if v5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    let mut packet = vec![0x30 | qos << 1];
    let mut length = body.len();
    loop {
        let more = length >= 0x80;
        packet.push((length & 0x7f) as u8 | u8::from(more) << 7);
        length >>= 7;
        if !more {
            break;
        }
    }
    packet.extend(body);
    packet
}
