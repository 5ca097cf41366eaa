//! The broker of [`crate::scripted`] for MQTT 5.0.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, PingResp, PubAck, PubAckReason, Publish,
    SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scripted::Scripted;

/// How long a script waits for what the client has to do next.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a client connects with.
#[derive(Debug)]
pub struct Opening {
    /// CONNECT, with its properties.
    pub connect: Connect,
    /// Its last will.
    pub will: Option<LastWill>,
    /// Its user name and password.
    pub login: Option<Login>,
}

/// The broker's end of one connection. Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Session5 {
    stream: TcpStream,
    received: BytesMut,
}

impl Session5 {
    /// The next connection with its CONNECT, not answered yet.
    pub async fn accept(broker: &Scripted) -> Result<(Self, Opening)> {
        let mut session = Session5 { stream: broker.stream().await?, received: BytesMut::new() };
        match session.receive().await? {
            Packet::Connect(connect, will, login) => Ok((session, Opening { connect, will, login })),
            other => bail!("expected CONNECT, got {other:?}"),
        }
    }

    /// The next connection, accepted with a fresh session, its subscriptions granted as asked for.
    pub async fn accept_fresh(broker: &Scripted) -> Result<(Self, Opening)> {
        let (mut session, opening) = Self::accept(broker).await?;
        let code = ConnectReturnCode::Success;
        session.send(Packet::ConnAck(ConnAck { session_present: false, code, properties: None })).await?;
        session.grant().await?;
        Ok((session, opening))
    }

    /// Waits for the SUBSCRIBE, and grants it as asked for.
    pub async fn grant(&mut self) -> Result<()> {
        let subscribe = match self.receive().await? {
            Packet::Subscribe(subscribe) => subscribe,
            other => bail!("expected SUBSCRIBE, got {other:?}"),
        };
        let return_codes =
            subscribe.filters.iter().map(|filter| SubscribeReasonCode::Success(filter.qos)).collect();
        self.send(Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None })).await
    }

    /// Sends bytes, whatever they mean.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("cannot write to the MQTT connection")
    }

    /// Waits for a PINGREQ and answers it.
    pub async fn ping(&mut self, timeout: Duration) -> Result<()> {
        match tokio::time::timeout(timeout, self.next()).await.context("no PINGREQ in time")?? {
            Packet::PingReq(_) => self.send(Packet::PingResp(PingResp)).await,
            other => bail!("expected PINGREQ, got {other:?}"),
        }
    }

    /// Waits for a DISCONNECT with a reason code, in the short form that the codec does not know, and for the end.
    pub async fn disconnected(&mut self, code: u8) -> Result<()> {
        self.closed().await?;
        if self.received[..] != [0xe0, 1, code] {
            bail!("expected a DISCONNECT with {code:#04x}, got {:?}", self.received);
        }
        Ok(())
    }

    /// Waits until the client has closed the connection.
    pub async fn closed(&mut self) -> Result<()> {
        let ended = async {
            // A reset is an end, too.
            while self.stream.read_buf(&mut self.received).await.unwrap_or(0) > 0 {}
        };
        tokio::time::timeout(TIMEOUT, ended).await.context("the client does not close the connection")
    }

    /// Sends a packet.
    pub async fn send(&mut self, packet: Packet) -> Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None)?;
        self.stream.write_all(&bytes).await.context("cannot write to the MQTT connection")
    }

    /// Sends a message at QoS 1.
    pub async fn publish(&mut self, packet_id: u16, topic: &str, payload: &[u8]) -> Result<()> {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None);
        publish.pkid = packet_id;
        self.send(Packet::Publish(publish)).await
    }

    /// Waits for the PUBACK of a packet id, and for nothing before it.
    pub async fn puback(&mut self, packet_id: u16) -> Result<()> {
        match self.receive().await? {
            Packet::PubAck(PubAck { pkid, reason: PubAckReason::Success, .. }) if pkid == packet_id => Ok(()),
            other => bail!("expected the PUBACK of {packet_id}, got {other:?}"),
        }
    }

    /// The next packet that is no ping; pings are answered.
    pub async fn receive(&mut self) -> Result<Packet> {
        loop {
            let next = tokio::time::timeout(TIMEOUT, self.next()).await;
            match next.context("no MQTT packet in time")?? {
                Packet::PingReq(_) => self.send(Packet::PingResp(PingResp)).await?,
                packet => return Ok(packet),
            }
        }
    }

    async fn next(&mut self) -> Result<Packet> {
        loop {
            match Packet::read(&mut self.received, None) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error).context("the peer has sent a malformed packet"),
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                bail!("the peer has closed the MQTT connection");
            }
        }
    }
}
