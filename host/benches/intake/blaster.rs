//! The other end of the connection: a scripted MQTT 3.1.1 broker on a raw blocking socket.
//!
//! Everything is encoded beforehand, so that it costs as little of the machine as a sender can. It checks that
//! acknowledgements come in the order of the messages, and in the end that every message was acknowledged.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::support::messages::{TOPICS, encode_publish, next_id, payload, topic};
use crate::support::stats::Latencies;

/// Messages that may be unacknowledged.
const WINDOW: u64 = 20_000;
/// Messages in one write, at most.
const CHUNK: usize = 500;
/// Acknowledgements that wake the blaster while its window is full. One at a time, a receiver that flushes few of them pays
/// for waking its peer each time, and looks 1.8 times worse than it is.
const WAKE_AT_ACKS: usize = 400;
/// Bytes of a PUBACK (section 3.4).
const PUBACK: usize = 4;
/// How long the last acknowledgements may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the blaster sends.
#[derive(Debug, Clone, Copy)]
pub struct Blaster {
    /// 0 or 1.
    pub qos: u8,
    /// One message at a time, so many a second, and the time to each acknowledgement is kept; else as fast as it goes.
    pub pace: Option<u32>,
}

/// A blaster at work.
pub struct Running {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Finished>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acked: AtomicU64,
}

/// What a blaster did.
pub struct Finished {
    /// Messages sent, and at QoS 1 acknowledged.
    pub sent: u64,
    /// From the write of a message to its acknowledgement, when paced.
    pub latencies: Latencies,
    /// Held open until the client has gone.
    _stream: TcpStream,
}

impl Blaster {
    /// Listens for one client and serves it on a thread named `blaster`.
    pub fn start(self) -> Result<Running> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("blaster".into())
            .spawn(move || Serving::accept(self, &listener, &theirs)?.serve())?;
        Ok(Running { port, shared, thread })
    }
}

impl Running {
    /// Messages acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Relaxed)
    }

    /// Sends no more, waits for the acknowledgements that are due, and says what was done.
    pub fn finish(self) -> Result<Finished> {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the blaster panicked"))?
    }
}

struct Serving<'a> {
    how: Blaster,
    shared: &'a Shared,
    stream: TcpStream,
    ring: Ring,
    acks: Acks,
    sent: u64,
}

impl<'a> Serving<'a> {
    /// CONNECT, CONNACK, SUBSCRIBE, SUBACK.
    fn accept(how: Blaster, listener: &TcpListener, shared: &'a Shared) -> Result<Self> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let (first, _) = packet(&mut stream).context("no CONNECT")?;
        ensure!(first == 0x10, "a packet {first:#x} instead of CONNECT");
        stream.write_all(&[0x20, 2, 0, 0])?;
        let (first, subscribe) = packet(&mut stream).context("no SUBSCRIBE")?;
        ensure!(first == 0x82, "a packet {first:#x} instead of SUBSCRIBE");
        let granted = requested_qos(&subscribe);
        let mut suback = vec![0x90, 2 + granted.len() as u8, subscribe[0], subscribe[1]];
        suback.extend(granted);
        stream.write_all(&suback)?;
        Ok(Serving { how, shared, stream, ring: Ring::new(how.qos), acks: Acks::default(), sent: 0 })
    }

    fn serve(mut self) -> Result<Finished> {
        let latencies = match self.how.pace {
            Some(rate) => self.paced(rate)?,
            None => self.blast().map(|()| Latencies::default())?,
        };
        self.drain()?;
        Ok(Finished { sent: self.sent, latencies, _stream: self.stream })
    }

    /// As fast as the window and the socket allow.
    fn blast(&mut self) -> Result<()> {
        self.wake_at((WAKE_AT_ACKS * PUBACK) as i32)?;
        while !self.shared.stop.load(Relaxed) {
            let mut room = CHUNK as u64;
            if self.how.qos > 0 {
                let acks_wait = if self.room() < CHUNK as u64 { 0 } else { libc::MSG_DONTWAIT };
                self.take_acks(acks_wait)?;
                room = room.min(self.room());
            }
            let chunk = self.ring.next(room as usize);
            self.stream.write_all(chunk)?;
            self.sent += (chunk.len() / self.ring.size) as u64;
        }
        self.wake_at(1)
    }

    /// One message at a time, `rate` a second. A message that is late is sent at once.
    fn paced(&mut self, rate: u32) -> Result<Latencies> {
        // SAFETY: PR_SET_TIMERSLACK takes one number and concerns this thread alone.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let period = Duration::from_secs(1) / rate;
        let mut latencies = Latencies::default();
        let mut due = Instant::now();
        while !self.shared.stop.load(Relaxed) {
            due += period;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let message = self.ring.next(1);
            let written = Instant::now();
            self.stream.write_all(message)?;
            self.sent += 1;
            while self.acks.count < self.sent {
                self.take_acks(0)?;
            }
            latencies.record(written.elapsed());
        }
        Ok(latencies)
    }

    /// Waits until every message is acknowledged.
    fn drain(&mut self) -> Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        while self.how.qos > 0 && self.acks.count < self.sent {
            let missing = self.sent - self.acks.count;
            self.take_acks(0)
                .with_context(|| format!("{missing} of {} messages unacknowledged", self.sent))?;
        }
        Ok(())
    }

    fn room(&self) -> u64 {
        WINDOW - (self.sent - self.acks.count)
    }

    fn take_acks(&mut self, flags: i32) -> Result<()> {
        let pings = self.acks.take(&self.stream, flags)?;
        for _ in 0..pings {
            self.stream.write_all(&[0xd0, 0])?;
        }
        self.shared.acked.store(self.acks.count, Relaxed);
        Ok(())
    }

    /// Sets how many bytes have to be there before a waiting read returns.
    fn wake_at(&self, bytes: i32) -> Result<()> {
        let size = size_of::<i32>() as libc::socklen_t;
        let value = (&raw const bytes).cast();
        // SAFETY: the socket is open and `value` points to `size` bytes.
        let result = unsafe {
            libc::setsockopt(self.stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, size)
        };
        ensure!(result == 0, "SO_RCVLOWAT: {}", io::Error::last_os_error());
        Ok(())
    }
}

/// The encoded messages, sent round and round with new packet identifiers.
struct Ring {
    bytes: Vec<u8>,
    /// Bytes of one message; all are alike.
    size: usize,
    /// Where the packet identifier stands in a message; 0 for none.
    id_at: usize,
    at: usize,
    id: u16,
}

impl Ring {
    fn new(qos: u8) -> Self {
        let mut ring = Ring { bytes: Vec::new(), size: 0, id_at: 0, at: 0, id: 1 };
        for i in 0..TOPICS {
            let start = ring.bytes.len();
            let id_at = encode_publish(&mut ring.bytes, qos, &topic(i), &payload(i));
            ring.id_at = id_at.saturating_sub(start);
            ring.size = ring.bytes.len() - start;
        }
        ring
    }

    /// Up to `messages` messages, ready to be written.
    fn next(&mut self, messages: usize) -> &[u8] {
        let n = messages.min(TOPICS - self.at);
        let chunk = &mut self.bytes[self.at * self.size..(self.at + n) * self.size];
        if self.id_at > 0 {
            for message in chunk.chunks_exact_mut(self.size) {
                message[self.id_at..self.id_at + 2].copy_from_slice(&self.id.to_be_bytes());
                self.id = next_id(self.id);
            }
        }
        self.at = (self.at + n) % TOPICS;
        chunk
    }
}

/// Reads acknowledgements and checks their order.
struct Acks {
    buffer: Vec<u8>,
    filled: usize,
    next: u16,
    count: u64,
}

impl Default for Acks {
    fn default() -> Self {
        Acks { buffer: vec![0; 128 << 10], filled: 0, next: 1, count: 0 }
    }
}

impl Acks {
    /// Takes what is there, or, without `MSG_DONTWAIT`, waits for it. Returns how many PINGREQs were among it.
    fn take(&mut self, stream: &TcpStream, flags: i32) -> Result<usize> {
        let space = &mut self.buffer[self.filled..];
        // SAFETY: `space` is writable for its whole length.
        let n = unsafe { libc::recv(stream.as_raw_fd(), space.as_mut_ptr().cast(), space.len(), flags) };
        if n < 0 {
            let error = io::Error::last_os_error();
            let nothing_yet = error.kind() == io::ErrorKind::WouldBlock && flags != 0;
            return if nothing_yet { Ok(0) } else { Err(error.into()) };
        }
        ensure!(n > 0, "the client closed the connection");
        self.filled += n as usize;
        let (mut at, mut pings) = (0, 0);
        loop {
            match &self.buffer[at..self.filled] {
                [0x40, 2, high, low, ..] => {
                    let id = u16::from_be_bytes([*high, *low]);
                    ensure!(id == self.next, "acknowledgement of {id} instead of {}", self.next);
                    self.next = next_id(id);
                    self.count += 1;
                    at += PUBACK;
                }
                [0xc0, 0, ..] => {
                    pings += 1;
                    at += 2;
                }
                [] | [0x40 | 0xc0] | [0x40, _] | [0x40, _, _] => break,
                other => bail!("an unexpected packet {:02x?}", &other[..other.len().min(4)]),
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(pings)
    }
}

/// The QoS that a SUBSCRIBE asks for, filter by filter (section 3.8.3).
fn requested_qos(subscribe: &[u8]) -> Vec<u8> {
    let mut filters = &subscribe[2..];
    let mut granted = Vec::new();
    while let [high, low, rest @ ..] = filters {
        let (_, after) = rest.split_at(u16::from_be_bytes([*high, *low]) as usize);
        granted.push(after[0] & 3);
        filters = &after[1..];
    }
    granted
}

/// One whole packet of the handshake: first byte and body.
fn packet(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    let mut next = |stream: &mut TcpStream| stream.read_exact(&mut byte).map(|()| byte[0]);
    let first = next(stream)?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = next(stream)?;
        length |= ((byte & 0x7f) as usize) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}
