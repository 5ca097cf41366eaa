//! Three sources in one host, of QoS 0, 1 and 2, with bad networks on both sides: the links and the soak.

use std::time::Duration;

use anyhow::Result;
use rumqttc::QoS;
use serde_json::{Value, json};

use super::follower::Follower;
use super::log::Deliveries;
use super::publisher::{Load, Publisher};
use super::rig::{self, PATIENCE};
use super::row::Row;
use crate::broker::{Broker, Setup};
use crate::config;
use crate::fault_proxy::FaultProxy;
use crate::guests;
use crate::host::Host;
use crate::rivven::Rivven;
use crate::wait::wait_for;

/// Source, first level of its MQTT topics, and destination.
const NAMES: [(&str, QoS); 3] =
    [("qos-0", QoS::AtMostOnce), ("qos-1", QoS::AtLeastOnce), ("qos-2", QoS::ExactlyOnce)];
/// Connections to Rivven.
const CONNECTIONS: u64 = 16;

pub struct Trio {
    pub broker: Broker,
    pub rivven: Rivven,
    pub host: Host,
    /// Between the host and the broker.
    pub mqtt: FaultProxy,
    /// Between the host and Rivven.
    pub sink: FaultProxy,
    lines: Vec<Line>,
    rate: u32,
}

struct Line {
    name: &'static str,
    qos: QoS,
    /// Whether each message has to arrive.
    owed: bool,
    publisher: Publisher,
    follower: Follower,
}

/// What became of the messages of one QoS.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    pub lost: u64,
    pub duplicates: u64,
    /// Copies that the broker sent beyond the first of each message.
    pub sent_again: u64,
}

impl Trio {
    /// Starts everything. Each publisher has `rate` messages a second with `padding` bytes. Messages of QoS 0 have to arrive
    /// too if `reliable`: the MQTT connection is not harmed.
    pub async fn start(broker: Setup, rate: u32, padding: usize, reliable: bool) -> Result<Self> {
        let broker = broker.start().await?;
        let rivven = Rivven::launch().await?;
        let mqtt = FaultProxy::listen(broker.port()).await?;
        let sink = FaultProxy::listen(rivven.port()).await?;
        let mut sources = serde_json::Map::new();
        let mut loads = Vec::new();
        for (name, qos) in NAMES {
            let load = Load { topic: name, padding, ..Load::new(qos, rate) };
            let mut source = rig::source(&format!("mqtt://127.0.0.1:{}", mqtt.port()), &load);
            config::persistent(&mut source, name);
            source["topic"] = name.into();
            config::plugin(&mut source, &guests::example("filter")?, json!({ "threshold": 0 }));
            sources.insert(name.to_owned(), source);
            loads.push((name, load));
        }
        let servers = json!([format!("127.0.0.1:{}", sink.port())]);
        let mut host = Host::start(&json!({
            "broker": { "bootstrap_servers": servers, "connections": CONNECTIONS },
            "sources": Value::Object(sources),
        }))?;
        host.ready().await?;
        let line = |(name, load): (&'static str, Load)| Line {
            name,
            qos: load.qos,
            owed: reliable || load.qos != QoS::AtMostOnce,
            publisher: Publisher::start(broker.port(), load),
            follower: Follower::new(name),
        };
        let lines = loads.into_iter().map(line).collect();
        // Faults come when all are at work, not while the topics are made.
        for (name, _) in NAMES {
            let writes = async || rivven.count(name).await.is_ok_and(|records| records > 0);
            wait_for(&format!("{name} writes"), PATIENCE, writes).await?;
        }
        Ok(Trio { broker, rivven, host, mqtt, sink, lines, rate })
    }

    /// Stops publishing until [`Trio::go_on`], and waits until everything is settled that is not lost.
    pub async fn settle(&mut self) -> Result<()> {
        for line in &self.lines {
            line.publisher.pause().await?;
        }
        self.host.ready().await?;
        for line in self.lines.iter_mut().filter(|line| line.owed) {
            line.follower.wait_for(&self.rivven, line.publisher.sent()).await?;
        }
        self.host.wait_for_ledger("all are settled", PATIENCE, |ledger| ledger.in_flight == 0).await?;
        Ok(())
    }

    /// Publishes again.
    pub fn go_on(&self) {
        self.lines.iter().for_each(|line| line.publisher.resume());
    }

    /// Lets a burst through: more than one connection to Rivven can take.
    pub async fn burst(&mut self) -> Result<()> {
        self.rivven.freeze()?;
        self.go_on();
        stay(Duration::from_secs(3)).await;
        self.rivven.thaw()?;
        self.settle().await
    }

    /// Ends everything and writes down what it finds; the outcomes at QoS 0, 1 and 2.
    pub async fn finish(self, row: &mut Row) -> Result<[Outcome; 3]> {
        let Trio { mut host, rivven, broker, lines, rate, .. } = self;
        host.ready().await?;
        row.load = format!("QoS 0, 1 and 2, {rate}/s each");
        let mut outcomes = [Outcome::default(); 3];
        let mut ended = Vec::new();
        for Line { name, qos, owed, publisher, mut follower } in lines {
            let published = publisher.stop().await?;
            if owed {
                follower.wait_for(&rivven, published.count).await?;
            }
            ended.push(((name, qos, owed, follower), published.count));
        }
        host.wait_for_ledger("all are settled", PATIENCE, |ledger| ledger.in_flight == 0).await?;
        let status = host.terminate().await?;
        row.claim(status.code() == Some(0), || format!("the host ended with {status}"));
        let log = broker.logs().await?;
        for (outcome, (line, count)) in outcomes.iter_mut().zip(ended) {
            let (name, qos, owed, mut follower) = line;
            follower.poll(&rivven).await?;
            let found = follower.found.range(..count).count() as u64;
            *outcome = Outcome {
                lost: count - found,
                duplicates: follower.duplicates(),
                sent_again: Deliveries::read(&log, name, name)?.sent_again(),
            };
            row.published += count;
            row.records += follower.records;
            row.duplicates += outcome.duplicates;
            if owed {
                row.lost += outcome.lost;
            }
            let Outcome { lost, duplicates, .. } = *outcome;
            row.note(format!("QoS {}: {lost} lost, {duplicates} duplicates", qos as u8));
            let strangers = follower.found.len() as u64 - found;
            row.claim(strangers == 0, || format!("{strangers} records of messages that nobody published"));
        }
        Ok(outcomes)
    }
}

/// A time that a network stays bad: there is no condition to wait for.
pub async fn stay(time: Duration) {
    tokio::time::sleep(time).await;
}
