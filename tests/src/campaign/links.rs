//! Bad links between the host and its servers.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Plan;
use super::rig::{self, KEEP_ALIVE, PATIENCE, balances, metric, moment};
use super::row::Row;
use super::trio::{Outcome, Trio, stay};
use crate::fault_proxy::{Fault, FaultProxy};
use crate::wait::wait_for;

/// Where the bad link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Mqtt,
    Rivven,
}

/// What is bad about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Cut,
    HalfOpen,
    Delay,
    OneByte,
    Slow,
    BlackHole,
}

/// An answer of Rivven may take so long.
const REQUEST: Duration = Duration::from_secs(30);
/// What may take longer on a busy machine: the ping that goes out late, and looking.
const MARGIN: Duration = Duration::from_secs(2);
/// How long a link is slow.
const SLOW: Duration = Duration::from_secs(10);
const SHORT_SLOW: Duration = Duration::from_secs(3);
/// Messages that the host takes of a source before the first is settled: its default.
const MAX_INFLIGHT: u64 = 1_000;
/// Most records of one request to Rivven.
const REQUEST_RECORDS: u64 = 100;

impl Trouble {
    /// How the network is; `None` where it is a single event.
    fn fault(self) -> Option<Fault> {
        match self {
            Trouble::Cut | Trouble::HalfOpen => None,
            Trouble::Delay => Some(Fault::Delay(Duration::from_millis(200))),
            Trouble::OneByte => Some(Fault::OneByte),
            Trouble::Slow => Some(Fault::Rate(64 << 10)),
            Trouble::BlackHole => Some(Fault::BlackHole),
        }
    }

    /// Whether an MQTT connection ends of it.
    fn disconnects(self) -> bool {
        matches!(self, Trouble::Cut | Trouble::HalfOpen | Trouble::BlackHole)
    }
}

/// One trouble on one side, again and again, under load.
pub async fn bad(plan: Plan, side: Side, trouble: Trouble) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    // Enough for 64 KiB/s to be too little.
    let padding = if trouble == Trouble::Slow { 1_000 } else { 0 };
    let mut trio = Trio::start(rig::broker(), 100, padding, side == Side::Rivven).await?;
    let mut slowest = Duration::ZERO;
    for _ in 0..plan.rounds {
        moment(&mut random, 100..700).await;
        match (trouble, trouble.fault()) {
            (Trouble::Cut, _) => {
                network(&trio, side).cut_after(random.usize(1..4_000));
                network(&trio, side).has_cut(PATIENCE).await?;
            }
            (_, Some(fault)) => {
                let slow = if plan.short { SHORT_SLOW } else { SLOW };
                network(&trio, side).set(fault);
                stay(if trouble == Trouble::BlackHole { 3 * KEEP_ALIVE } else { slow }).await;
                balances(&trio.host).await?;
                network(&trio, side).set(Fault::None);
            }
            (_, None) => slowest = slowest.max(half_open(&trio, side).await?),
        }
        balances(&trio.host).await?;
        if trouble != Trouble::Cut {
            trio.settle().await?;
            trio.go_on();
        }
    }
    if trouble == Trouble::HalfOpen {
        let patience = patience(side) + MARGIN;
        row.note(format!("noticed after at most {:.1} s", slowest.as_secs_f64()));
        row.claim(slowest <= patience, || format!("noticed only after {slowest:?}"));
    }
    let lost = metric(&trio.host, "disconnections_total").await?;
    if side == Side::Mqtt && trouble.disconnects() {
        row.note(format!("{lost} MQTT connections lost"));
    } else {
        row.claim(lost == 0, || format!("{lost} MQTT connections lost"));
    }
    row.note(format!("{} writes to Rivven repeated", metric(&trio.host, "sink_retries_total").await?));
    let [_, once, exactly_once]: [Outcome; 3] = trio.finish(&mut row).await?;
    if side == Side::Mqtt {
        let twice = exactly_once.duplicates;
        row.claim(twice == 0, || format!("{twice} duplicates at QoS 2"));
    }
    row.judge(once.sent_again + u64::from(plan.rounds) * repeated(side, trouble));
    Ok(row)
}

fn network(trio: &Trio, side: Side) -> &FaultProxy {
    match side {
        Side::Mqtt => &trio.mqtt,
        Side::Rivven => &trio.sink,
    }
}

/// After what time the host has to notice a link that is dead.
fn patience(side: Side) -> Duration {
    match side {
        Side::Mqtt => KEEP_ALIVE.mul_f64(1.5),
        Side::Rivven => REQUEST,
    }
}

/// Leaves the links half-open; how long it takes until the host has noticed.
async fn half_open(trio: &Trio, side: Side) -> Result<Duration> {
    let (name, more) = match side {
        Side::Mqtt => ("disconnections_total", 3),
        Side::Rivven => ("sink_retries_total", 1),
    };
    let before = metric(&trio.host, name).await?;
    network(trio, side).half_open();
    let begun = Instant::now();
    let noticed = async || metric(&trio.host, name).await.is_ok_and(|now| now >= before + more);
    wait_for("the host notices", patience(side) + PATIENCE, noticed).await?;
    Ok(begun.elapsed())
}

/// How many records may be written again for each time, because Rivven's answer is lost.
fn repeated(side: Side, trouble: Trouble) -> u64 {
    match (side, trouble) {
        (Side::Rivven, Trouble::Cut) => REQUEST_RECORDS,
        (Side::Rivven, Trouble::HalfOpen) => 3 * MAX_INFLIGHT,
        // Slow is not lost.
        _ => 0,
    }
}
