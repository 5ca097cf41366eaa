//! A TCP proxy in front of a broker that cuts a connection at a chosen packet: for handshakes that end in the middle. MQTT 3.1.1.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::wait::wait_for;

/// Kinds of packets, by the number in the first byte of a packet (section 2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
}

/// What becomes of the packet at which the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is lost with the connection.
    Lost,
    /// It arrives, and it is the last one that does: in both directions.
    Arrives,
}

/// The steps of the QoS 2 handshake (section 4.3.3), each lost and each the last that arrives.
pub const HANDSHAKE: [(Kind, Fate); 8] = [
    (Kind::Publish, Fate::Lost),
    (Kind::Publish, Fate::Arrives),
    (Kind::PubRec, Fate::Lost),
    (Kind::PubRec, Fate::Arrives),
    (Kind::PubRel, Fate::Lost),
    (Kind::PubRel, Fate::Arrives),
    (Kind::PubComp, Fate::Lost),
    (Kind::PubComp, Fate::Arrives),
];

/// A listening proxy; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    plan: Arc<Plan>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Plan {
    /// The cut that is to be made, on the first connection that carries such a packet.
    next: Mutex<Option<(Kind, Fate)>>,
    /// Ends all connections of the present.
    cut: Notify,
}

impl Plan {
    fn next(&self) -> MutexGuard<'_, Option<(Kind, Fate)>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of a packet with this first byte, if the connection is to be cut at it. It is cut once.
    fn fate(&self, first: u8) -> Option<Fate> {
        self.next().take_if(|(kind, _)| *kind as u8 == first >> 4).map(|(_, fate)| fate)
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for clients of the broker on `broker`, another one.
    pub async fn listen(broker: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let plan = Arc::new(Plan::default());
        let task = tokio::spawn(accept(listener, broker, plan.clone()));
        Ok(Proxy { port, plan, task })
    }

    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Cuts a connection at the next packet of this kind, whoever sends it.
    pub fn cut_at(&self, kind: Kind, fate: Fate) {
        *self.plan.next() = Some((kind, fate));
    }

    /// Waits until the connection is cut.
    pub async fn has_cut(&self, timeout: Duration) -> Result<()> {
        let cut = async || self.plan.next().is_none();
        let waited = wait_for("the connection is cut", timeout, cut).await;
        waited.with_context(|| format!("still awaited: {:?}", *self.plan.next()))
    }

    /// Cuts all connections now. New ones are accepted.
    pub fn cut(&self) {
        self.plan.cut.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, broker: u16, plan: Arc<Plan>) {
    // Dropped with this task, and with them their connections.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let plan = plan.clone();
        connections.spawn(async move {
            // Errors are those of connections that end, which both sides see.
            let _ = serve(client, broker, &plan).await;
        });
    }
}

/// Carries packets both ways until one side ends or the cut comes; both connections end then.
async fn serve(client: TcpStream, broker: u16, plan: &Plan) -> Result<()> {
    let broker = TcpStream::connect(("127.0.0.1", broker)).await.context("no broker behind the proxy")?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    tokio::select! {
        result = carry(from_client, to_broker, plan) => result,
        result = carry(from_broker, to_client, plan) => result,
        () = plan.cut.notified() => Ok(()),
    }
}

/// Carries packets one way, each on its own.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plan: &Plan) -> Result<()> {
    let mut bytes = BytesMut::new();
    loop {
        while let Some(length) = packet_length(&bytes) {
            let packet = bytes.split_to(length);
            let fate = packet.first().and_then(|first| plan.fate(*first));
            if fate != Some(Fate::Lost) {
                to.write_all(&packet).await?;
            }
            if fate.is_some() {
                // What was written arrives: a socket that is closed with nothing unread sends what it has.
                return Ok(to.shutdown().await?);
            }
        }
        if from.read_buf(&mut bytes).await? == 0 {
            return Ok(to.shutdown().await?);
        }
    }
}

/// Length of the packet at the start, once all of it is there (section 2.2.3).
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut rest = 0;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        rest |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let length = 2 + place + rest;
            return (bytes.len() >= length).then_some(length);
        }
    }
    None
}
