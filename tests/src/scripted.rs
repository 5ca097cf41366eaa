//! A broker that does what a script says: for duplicates, sessions that come and go, refusals and nonsense, which no real
//! broker produces on demand. MQTT 3.1.1; [`crate::scripted5`] has 5.0.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, PubComp, PubRec, PubRel, Publish, QoS, SubAck,
    Subscribe, SubscribeReasonCode,
};
use tokio::net::{TcpListener, TcpStream};

use crate::link::Link;

/// How long a script waits for what the client has to do next.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A listening broker without connections.
#[derive(Debug)]
pub struct Scripted {
    listener: TcpListener,
    address: SocketAddr,
}

impl Scripted {
    /// Listens on a free port of 127.0.0.1.
    pub async fn listen() -> Result<Self> {
        Self::listen_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// Listens on a free port of another address.
    pub async fn listen_on(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Scripted { listener, address })
    }

    /// `mqtt://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, of which nothing has been read.
    pub async fn stream(&self) -> Result<TcpStream> {
        let accepted = tokio::time::timeout(TIMEOUT, self.listener.accept()).await;
        Ok(accepted.context("no client connects")??.0)
    }

    /// The next connection with its CONNECT, not answered yet.
    pub async fn accept(&self) -> Result<(Session, Connect)> {
        let mut session = Session { link: Link::new(self.stream().await?)? };
        match session.receive().await? {
            Packet::Connect(connect) => Ok((session, connect)),
            other => bail!("expected CONNECT, got {other:?}"),
        }
    }

    /// The next connection, accepted with a fresh session, its subscriptions granted as asked for.
    pub async fn accept_fresh(&self) -> Result<(Session, Connect, Subscribe)> {
        let (mut session, connect) = self.accept().await?;
        session.connack(false, ConnectReturnCode::Success).await?;
        let subscribe = session.subscribe().await?;
        let granted =
            subscribe.filters.iter().map(|filter| SubscribeReasonCode::Success(filter.qos)).collect();
        session.suback(&subscribe, granted).await?;
        Ok((session, connect, subscribe))
    }

    /// The next connection, accepted with the session of before.
    pub async fn accept_resumed(&self) -> Result<(Session, Connect)> {
        let (mut session, connect) = self.accept().await?;
        session.connack(true, ConnectReturnCode::Success).await?;
        Ok((session, connect))
    }

    /// Whether no client connects for `time`.
    pub async fn nobody_connects(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.listener.accept()).await.is_err()
    }
}

/// The broker's end of one connection. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Session {
    link: Link,
}

impl Session {
    /// Answers the CONNECT.
    pub async fn connack(&mut self, session_present: bool, code: ConnectReturnCode) -> Result<()> {
        self.link.send(Packet::ConnAck(ConnAck::new(code, session_present))).await
    }

    /// Waits for the SUBSCRIBE.
    pub async fn subscribe(&mut self) -> Result<Subscribe> {
        match self.receive().await? {
            Packet::Subscribe(subscribe) => Ok(subscribe),
            other => bail!("expected SUBSCRIBE, got {other:?}"),
        }
    }

    /// Answers a SUBSCRIBE.
    pub async fn suback(&mut self, subscribe: &Subscribe, codes: Vec<SubscribeReasonCode>) -> Result<()> {
        self.link.send(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await
    }

    /// Sends a message; `packet_id` is 0 at QoS 0.
    pub async fn publish(&mut self, qos: QoS, packet_id: u16, topic: &str, payload: &[u8]) -> Result<()> {
        self.link.send(message(qos, packet_id, false, topic, payload)).await
    }

    /// Sends a message with the DUP flag.
    pub async fn redeliver(&mut self, qos: QoS, packet_id: u16, topic: &str, payload: &[u8]) -> Result<()> {
        self.link.send(message(qos, packet_id, true, topic, payload)).await
    }

    /// Sends many messages in one write, with the packet ids from 1.
    pub async fn publish_many(&mut self, qos: QoS, count: u16, topic: &str, payload: &[u8]) -> Result<()> {
        self.link.send_all((1..=count).map(|id| message(qos, id, false, topic, payload))).await
    }

    /// Sends a PUBREL.
    pub async fn pubrel(&mut self, packet_id: u16) -> Result<()> {
        self.link.send(Packet::PubRel(PubRel { pkid: packet_id })).await
    }

    /// Sends bytes, whatever they mean.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.link.send_raw(bytes).await
    }

    /// The next packet that is no ping; pings are answered.
    pub async fn receive(&mut self) -> Result<Packet> {
        loop {
            match self.link.receive(TIMEOUT).await? {
                Packet::PingReq => self.link.send(Packet::PingResp).await?,
                packet => return Ok(packet),
            }
        }
    }

    /// Waits for the PUBACK of a packet id, and for nothing before it.
    pub async fn puback(&mut self, packet_id: u16) -> Result<()> {
        self.expect(Packet::PubAck(PubAck { pkid: packet_id })).await
    }

    /// Waits for the PUBREC of a packet id, and for nothing before it.
    pub async fn pubrec(&mut self, packet_id: u16) -> Result<()> {
        self.expect(Packet::PubRec(PubRec { pkid: packet_id })).await
    }

    /// Waits for the PUBCOMP of a packet id, and for nothing before it.
    pub async fn pubcomp(&mut self, packet_id: u16) -> Result<()> {
        self.expect(Packet::PubComp(PubComp { pkid: packet_id })).await
    }

    /// Waits for a DISCONNECT and for nothing before it.
    pub async fn disconnect(&mut self) -> Result<()> {
        self.expect(Packet::Disconnect).await
    }

    /// Waits for a PINGREQ and answers it.
    pub async fn ping(&mut self, timeout: Duration) -> Result<()> {
        match self.link.receive(timeout).await? {
            Packet::PingReq => self.link.send(Packet::PingResp).await,
            other => bail!("expected PINGREQ, got {other:?}"),
        }
    }

    /// Waits until the client has closed the connection; an error when it sends something first.
    pub async fn closed(&mut self) -> Result<()> {
        match tokio::time::timeout(TIMEOUT, self.link.next()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(packet))) => bail!("expected the end of the connection, got {packet:?}"),
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("the client does not close the connection"),
        }
    }

    /// Whether the client sends nothing but pings for `time`.
    pub async fn silent(&mut self, time: Duration) -> Result<()> {
        match tokio::time::timeout(time, self.link.next()).await {
            Err(_) | Ok(Ok(Some(Packet::PingReq))) => Ok(()),
            Ok(other) => bail!("expected silence, got {other:?}"),
        }
    }

    async fn expect(&mut self, expected: Packet) -> Result<()> {
        let packet = self.receive().await.with_context(|| format!("expected {expected:?}"))?;
        if packet != expected {
            bail!("expected {expected:?}, got {packet:?}");
        }
        Ok(())
    }
}

fn message(qos: QoS, packet_id: u16, dup: bool, topic: &str, payload: &[u8]) -> Packet {
    let mut publish = Publish::new(topic, qos, payload);
    publish.pkid = packet_id;
    publish.dup = dup;
    Packet::Publish(publish)
}
