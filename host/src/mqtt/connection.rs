//! One connection: the future that owns the stream. It polls what comes back from the pipeline, the write side, the read side
//! and the timers in turn and waits for none of them alone, because a client that stops reading while it writes
//! acknowledgements can deadlock with a broker that does the same.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::intake::{Intake, Stop};
use super::keep_alive::KeepAlive;
use super::packet::{self, ConnAck, Incoming, PROTOCOL_ERROR};
use super::publish::ReadBuffer;
use super::store::Change;
use super::subscribe::{self, Phase};
use super::transport::{self, Stream};
use super::{Driver, Shutdown, epoch_nanos};
use crate::config::Version;
use crate::error::MqttError;
use crate::status::Part;

/// With so many bytes that the broker does not take, nothing more is read that would have to be answered.
const MAX_UNWRITTEN: usize = 1 << 20;
/// The same with so many changes of the session that the disk has not.
const MAX_UNSTORED: usize = 1 << 16;
/// After so many reads without a pause the time is looked at.
const READS_PER_LOOK: u64 = 256;
/// How long a broker may be silent at the goodbye before it closes its side.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct Connection<'a> {
    driver: &'a Driver,
    stream: Box<dyn Stream>,
    intake: &'a mut Intake,
    buffer: &'a mut ReadBuffer,
    phase: Phase,
    /// When it came up.
    up: Option<Instant>,
    /// When an attempt that is not up is given up.
    deadline: Instant,
    /// When a drain ends, once it has begun.
    grace: Option<Instant>,
    keep_alive: KeepAlive,
    /// Bytes of the session's `out` that are written.
    written: usize,
    unflushed: bool,
    /// The buffer has what the window has no room for.
    paused: bool,
    timer: Pin<Box<Sleep>>,
    /// When the last read was, in nanoseconds since the Unix epoch. Nothing is read while there are whole packets in the buffer,
    /// so that this is when the last byte of each packet came that is decoded.
    read_at: u64,
    /// Reads so far, and how many there were at the last idle tick; `None`: nothing is kept that a tick would give back.
    reads: u64,
    ticked: Option<u64>,
    /// A worker is gone, and nobody had said why.
    gone: bool,
}

enum Turn {
    Again,
    Drained,
}

impl<'a> Connection<'a> {
    /// Speaks MQTT on `stream`; not up before `deadline` is an error.
    pub fn new(
        driver: &'a Driver,
        stream: Box<dyn Stream>,
        intake: &'a mut Intake,
        buffer: &'a mut ReadBuffer,
        deadline: Instant,
    ) -> Result<Self, MqttError> {
        buffer.clear();
        intake.session.out = packet::connect(&driver.settings)?;
        Ok(Connection {
            driver,
            stream,
            intake,
            buffer,
            phase: Phase::Connecting,
            up: None,
            deadline,
            grace: None,
            keep_alive: KeepAlive::new(driver.settings.keep_alive, Instant::now()),
            written: 0,
            unflushed: false,
            paused: false,
            timer: Box::pin(sleep_until(deadline)),
            read_at: 0,
            reads: 0,
            ticked: None,
            gone: false,
        })
    }

    /// When all filters were granted or the session was resumed.
    pub fn up_since(&self) -> Option<Instant> {
        self.up
    }

    /// Runs until the connection is lost, or until it is drained after a shutdown and closed properly. `grace` is set to the end
    /// of the drain when the shutdown begins.
    pub async fn run(
        &mut self,
        shutdown: &mut Shutdown,
        grace: &mut Option<Instant>,
    ) -> Result<(), MqttError> {
        let result = self.turns(shutdown, grace).await;
        if self.phase != Phase::Connecting {
            self.intake.count(|metrics| &metrics.disconnections);
        }
        result
    }

    async fn turns(&mut self, shutdown: &mut Shutdown, grace: &mut Option<Instant>) -> Result<(), MqttError> {
        loop {
            let turn = std::future::poll_fn(|cx| {
                if self.grace.is_none() && shutdown.poll(cx).is_ready() {
                    let end = Instant::now() + self.driver.grace;
                    self.intake.drain();
                    self.driver.status.not_ready(Part::Mqtt, "shutting down");
                    (*grace, self.grace) = (Some(end), Some(end));
                    self.timer.as_mut().reset(Instant::now());
                }
                self.poll_turn(cx)
            })
            .await;
            match turn {
                Ok(Turn::Again) => {}
                Ok(Turn::Drained) => {
                    self.goodbye().await;
                    return Ok(());
                }
                // A worker that stops the source says so before it goes, and the word may be on its way to us.
                Err(MqttError::WorkersGone) if self.grace.is_none() && !self.gone => {
                    self.gone = true;
                    yield_now().await;
                }
                Err(error) => {
                    self.complain(&error).await;
                    return Err(error);
                }
            }
        }
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, MqttError>> {
        self.intake.progress(cx)?;
        if self.paused && self.grace.is_none() {
            self.decode(cx)?;
        }
        self.poll_write(cx)?;
        match self.grace {
            Some(_) if self.intake.is_drained() && self.intake.session.out.is_empty() => {
                return Poll::Ready(Ok(Turn::Drained));
            }
            Some(_) => {}
            None => {
                if !self.paused
                    && self.intake.session.out.len() < MAX_UNWRITTEN
                    && self.intake.session.changes.len() < MAX_UNSTORED
                    && self.poll_read(cx)?.is_ready()
                {
                    if self.reads.is_multiple_of(READS_PER_LOOK) {
                        self.look_at_time()?;
                    }
                    return Poll::Ready(Ok(Turn::Again));
                }
                self.intake.check_workers(cx)?;
            }
        }
        if self.ticked.is_none() && self.intake.keeps_memory() {
            self.ticked = Some(self.reads);
            let tick = Instant::now() + self.driver.settings.empty_poll_delay;
            let next = tick.min(self.timer.deadline());
            self.timer.as_mut().reset(next);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.grace.is_some_and(|end| end <= now) {
                return Poll::Ready(Ok(Turn::Drained));
            }
            let next = self.on_time(now)?;
            self.timer.as_mut().reset(next);
            self.poll_write(cx)?;
        }
        Poll::Pending
    }

    /// What is due though there is always something to read: the timer is only polled when there is nothing.
    fn look_at_time(&mut self) -> Result<(), MqttError> {
        let now = Instant::now();
        if self.timer.deadline() <= now {
            let next = self.on_time(now)?;
            self.timer.as_mut().reset(next);
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), MqttError> {
        let out = &mut self.intake.session.out;
        while let Some(rest) = out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *self.stream).poll_write(cx, rest) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(MqttError::Closed),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        if self.unflushed {
            self.keep_alive.written(Instant::now());
            out.clear();
            self.written = 0;
            if let Poll::Ready(flushed) = Pin::new(&mut *self.stream).poll_flush(cx) {
                flushed?;
                self.unflushed = false;
            }
        }
        Ok(())
    }

    /// Reads and decodes once; pending if there is nothing to read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, MqttError> {
        let mut space = ReadBuf::new(self.buffer.space());
        match Pin::new(&mut *self.stream).poll_read(cx, &mut space) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read?,
        }
        let n = space.filled().len();
        if n == 0 {
            return Err(MqttError::Closed);
        }
        self.buffer.filled(n);
        self.reads += 1;
        self.read_at = epoch_nanos();
        let (unread, skipping) = (self.buffer.unread().len(), self.buffer.skipped.is_some());
        self.decode(cx)?;
        let skips = self.buffer.skipped.is_some();
        let whole = !skips && (skipping || self.buffer.unread().len() < unread);
        self.keep_alive.came(n, whole, Instant::now());
        Ok(Poll::Ready(()))
    }

    /// Decodes what is in the buffer, as far as the window has room.
    fn decode(&mut self, cx: &mut Context<'_>) -> Result<(), MqttError> {
        loop {
            let stop = self.decode_all();
            // Also after an error: what came before it is good, unless its topics are not.
            let settled = self.intake.finish(self.read_at)?;
            self.paused = match stop? {
                Stop::Read | Stop::Other(_) => false,
                Stop::Full => true,
                Stop::Oversized(skipped) => {
                    self.intake.oversized(skipped, self.read_at);
                    continue;
                }
            };
            let handed_on = self.intake.hand_on(cx)?;
            if !(self.paused && (handed_on || settled)) {
                return Ok(());
            }
        }
    }

    fn decode_all(&mut self) -> Result<Stop, MqttError> {
        loop {
            if self.phase == Phase::Connecting
                && self.buffer.unread().first().is_some_and(|first| first >> 4 != 2)
            {
                let name = packet::name(self.buffer.unread().first().copied().unwrap_or_default());
                return Err(packet::error(name, "it came before CONNACK", PROTOCOL_ERROR));
            }
            let length = match self.intake.decode(self.buffer)? {
                Stop::Other(length) => length,
                stop => return Ok(stop),
            };
            let bytes = self.buffer.unread().get(..length).unwrap_or_default();
            let incoming = packet::decode(self.driver.settings.version, bytes)?;
            self.buffer.advance(length, 0);
            self.handle(incoming)?;
        }
    }

    fn handle(&mut self, incoming: Incoming) -> Result<(), MqttError> {
        match incoming {
            Incoming::ConnAck(connack) => self.connack(&connack),
            Incoming::SubAck { packet_id, granted } => {
                let settings = &self.driver.settings;
                subscribe::show(&self.phase, settings.qos, &granted, &self.driver.metrics.link);
                subscribe::suback(&mut self.phase, settings, packet_id, &granted)?;
                self.is_subscribed();
                Ok(())
            }
            Incoming::UnsubAck { packet_id, failure } => {
                subscribe::unsuback(&mut self.phase, packet_id, failure)?;
                self.is_subscribed();
                Ok(())
            }
            Incoming::PubRel { packet_id } => {
                self.intake.session.release(packet_id);
                Ok(())
            }
            Incoming::PingResp => Ok(()),
            Incoming::Disconnect { code: packet::TAKEN_OVER, .. } => {
                Err(MqttError::TakenOver { client_id: self.driver.settings.client_id.clone() })
            }
            Incoming::Disconnect { code, reason } => Err(MqttError::Disconnected { code, reason }),
        }
    }

    fn connack(&mut self, connack: &ConnAck) -> Result<(), MqttError> {
        if self.phase != Phase::Connecting {
            return Err(packet::error("CONNACK", "it came a second time", PROTOCOL_ERROR));
        }
        let settings = &self.driver.settings;
        let (phase, out) = subscribe::accepted(connack, settings, self.intake.subscribed.as_ref())?;
        self.intake.count(|metrics| &metrics.connections);
        self.intake.session.connected(connack.session_present);
        if !connack.session_present {
            self.intake.subscribed = None;
        }
        if let Some(seconds) = connack.keep_alive {
            self.keep_alive.overrule(seconds);
        }
        self.intake.session.out.extend_from_slice(&out);
        info!(
            source = self.driver.name,
            broker = %settings.url,
            client_id = connack.client_id.as_deref().unwrap_or(&settings.client_id),
            session_present = connack.session_present,
            keep_alive_secs = self.keep_alive.seconds(),
            "connected to the MQTT broker"
        );
        let wanted = if settings.clean_session { 0 } else { settings.session_expiry_secs };
        if let Some(session_expiry_secs) = connack.session_expiry.filter(|granted| *granted < wanted) {
            warn!(
                source = self.driver.name,
                session_expiry_secs,
                wanted,
                "the broker keeps the session for less long than was asked for; what it queues is lost when a stop takes longer"
            );
        }
        self.phase = phase;
        if self.phase == Phase::Up {
            info!(source = self.driver.name, filters = ?settings.topics, "session resumed, subscriptions are in place");
            self.is_up();
        }
        // The broker counts the keep-alive from now on, also while its SUBACK takes long.
        self.timer.as_mut().reset(Instant::now());
        Ok(())
    }

    fn is_subscribed(&mut self) {
        if self.phase != Phase::Up {
            return;
        }
        let settings = &self.driver.settings;
        info!(source = self.driver.name, filters = ?settings.topics, qos = settings.qos as u8, "subscribed");
        let subscribed = subscribe::wanted(settings);
        self.intake.subscribed = Some(subscribed.clone());
        self.intake.session.change(Change::Subscribed(subscribed));
        self.is_up();
    }

    fn is_up(&mut self) {
        self.up = Some(Instant::now());
        self.driver.metrics.link.subscribed(self.driver.settings.qos);
        self.driver.status.ready(Part::Mqtt);
    }

    /// What is due by now; when to look again.
    fn on_time(&mut self, now: Instant) -> Result<Instant, MqttError> {
        let mut next = self.grace.unwrap_or(now + Duration::from_secs(3_600));
        match self.ticked {
            None => {}
            Some(reads) if reads == self.reads => {
                self.ticked = None;
                self.intake.release_memory();
            }
            Some(_) => {
                self.ticked = Some(self.reads);
                next = next.min(now + self.driver.settings.empty_poll_delay);
            }
        }
        if self.up.is_none() && self.grace.is_none() {
            if self.paused {
                // The answer is behind messages that have no room yet: that is our doing.
                self.deadline = now + self.driver.settings.connect_timeout;
            }
            if self.deadline <= now {
                return Err(MqttError::Timeout {
                    broker: self.driver.settings.url.to_string(),
                    after: self.driver.settings.connect_timeout,
                    waiting_for: self.phase.waiting_for(),
                });
            }
            next = next.min(self.deadline);
        }
        if self.phase == Phase::Connecting {
            return Ok(next);
        }
        let (ping, look) = self.keep_alive.due(now, self.paused || self.grace.is_some())?;
        if ping {
            debug!(source = self.driver.name, paused = self.paused, "ping");
            self.intake.session.out.extend_from_slice(&packet::PINGREQ);
        }
        Ok(next.min(look))
    }

    /// DISCONNECT, so that the will is not published (3.1.1 section 3.14.4), and an end that loses nothing. A client may say it
    /// before the CONNACK (section 3.1.4), and should: the broker may have accepted the CONNECT.
    async fn goodbye(&mut self) {
        let out = &mut self.intake.session.out;
        out.drain(..self.written.min(out.len()));
        out.extend_from_slice(&packet::DISCONNECT);
        let bytes = std::mem::take(out);
        // What it has not read when we go is lost with the connection, so a busy broker gets what is left of the grace.
        let now = Instant::now();
        let end = self.grace.unwrap_or(now).max(now + GOODBYE);
        match timeout_at(end, transport::close(&mut *self.stream, &bytes, GOODBYE)).await {
            Ok(Ok(())) => info!(source = self.driver.name, "disconnected from the MQTT broker"),
            Ok(Err(error)) if error.kind() != ErrorKind::TimedOut => {
                debug!(source = self.driver.name, %error, "the broker closed first")
            }
            _ => debug!(source = self.driver.name, "the broker does not close its side"),
        }
    }

    /// Tells a broker of 5.0 why the connection is closed (section 3.14.2.1), if that can be done at once.
    async fn complain(&mut self, error: &MqttError) {
        let MqttError::Malformed { code, .. } = error else { return };
        if self.driver.settings.version == Version::V5 && self.written == 0 && self.phase != Phase::Connecting
        {
            let disconnect = [packet::DISCONNECT[0], 1, *code];
            let _ = timeout(GOODBYE, async {
                self.stream.write_all(&disconnect).await?;
                self.stream.flush().await
            })
            .await;
        }
    }
}
