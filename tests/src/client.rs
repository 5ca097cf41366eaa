//! An MQTT 3.1.1 client for tests: it publishes and knows when the broker has everything, and it subscribes.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::{
    Connect, ConnectReturnCode, Login, Packet, PubAck, PubComp, PubRec, PubRel, Publish, QoS, Subscribe,
    SubscribeReasonCode,
};
use tokio::net::TcpStream;

use crate::broker::{PASSWORD, USERNAME};
use crate::link::Link;

/// Longer than any broker here needs for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Unacknowledged messages while publishing: at QoS 1 a broker just answers; at QoS 2 mosquitto counts to 20.
const WINDOW: usize = 1_000;
const WINDOW_QOS_2: usize = 20;

/// One message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// MQTT topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Whether the broker is to retain it.
    pub retain: bool,
}

impl Message {
    /// A message that is not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Message { topic: topic.into(), payload: payload.into(), retain: false }
    }

    /// The same, retained.
    #[must_use]
    pub fn retained(self) -> Self {
        Message { retain: true, ..self }
    }
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    link: Link,
    last_id: u16,
}

impl Client {
    /// Connects to a broker on 127.0.0.1 with a clean session.
    pub async fn connect(port: u16, client_id: &str) -> Result<Self> {
        Self::connect_as(port, Connect { keep_alive: 0, ..Connect::new(client_id) }).await
    }

    /// As [`Client::connect`], as the user of [`crate::broker::Setup::password`].
    pub async fn login(port: u16, client_id: &str) -> Result<Self> {
        let login = Some(Login::new(USERNAME, PASSWORD));
        Self::connect_as(port, Connect { keep_alive: 0, login, ..Connect::new(client_id) }).await
    }

    async fn connect_as(port: u16, connect: Connect) -> Result<Self> {
        let mut link = open(port).await?;
        link.send(Packet::Connect(connect)).await?;
        match link.receive(TIMEOUT).await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok(Client { link, last_id: 0 }),
            other => bail!("expected a CONNACK that accepts, got {other:?}"),
        }
    }

    /// Publishes, and returns when the broker has all of it: every PUBACK or PUBCOMP is in; at QoS 0 it has answered a
    /// ping that was sent behind the last message.
    pub async fn publish(&mut self, qos: QoS, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let window = if qos == QoS::ExactlyOnce { WINDOW_QOS_2 } else { WINDOW };
        let mut messages = messages.into_iter();
        let mut waiting = HashSet::new();
        loop {
            let mut packets = Vec::new();
            for message in messages.by_ref().take(window - waiting.len()) {
                let mut publish = Publish::new(message.topic, qos, message.payload);
                publish.retain = message.retain;
                if qos != QoS::AtMostOnce {
                    publish.pkid = self.next_id();
                    waiting.insert(publish.pkid);
                }
                packets.push(Packet::Publish(publish));
            }
            if packets.is_empty() && waiting.is_empty() {
                break;
            }
            self.link.send_all(packets).await?;
            if waiting.is_empty() {
                continue;
            }
            match self
                .link
                .receive(TIMEOUT)
                .await
                .context("the broker does not acknowledge what was published")?
            {
                Packet::PubAck(PubAck { pkid }) | Packet::PubComp(PubComp { pkid }) => {
                    waiting.remove(&pkid);
                }
                Packet::PubRec(PubRec { pkid }) => self.link.send(Packet::PubRel(PubRel { pkid })).await?,
                other => bail!("expected acknowledgements, got {other:?}"),
            }
        }
        self.link.send(Packet::PingReq).await?;
        match self.link.receive(TIMEOUT).await? {
            Packet::PingResp => Ok(()),
            other => bail!("expected PINGRESP, got {other:?}"),
        }
    }

    /// Subscribes, and returns when the broker has granted it.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let pkid = self.next_id();
        let subscribe = Subscribe { pkid, ..Subscribe::new(filter, qos) };
        self.link.send(Packet::Subscribe(subscribe)).await?;
        match self.link.receive(TIMEOUT).await? {
            Packet::SubAck(ack) if ack.return_codes == [SubscribeReasonCode::Success(qos)] => Ok(()),
            other => bail!("expected a SUBACK that grants {qos:?}, got {other:?}"),
        }
    }

    /// The next message of the subscriptions, acknowledged.
    pub async fn message(&mut self, timeout: Duration) -> Result<Publish> {
        loop {
            match self.link.receive(timeout).await? {
                Packet::Publish(publish) => {
                    let pkid = publish.pkid;
                    match publish.qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => self.link.send(Packet::PubAck(PubAck { pkid })).await?,
                        QoS::ExactlyOnce => self.link.send(Packet::PubRec(PubRec { pkid })).await?,
                    }
                    return Ok(publish);
                }
                Packet::PubRel(PubRel { pkid }) => self.link.send(Packet::PubComp(PubComp { pkid })).await?,
                other => bail!("expected PUBLISH, got {other:?}"),
            }
        }
    }

    /// Ends the connection.
    pub async fn disconnect(mut self) -> Result<()> {
        self.link.send(Packet::Disconnect).await
    }

    fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }
}

/// Connects, publishes and disconnects.
pub async fn publish(port: u16, qos: QoS, messages: impl IntoIterator<Item = Message>) -> Result<()> {
    let mut client = Client::connect(port, &format!("publisher-{}", std::process::id())).await?;
    client.publish(qos, messages).await?;
    client.disconnect().await
}

/// Whether a broker answers a CONNECT, be it with a refusal.
pub async fn answers(port: u16) -> bool {
    let probe = async {
        let mut link = open(port).await?;
        link.send(Packet::Connect(Connect::new(format!("probe-{}", std::process::id())))).await?;
        let answer = link.receive(Duration::from_secs(2)).await?;
        // An orderly end, or the log of the broker shows an error.
        let _ = link.send(Packet::Disconnect).await;
        anyhow::Ok(matches!(answer, Packet::ConnAck(_)))
    };
    probe.await.unwrap_or(false)
}

async fn open(port: u16) -> Result<Link> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    Link::new(stream.with_context(|| format!("no MQTT broker on 127.0.0.1:{port}"))?)
}
