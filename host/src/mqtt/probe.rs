//! A trial connection: whether the broker lets a client with these settings in and grants its filters. Nothing is taken from
//! anyone by it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::GOODBYE;
use super::packet::{self, DISCONNECT, Incoming, PROTOCOL_ERROR};
use super::publish::{self, PUBLISH};
use super::transport::{self, Stream};
use super::{intake, subscribe};
use crate::config::{Mqtt, Retained};
use crate::error::MqttError;

pub(crate) use super::transport::layers;

/// The trial connection. Messages that the broker sends meanwhile are skipped and not acknowledged: they are copies for a
/// session that ends with the connection.
pub(crate) struct Probe {
    settings: Mqtt,
    stream: Box<dyn Stream>,
    /// When it is given up.
    deadline: Instant,
    unread: Vec<u8>,
    /// Bytes of a message that are still to come.
    skip: usize,
    packet_id: u16,
}

impl Probe {
    /// Resolves, connects and does the TLS handshake. The whole trial takes at most `connect_timeout`.
    pub async fn open(settings: &Mqtt) -> Result<Self, MqttError> {
        let mut settings = settings.clone();
        // Another id, so that a source that runs is not thrown out; a clean session, so that none is left behind; no will.
        settings.client_id = format!("{}-check-{:08x}", settings.client_id, fastrand::u32(..));
        (settings.clean_session, settings.last_will) = (true, None);
        let deadline = Instant::now() + settings.connect_timeout;
        let connect = timeout_at(deadline, transport::connect(&settings, deadline)).await;
        let stream = connect.map_err(|_| timed_out(&settings, transport::layers(&settings)))??;
        Ok(Probe { settings, stream, deadline, unread: Vec::new(), skip: 0, packet_id: 0 })
    }

    /// The temporary client id.
    pub fn client_id(&self) -> &str {
        &self.settings.client_id
    }

    /// CONNECT, to its CONNACK.
    pub async fn login(&mut self) -> Result<(), MqttError> {
        self.try_login().await.map_err(|error| transport::explain(error, &self.settings))
    }

    async fn try_login(&mut self) -> Result<(), MqttError> {
        self.send(&packet::connect(&self.settings)?).await?;
        match self.receive("CONNACK").await? {
            Incoming::ConnAck(connack) => {
                subscribe::accepted(&connack, &self.settings, None)?;
                Ok(())
            }
            other => Err(unexpected("CONNACK", &other)),
        }
    }

    /// SUBSCRIBE to one filter, to its SUBACK; also what was subscribed to. In the group of a shared subscription messages go to
    /// one member, so the trial has a group of its own: it gets copies, and the others miss nothing.
    pub async fn subscribe(&mut self, filter: &str) -> (String, Result<(), MqttError>) {
        let tried = match filter.strip_prefix("$share/").and_then(|shared| shared.split_once('/')) {
            Some((_, plain)) => format!("$share/{}/{plain}", self.group()),
            None => filter.to_owned(),
        };
        let granted = self.try_filter(filter, &tried).await;
        (tried, granted)
    }

    fn group(&self) -> String {
        // A group has no `/`, `+` or `#` (5.0 section 4.8.2); a client id may.
        self.settings.client_id.replace(['/', '+', '#'], "_")
    }

    async fn try_filter(&mut self, filter: &str, tried: &str) -> Result<(), MqttError> {
        self.packet_id += 1;
        let (version, qos) = (self.settings.version, self.settings.qos);
        // Retained messages are not for a trial.
        let filters = [tried.to_owned()];
        self.send(&packet::subscribe(version, self.packet_id, &filters, qos, Retained::Skip)?).await?;
        match self.receive("SUBACK").await? {
            Incoming::SubAck { packet_id, granted } if packet_id == self.packet_id => match &granted[..] {
                [answer] => subscribe::granted(filter, qos, answer),
                answers => {
                    let reason = format!("{} codes for one filter", answers.len());
                    Err(packet::error("SUBACK", reason, PROTOCOL_ERROR))
                }
            },
            other => Err(unexpected("SUBACK", &other)),
        }
    }

    /// DISCONNECT, and the end of the connection. What goes wrong with that changes nothing.
    pub async fn goodbye(mut self) {
        let _ = timeout(GOODBYE, transport::close(&mut *self.stream, &DISCONNECT, GOODBYE)).await;
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), MqttError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout_at(self.deadline, sent).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(timed_out(&self.settings, "the network to take a packet")),
        }
    }

    /// The next packet that is not a message.
    async fn receive(&mut self, waiting_for: &'static str) -> Result<Incoming, MqttError> {
        loop {
            if let Some(packet) = self.next_packet()? {
                return match packet::decode(self.settings.version, &packet)? {
                    Incoming::Disconnect { code, reason } => Err(MqttError::Disconnected { code, reason }),
                    incoming => Ok(incoming),
                };
            }
            let mut bytes = [0; 4096];
            let read = match timeout_at(self.deadline, self.stream.read(&mut bytes)).await {
                Ok(read) => read?,
                Err(_) => return Err(timed_out(&self.settings, waiting_for)),
            };
            let Some(bytes) = bytes.get(..read).filter(|bytes| !bytes.is_empty()) else {
                return Err(MqttError::Closed);
            };
            self.unread.extend_from_slice(bytes);
        }
    }

    /// Takes the next whole packet that is not a message out of what has come.
    fn next_packet(&mut self) -> Result<Option<Vec<u8>>, MqttError> {
        loop {
            let skipped = self.skip.min(self.unread.len());
            self.unread.drain(..skipped);
            self.skip -= skipped;
            let head =
                publish::head(&self.unread).map_err(|reason| intake::malformed(&self.unread, reason))?;
            match head {
                Some(head) if head.first >> 4 == PUBLISH => self.skip = head.total,
                Some(head) if head.total > intake::MAX_OTHER => {
                    return Err(intake::malformed(&self.unread, "it is longer than 64 KiB"));
                }
                Some(head) if head.total <= self.unread.len() => {
                    return Ok(Some(self.unread.drain(..head.total).collect()));
                }
                _ => return Ok(None),
            }
            if self.unread.len() < self.skip {
                // All of it is of this message.
                self.skip -= self.unread.len();
                self.unread.clear();
                return Ok(None);
            }
        }
    }
}

fn timed_out(settings: &Mqtt, waiting_for: &'static str) -> MqttError {
    MqttError::Timeout { broker: settings.url.to_string(), after: settings.connect_timeout, waiting_for }
}

fn unexpected(expected: &'static str, found: &Incoming) -> MqttError {
    packet::error(expected, format!("something else came instead: {found:?}"), PROTOCOL_ERROR)
}
