//! MQTT 3.1.1 packets over a TCP connection, for both ends: rumqttc's codec, and nothing done behind the caller's back.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use rumqttc::{Error, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Greatest packet that either end reads or writes, in bytes.
const MAX_PACKET: usize = 8 << 20;

/// One end of a connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    received: BytesMut,
}

impl Link {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Link { stream, received: BytesMut::new() })
    }

    /// Sends one packet.
    pub async fn send(&mut self, packet: Packet) -> Result<()> {
        self.send_all([packet]).await
    }

    /// Sends packets in one write.
    pub async fn send_all(&mut self, packets: impl IntoIterator<Item = Packet>) -> Result<()> {
        let mut bytes = BytesMut::new();
        for packet in packets {
            packet.write(&mut bytes, MAX_PACKET)?;
        }
        self.send_raw(&bytes).await
    }

    /// Sends bytes, whatever they mean.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.context("cannot write to the MQTT connection")
    }

    /// The next packet; an error when none has come within `timeout` or the connection has ended.
    pub async fn receive(&mut self, timeout: Duration) -> Result<Packet> {
        match tokio::time::timeout(timeout, self.next()).await {
            Ok(packet) => packet?.context("the peer has closed the MQTT connection"),
            Err(_) => bail!("no MQTT packet within {timeout:?}"),
        }
    }

    /// The next packet, or `None` when the peer has closed the connection between two packets or has reset it.
    pub async fn next(&mut self) -> Result<Option<Packet>> {
        loop {
            match Packet::read(&mut self.received, MAX_PACKET) {
                Ok(packet) => return Ok(Some(packet)),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(error).context("the peer has sent a malformed packet"),
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) if self.received.is_empty() => return Ok(None),
                Ok(0) => bail!("the peer has closed the connection inside a packet"),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error).context("cannot read from the MQTT connection"),
            }
        }
    }
}
