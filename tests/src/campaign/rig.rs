//! One source under load: a broker, Rivven, the host with a plugin that passes everything, a publisher, and somebody who reads
//! what arrives.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::follower::Follower;
use super::log::Deliveries;
use super::publisher::{Load, Published, Publisher};
use super::row::Row;
use crate::broker::{Broker, Setup};
use crate::config::{self, TOPIC};
use crate::guests;
use crate::host::Host;
use crate::rivven::Rivven;

/// The host's client identifier.
pub const CLIENT: &str = "the-host";
/// Messages that the broker sends before it waits for acknowledgements.
pub const WINDOW: u64 = 500;
/// The least that the host accepts, so that what a keep-alive has to notice is noticed soon.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Longer than anything takes that does not fail.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Rig {
    pub broker: Broker,
    pub rivven: Rivven,
    pub host: Host,
    pub publisher: Publisher,
    load: Load,
    /// The broker keeps what it sent until it is acknowledged, also over connections.
    persistent: bool,
    pub follower: Follower,
}

/// What is there when everything has come to its end.
pub struct Found {
    pub follower: Follower,
    pub deliveries: Deliveries,
    /// Messages that the host's last life has committed.
    pub committed: u64,
    /// The host's log.
    pub log: String,
}

impl Found {
    /// Claims that no message has more records than the broker sent copies of it: nothing is written twice, and nothing is
    /// written that was acknowledged before.
    pub fn at_most_as_sent(&self, row: &mut Row) {
        let sent = |number: &u64| self.deliveries.sent.get(number).copied().unwrap_or_default();
        let more = self.follower.found.iter().filter(|(number, records)| **records > sent(number)).count();
        row.claim(more == 0, || format!("{more} messages have more records than the broker sent copies"));
    }
}

/// A broker with a window of [`WINDOW`].
pub fn broker() -> Setup {
    Broker::setup().line(format!("max_inflight_messages {WINDOW}"))
}

/// A source of all that a publisher of `load` publishes to `broker`, with a persistent session.
pub fn source(url: &str, load: &Load) -> Value {
    let mut source = config::source(url, &[&format!("{}/#", load.topic)]);
    config::persistent(&mut source, CLIENT);
    source["config"]["qos"] = (load.qos as u8).to_string().into();
    source["config"]["keep_alive_secs"] = KEEP_ALIVE.as_secs().into();
    source
}

impl Rig {
    /// Starts everything; `change` changes the source.
    pub async fn start(load: Load, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Self> {
        let broker = broker().start().await?;
        let rivven = Rivven::launch().await?;
        let mut source = source(&broker.url(), &load);
        config::plugin(&mut source, &guests::example("filter")?, json!({ "threshold": 0 }));
        change(&mut source)?;
        let persistent = source["config"]["clean_session"] == false;
        let host = Host::start(&config::with_source(&rivven, source))?;
        Ok(Rig { persistent, ..Self::with(broker, rivven, host, load).await? })
    }

    /// Begins to publish once the host is ready.
    pub async fn with(broker: Broker, rivven: Rivven, mut host: Host, load: Load) -> Result<Self> {
        host.ready().await?;
        let publisher = Publisher::start(broker.port(), load.clone());
        Ok(Rig { broker, rivven, host, publisher, load, persistent: true, follower: Follower::new(TOPIC) })
    }

    /// Stops publishing, waits until everything has arrived, ends the host, and writes down what it finds: losses,
    /// duplicates, and whether the host's and the broker's accounts agree with it. What may have come twice is for the caller
    /// to judge.
    pub async fn finish(self, row: &mut Row) -> Result<Found> {
        let Rig { broker, rivven, mut host, publisher, load, persistent, mut follower } = self;
        host.ready().await?;
        let published = publisher.stop().await?;
        let missing = follower.wait_for(&rivven, published.count).await?;
        host.wait_for_ledger("all are settled", PATIENCE, |ledger| ledger.in_flight == 0).await?;
        let status = host.terminate().await?;
        row.claim(status.code() == Some(0), || format!("the host ended with {status}"));
        let ledger = host.final_ledger()?;
        row.claim(ledger.in_flight == 0, || format!("at the end {ledger:?}"));
        follower.poll(&rivven).await?;

        row.load = load.to_string();
        row.published = published.count;
        row.records = follower.records;
        row.lost = missing.len() as u64;
        row.duplicates = follower.duplicates();
        if !missing.is_empty() {
            row.note(format!("lost: {:?}", missing.iter().take(20).collect::<Vec<_>>()));
        }
        let strangers = follower.found.range(published.count..).count();
        row.claim(strangers == 0, || format!("{strangers} records of messages that nobody published"));
        let deliveries = Deliveries::read(&broker.logs().await?, CLIENT, load.topic)?;
        agrees(row, &deliveries, persistent.then_some(&published), &follower);
        Ok(Found { follower, deliveries, committed: ledger.committed, log: host.log() })
    }
}

/// The broker's log agrees: it was told to forget each message of a persistent session, and only what is in Rivven.
fn agrees(row: &mut Row, broker: &Deliveries, persistent: Option<&Published>, follower: &Follower) {
    let numbers = 0..persistent.map_or(0, |published| published.count);
    let unacknowledged = numbers.filter(|number| !broker.acknowledged.contains_key(number)).count();
    row.claim(unacknowledged == 0, || {
        format!("{unacknowledged} messages without an acknowledgement in the broker's log")
    });
    let unsafely = broker.acknowledged.keys().filter(|n| !follower.found.contains_key(n)).count();
    row.claim(unsafely == 0, || format!("{unsafely} messages were acknowledged and are not in Rivven"));
    row.note(format!(
        "the broker sent {} again, and had at most {} open",
        broker.sent_again(),
        broker.most_open
    ));
}

/// The loss equation balances, where there is one: a host that is starting has none to show.
pub async fn balances(host: &Host) -> Result<()> {
    let Ok(ledger) = host.metrics().await.and_then(|metrics| metrics.ledger()) else { return Ok(()) };
    if !ledger.balances() {
        bail!("the loss equation does not balance: {ledger:?}");
    }
    Ok(())
}

/// A random moment of so many milliseconds: what happens at it is what is tested.
pub async fn moment(random: &mut fastrand::Rng, milliseconds: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.u64(milliseconds))).await;
}

/// A metric of the host.
pub async fn metric(host: &Host, name: &str) -> Result<u64> {
    let metrics = host.metrics().await.context("the host shows no metrics")?;
    metrics.sum(&format!("rivven_mqtt_source_{name}"))
}
