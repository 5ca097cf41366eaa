//! A small blocking MQTT 3.1.1 client: what fills the broker, and what a bare subscriber costs.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::support::messages::{encode_length, encode_publish, encode_string, next_id, payload, topic};

/// Messages in one write; their acknowledgements are awaited before the next.
const CHUNK: usize = 500;

/// A connected client.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects as `client_id` (section 3.1) and waits for the CONNACK.
    pub fn connect(port: u16, client_id: &str, clean_session: bool) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut client = Client { reader: BufReader::with_capacity(64 << 10, stream.try_clone()?), stream };
        let mut body = Vec::new();
        encode_string(&mut body, "MQTT");
        // Level 4; clean session is bit 1; no keep-alive.
        body.extend([4, u8::from(clean_session) << 1, 0, 0]);
        encode_string(&mut body, client_id);
        client.send(0x10, &body)?;
        let (first, answer) = client.packet()?;
        ensure!(first == 0x20 && answer[1] == 0, "CONNACK {first:#x} {answer:?}");
        Ok(client)
    }

    /// Subscribes at QoS 1 (section 3.8) and waits for the SUBACK.
    pub fn subscribe(&mut self, filter: &str) -> Result<()> {
        let mut body = vec![0, 1];
        encode_string(&mut body, filter);
        body.push(1);
        self.send(0x82, &body)?;
        let (first, answer) = self.packet()?;
        ensure!(first == 0x90 && answer[2] == 1, "SUBACK {first:#x} {answer:?}");
        Ok(())
    }

    /// DISCONNECT: a persistent session stays.
    pub fn disconnect(mut self) -> Result<()> {
        Ok(self.send(0xe0, &[])?)
    }

    /// Publishes the benchmarks' messages at QoS 1 as fast as the broker takes them; all are acknowledged on return.
    pub fn publish(&mut self, messages: usize) -> Result<()> {
        let mut id = 1;
        for start in (0..messages).step_by(CHUNK) {
            let chunk = CHUNK.min(messages - start);
            let mut out = Vec::with_capacity(chunk * 160);
            for i in start..start + chunk {
                let id_at = encode_publish(&mut out, 1, &topic(i), &payload(i));
                out[id_at..id_at + 2].copy_from_slice(&u16::to_be_bytes(id));
                id = next_id(id);
            }
            self.stream.write_all(&out)?;
            for _ in 0..chunk {
                let (first, _) = self.packet()?;
                ensure!(first == 0x40, "a packet {first:#x} instead of PUBACK");
            }
        }
        Ok(())
    }

    /// Publishes `rate` messages a second for `duration`, each with the nanoseconds since `epoch` in its payload, and
    /// returns how many. A message that is late is sent at once.
    pub fn publish_paced(mut self, rate: u32, duration: Duration, epoch: Instant) -> Result<u64> {
        // SAFETY: PR_SET_TIMERSLACK takes one number and concerns this thread alone.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let mut acks = self.reader;
        let drain = std::thread::spawn(move || io::copy(&mut acks, &mut io::sink()));
        let period = Duration::from_secs(1) / rate;
        let (start, mut id, mut sent) = (Instant::now(), 1, 0);
        let mut out = Vec::new();
        while period * (sent as u32) < duration {
            std::thread::sleep((start + period * (sent as u32)).saturating_duration_since(Instant::now()));
            out.clear();
            let id_at = encode_publish(&mut out, 1, &topic(sent as usize), &stamp(epoch));
            out[id_at..id_at + 2].copy_from_slice(&u16::to_be_bytes(id));
            self.stream.write_all(&out)?;
            id = next_id(id);
            sent += 1;
        }
        self.stream.write_all(&[0xe0, 0])?;
        // The broker closes the connection after the DISCONNECT.
        drain.join().map_err(|_| anyhow::anyhow!("the reader of acknowledgements panicked"))??;
        Ok(sent)
    }

    /// Receives one message, acknowledges it, and returns its payload.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let (first, body) = self.packet()?;
        ensure!(first & 0xf6 == 0x32, "a packet {first:#x} instead of PUBLISH at QoS 1");
        let id_at = 2 + u16::from_be_bytes([body[0], body[1]]) as usize;
        self.stream.write_all(&[0x40, 2, body[id_at], body[id_at + 1]])?;
        Ok(body[id_at + 2..].to_vec())
    }

    fn send(&mut self, first: u8, body: &[u8]) -> io::Result<()> {
        let mut out = vec![first];
        encode_length(&mut out, body.len());
        out.extend(body);
        self.stream.write_all(&out)
    }

    fn packet(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte).context("the broker sent nothing")?;
        let first = byte[0];
        let (mut length, mut shift) = (0, 0);
        while shift == 0 || byte[0] & 0x80 != 0 {
            self.reader.read_exact(&mut byte)?;
            length |= ((byte[0] & 0x7f) as usize) << shift;
            shift += 7;
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((first, body))
    }
}

/// A payload of 100 bytes that says when it was sent.
fn stamp(epoch: Instant) -> Vec<u8> {
    format!("{:<100}", epoch.elapsed().as_nanos()).into_bytes()
}

/// The latency of a message with such a payload.
pub fn latency(epoch: Instant, payload: &str) -> Result<Duration> {
    let sent: u64 = payload.trim_end().parse().with_context(|| format!("a strange payload {payload:?}"))?;
    Ok(epoch.elapsed().saturating_sub(Duration::from_nanos(sent)))
}
