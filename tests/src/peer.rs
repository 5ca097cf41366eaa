//! The broker's end of a connection as bytes, of 3.1.1 and of 5.0 alike: for what no codec would write.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scripted::Scripted;

/// How long it waits for what the client has to do next.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Dropping it closes the connection without a word.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    received: BytesMut,
    five: bool,
}

impl Peer {
    /// The next connection, of which nothing has been read; `five`: it speaks 5.0.
    pub async fn open(broker: &Scripted, five: bool) -> Result<Self> {
        Ok(Peer { stream: broker.stream().await?, received: BytesMut::new(), five })
    }

    /// The next connection, with its CONNECT accepted and nothing read of its SUBSCRIBE.
    pub async fn welcome(broker: &Scripted, five: bool) -> Result<Self> {
        let mut peer = Self::open(broker, five).await?;
        peer.packet(0x10).await?;
        peer.send(if five { &[0x20, 3, 0, 0, 0][..] } else { &[0x20, 2, 0, 0] }).await?;
        Ok(peer)
    }

    /// The next connection, accepted with a fresh session, its one filter granted with QoS 2.
    pub async fn accept(broker: &Scripted, five: bool) -> Result<Self> {
        let mut peer = Self::welcome(broker, five).await?;
        peer.packet(0x82).await?;
        peer.send(if five { &[0x90, 4, 0, 1, 0, 2][..] } else { &[0x90, 3, 0, 1, 2] }).await?;
        Ok(peer)
    }

    /// Sends bytes, whatever they mean.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = tokio::time::timeout(TIMEOUT, self.stream.write_all(bytes)).await;
        sent.context("the client does not read")?.context("cannot write to the MQTT connection")
    }

    /// The same as long as the client reads and has not gone. Whether all of it went.
    pub async fn flood(&mut self, bytes: &[u8], patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// The next packet that is no PINGREQ has this first byte; the packet.
    pub async fn packet(&mut self, first: u8) -> Result<Vec<u8>> {
        let packet = self.next().await?.with_context(|| format!("no packet {first:#04x}, but the end"))?;
        ensure!(packet.first() == Some(&first), "expected a packet {first:#04x}, got {packet:?}");
        Ok(packet)
    }

    /// The next packets are exactly these, pings apart.
    pub async fn expect(&mut self, packets: &[[u8; 4]]) -> Result<()> {
        for expected in packets {
            let packet = self.packet(expected[0]).await?;
            ensure!(packet == expected, "expected {expected:?}, got {packet:?}");
        }
        Ok(())
    }

    /// Waits until the client has closed the connection; what it still sends is thrown away.
    pub async fn closed(&mut self) -> Result<()> {
        let mut rest = [0; 4096];
        loop {
            match tokio::time::timeout(TIMEOUT, self.stream.read(&mut rest)).await {
                // A reset is an end, too.
                Ok(Ok(0) | Err(_)) => return Ok(()),
                Ok(Ok(_)) => {}
                Err(_) => bail!("the client does not close the connection"),
            }
        }
    }

    /// A PUBLISH to `a/1`, without properties.
    pub fn publish(&self, qos: u8, id: u16, payload: &[u8]) -> Vec<u8> {
        self.publish_to(b"a/1", qos, id, payload)
    }

    /// The same to any bytes.
    pub fn publish_to(&self, topic: &[u8], qos: u8, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend_from_slice(topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if self.five {
            body.push(0);
        }
        body.extend_from_slice(payload);
        let mut packet = vec![0x30 | qos << 1];
        let mut length = body.len();
        while length >= 0x80 {
            packet.push(length as u8 | 0x80);
            length >>= 7;
        }
        packet.push(length as u8);
        packet.extend(body);
        packet
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            while let Some(length) = self.frame() {
                let packet = self.received.split_to(length).to_vec();
                if packet != [0xc0, 0] {
                    return Ok(Some(packet));
                }
                self.send(&[0xd0, 0]).await?;
            }
            let read = tokio::time::timeout(TIMEOUT, self.stream.read_buf(&mut self.received)).await;
            if read.context("no MQTT packet in time")?? == 0 {
                return Ok(None);
            }
        }
    }

    /// The length of the packet at the front, when all of it has come.
    fn frame(&self) -> Option<usize> {
        let mut bytes = self.received.as_ref();
        bytes.has_remaining().then(|| bytes.advance(1))?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = bytes.has_remaining().then(|| bytes.get_u8())?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        (bytes.len() >= length).then(|| self.received.len() - bytes.len() + length)
    }
}
