//! A publisher that goes on at its rate over restarts of the broker, and knows what the broker has taken.
//!
//! Its session is persistent: after a lost connection it sends again what was not acknowledged, as section 4.4 of MQTT 3.1.1
//! asks for, so that at QoS 2 the broker has each message once. At QoS 1 the broker may have one twice then; how often that
//! may be is in the record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::{Connect, ConnectReturnCode, Packet, PubAck, PubComp, PubRec, PubRel, Publish, QoS};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::link::Link;
use crate::wait::wait_for;

/// Longer than a broker needs for an answer, or to come back.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(10);
/// Unacknowledged messages; at QoS 2 mosquitto takes no more.
const WINDOW: usize = 1_000;
const WINDOW_QOS_2: usize = 20;

/// What to publish, for as long as it runs: the numbers from 0 on.
#[derive(Debug, Clone)]
pub struct Load {
    /// Quality of service.
    pub qos: QoS,
    /// Messages a second.
    pub rate: u32,
    /// First level of the topic; the number is the second.
    pub topic: &'static str,
    /// Bytes that each payload has besides its number.
    pub padding: usize,
}

impl Load {
    /// Short messages to `fleet/NUMBER`.
    pub fn new(qos: QoS, rate: u32) -> Self {
        Load { qos, rate, topic: "fleet", padding: 0 }
    }

    fn message(&self, number: u64) -> Publish {
        let payload = format!(r#"{{"value":{number},"padding":"{}"}}"#, "x".repeat(self.padding));
        Publish::new(format!("{}/{number}", self.topic), self.qos, payload)
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QoS {}, {}/s", self.qos as u8, self.rate)
    }
}

/// What was published.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The broker has taken the numbers up to this one.
    pub count: u64,
    /// How often each number was sent in such a way that the broker may have it more than once.
    pub again: BTreeMap<u64, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Pause,
    Stop,
}

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    taken: AtomicU64,
}

/// A publisher at work.
#[derive(Debug)]
pub struct Publisher {
    order: watch::Sender<Order>,
    progress: Arc<Progress>,
    task: JoinHandle<Result<Published>>,
}

impl Publisher {
    /// Begins to publish to the broker on `port` of 127.0.0.1.
    pub fn start(port: u16, load: Load) -> Self {
        let (order, orders) = watch::channel(Order::Run);
        let progress = Arc::new(Progress::default());
        let state = State {
            load,
            orders,
            progress: progress.clone(),
            unacknowledged: BTreeMap::new(),
            numbers: HashMap::new(),
            last_id: 0,
            published: Published::default(),
        };
        Publisher { order, progress, task: tokio::spawn(state.run(port)) }
    }

    /// Messages that were sent so far.
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Relaxed)
    }

    /// Stops for a while, and returns when the broker has taken what was sent.
    pub async fn pause(&self) -> Result<()> {
        self.order.send_replace(Order::Pause);
        let taken =
            async || self.task.is_finished() || self.sent() == self.progress.taken.load(Ordering::Relaxed);
        wait_for("the broker takes what was published", PATIENCE, taken).await
    }

    /// Goes on.
    pub fn resume(&self) {
        self.order.send_replace(Order::Run);
    }

    /// Ends, once the broker has taken everything.
    pub async fn stop(mut self) -> Result<Published> {
        self.order.send_replace(Order::Stop);
        tokio::time::timeout(2 * PATIENCE, &mut self.task).await.context("the publisher does not end")??
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Sent {
    packet_id: u16,
    /// At QoS 2: PUBREC is in.
    received: bool,
}

struct State {
    load: Load,
    orders: watch::Receiver<Order>,
    progress: Arc<Progress>,
    unacknowledged: BTreeMap<u64, Sent>,
    /// By packet id.
    numbers: HashMap<u16, u64>,
    last_id: u16,
    published: Published,
}

impl State {
    async fn run(mut self, port: u16) -> Result<Published> {
        let mut last_up = Instant::now();
        loop {
            match self.connect(port).await {
                Ok((mut link, resumed)) => {
                    let result = self.session(&mut link, resumed).await;
                    last_up = Instant::now();
                    if result? {
                        return Ok(self.published);
                    }
                }
                Err(error) if last_up.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(TICK).await,
            }
        }
    }

    async fn connect(&self, port: u16) -> Result<(Link, bool)> {
        let mut link = Link::new(TcpStream::connect(("127.0.0.1", port)).await?)?;
        let id = format!("publisher-{}", self.load.topic);
        let connect = Connect { keep_alive: 0, clean_session: false, ..Connect::new(id) };
        link.send(Packet::Connect(connect)).await?;
        match link.receive(Duration::from_secs(5)).await? {
            Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => Ok((link, ack.session_present)),
            other => bail!("expected a CONNACK that accepts the publisher, got {other:?}"),
        }
    }

    /// One connection. Whether all is done; if not, the connection is lost.
    async fn session(&mut self, link: &mut Link, resumed: bool) -> Result<bool> {
        if link.send_all(self.again(resumed)).await.is_err() {
            return Ok(false);
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut begun, mut sent) = (Instant::now(), 0);
        let mut last_answer = Instant::now();
        loop {
            tokio::select! {
                packet = link.next() => {
                    let Ok(Some(packet)) = packet else { return Ok(false) };
                    last_answer = Instant::now();
                    if let Some(answer) = self.answered(packet)?
                        && link.send(answer).await.is_err()
                    {
                        return Ok(false);
                    }
                }
                _ = tick.tick() => {
                    if self.unacknowledged.is_empty() {
                        last_answer = Instant::now();
                    } else if last_answer.elapsed() > PATIENCE {
                        bail!("the broker does not acknowledge what was published");
                    }
                    let order = *self.orders.borrow();
                    if order == Order::Run {
                        // The truth about the rate: what a window or a pause has held back is not made up for.
                        let due = (begun.elapsed().as_secs_f64() * f64::from(self.load.rate)) as u64 - sent;
                        let packets = self.next(due);
                        sent += packets.len() as u64;
                        if (packets.len() as u64) < due {
                            (begun, sent) = (Instant::now(), 0);
                        }
                        if link.send_all(packets).await.is_err() {
                            return Ok(false);
                        }
                    } else {
                        (begun, sent) = (Instant::now(), 0);
                        if order == Order::Stop && self.unacknowledged.is_empty() {
                            return Ok(self.leave(link).await.is_ok());
                        }
                    }
                }
            }
        }
    }

    /// What was not acknowledged on an earlier connection, in its order.
    fn again(&mut self, resumed: bool) -> Vec<Packet> {
        let mut packets = Vec::new();
        for (&number, sent) in &mut self.unacknowledged {
            let pkid = sent.packet_id;
            if sent.received && resumed {
                packets.push(Packet::PubRel(PubRel { pkid }));
                continue;
            }
            if self.load.qos != QoS::ExactlyOnce || !resumed {
                *self.published.again.entry(number).or_default() += 1;
            }
            sent.received = false;
            packets.push(Packet::Publish(Publish { pkid, dup: true, ..self.load.message(number) }));
        }
        packets
    }

    /// The next messages, as many as the window has room for.
    fn next(&mut self, due: u64) -> Vec<Packet> {
        let window = if self.load.qos == QoS::ExactlyOnce { WINDOW_QOS_2 } else { WINDOW };
        let room = (window - self.unacknowledged.len()) as u64;
        let mut packets = Vec::new();
        for _ in 0..due.min(room) {
            let number = self.published.count;
            self.published.count += 1;
            let mut publish = self.load.message(number);
            if self.load.qos == QoS::AtMostOnce {
                self.progress.taken.fetch_add(1, Ordering::Relaxed);
            } else {
                publish.pkid = self.free_id();
                self.numbers.insert(publish.pkid, number);
                self.unacknowledged.insert(number, Sent { packet_id: publish.pkid, received: false });
            }
            self.progress.sent.fetch_add(1, Ordering::Relaxed);
            packets.push(Packet::Publish(publish));
        }
        packets
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.numbers.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Takes an answer of the broker; what is owed for it.
    fn answered(&mut self, packet: Packet) -> Result<Option<Packet>> {
        match packet {
            Packet::PubAck(PubAck { pkid }) | Packet::PubComp(PubComp { pkid }) => {
                if let Some(number) = self.numbers.remove(&pkid) {
                    self.unacknowledged.remove(&number);
                    self.progress.taken.fetch_add(1, Ordering::Relaxed);
                }
                Ok(None)
            }
            Packet::PubRec(PubRec { pkid }) => {
                let number = self.numbers.get(&pkid);
                if let Some(sent) = number.and_then(|number| self.unacknowledged.get_mut(number)) {
                    sent.received = true;
                }
                Ok(Some(Packet::PubRel(PubRel { pkid })))
            }
            other => bail!("expected acknowledgements, got {other:?}"),
        }
    }

    /// At QoS 0 the answer to a ping says that the broker has what came before it.
    async fn leave(&self, link: &mut Link) -> Result<()> {
        link.send(Packet::PingReq).await?;
        match link.receive(PATIENCE).await? {
            Packet::PingResp => link.send(Packet::Disconnect).await,
            other => bail!("expected PINGRESP, got {other:?}"),
        }
    }
}
