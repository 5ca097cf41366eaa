//! Mixed faults for as long as one likes, while the host lives on: at the end it uses what it used at the beginning.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::rig::{self, KEEP_ALIVE, PATIENCE, balances, metric};
use super::row::Row;
use super::trio::{Trio, stay};
use crate::fault_proxy::Fault;
use crate::usage::Usage;

/// Its name in the table.
pub const NAME: &str = "soak";
/// What has to hold.
pub const PROMISE: &str = "mixed faults of brokers and links, the host lives on. 0 lost at QoS 1 and 2, 0 duplicates at QoS 2 that \
     Rivven's ambiguous answers do not explain; memory within 10 % or 8 MiB, descriptors within 4, threads within 2 of those \
     after 5 minutes";
/// When the first look is taken; sooner in a short soak.
const WARM: Duration = Duration::from_secs(300);
/// By so much the last look may differ from the first.
const MEMORY_PERCENT: u64 = 10;
const MEMORY: u64 = 8 << 20;
const DESCRIPTORS: u64 = 4;
const THREADS: u64 = 2;
/// Messages of a source that may be in flight when something happens to Rivven.
const IN_FLIGHT: u64 = 1_000;

/// What may happen. What happens to Rivven takes long, so it is rarer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    BrokerRestart,
    RivvenRestart,
    RivvenFrozen,
    /// The first of these on the link to the broker, if that is true; else on those to Rivven.
    Cut(bool),
    CutAll(bool),
    HalfOpen(bool),
    Bad(bool, Fault),
}

const DELAY: Fault = Fault::Delay(Duration::from_millis(200));
const SLOW: Fault = Fault::Rate(64 << 10);

const EVENTS: [Event; 20] = [
    Event::BrokerRestart,
    Event::BrokerRestart,
    Event::BrokerRestart,
    Event::RivvenRestart,
    Event::RivvenFrozen,
    Event::Cut(true),
    Event::Cut(true),
    Event::Cut(true),
    Event::Cut(false),
    Event::Cut(false),
    Event::CutAll(true),
    Event::CutAll(false),
    Event::HalfOpen(true),
    Event::HalfOpen(false),
    Event::Bad(true, DELAY),
    Event::Bad(false, DELAY),
    Event::Bad(true, SLOW),
    Event::Bad(false, Fault::OneByte),
    Event::Bad(true, Fault::BlackHole),
    Event::Bad(false, Fault::BlackHole),
];

impl Event {
    /// Whether it happens to Rivven or on the way there, so that an answer may be lost and records are written again.
    fn is_of_rivven(self) -> bool {
        match self {
            Event::BrokerRestart => false,
            Event::RivvenRestart | Event::RivvenFrozen => true,
            Event::Cut(mqtt) | Event::CutAll(mqtt) | Event::HalfOpen(mqtt) | Event::Bad(mqtt, _) => !mqtt,
        }
    }
}

/// Runs for `time`.
pub async fn run(time: Duration, seed: u64) -> Row {
    let begun = Instant::now();
    let mut row = Row::default();
    if let Err(error) = soak(time, seed, &mut row).await {
        row.broken.push(format!("{error:#}"));
    }
    (row.campaign, row.promise, row.seed) = (NAME.to_owned(), PROMISE.to_owned(), seed);
    row.seconds = begun.elapsed().as_secs();
    row
}

async fn soak(time: Duration, seed: u64, row: &mut Row) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut trio = Trio::start(rig::broker(), 100, 0, false).await?;
    let begun = Instant::now();
    let warm = WARM.min(time / 4);
    let mut first = None;
    let mut of_rivven = 0;
    while begun.elapsed() < time {
        stay(Duration::from_millis(random.u64(500..4_000))).await;
        let event = EVENTS.get(random.usize(0..EVENTS.len())).copied().unwrap_or(Event::BrokerRestart);
        happens(event, &mut trio, &mut random).await.with_context(|| format!("after {event:?}"))?;
        balances(&trio.host).await?;
        row.rounds += 1;
        of_rivven += u64::from(event.is_of_rivven());
        if first.is_none() && begun.elapsed() > warm {
            first = Some(at_rest(&mut trio).await?);
            trio.go_on();
        }
    }
    let last = at_rest(&mut trio).await?;
    if let Some(first) = first {
        row.note(format!("after {} s: {first}; at the end: {last}", warm.as_secs()));
        compare(first, last, row);
    }
    row.note(format!("peak {} MiB", last.peak >> 20));
    row.note(format!("{} MQTT connections lost", metric(&trio.host, "disconnections_total").await?));
    row.note(format!("{} writes to Rivven repeated", metric(&trio.host, "sink_retries_total").await?));
    let [_, once, exactly_once] = trio.finish(row).await?;
    row.claim(exactly_once.duplicates <= of_rivven * IN_FLIGHT, || "duplicates at QoS 2".into());
    row.judge(once.sent_again + 3 * of_rivven * IN_FLIGHT);
    Ok(())
}

/// Lets it happen, and be over.
async fn happens(event: Event, trio: &mut Trio, random: &mut fastrand::Rng) -> Result<()> {
    let network = |mqtt: bool| if mqtt { &trio.mqtt } else { &trio.sink };
    match event {
        Event::BrokerRestart => {
            trio.broker.stop().await?;
            stay(Duration::from_millis(random.u64(0..2_000))).await;
            trio.broker.start().await?;
        }
        Event::RivvenRestart => {
            trio.rivven.stop().await?;
            trio.rivven.start().await?;
        }
        Event::RivvenFrozen => {
            trio.rivven.freeze()?;
            stay(Duration::from_millis(random.u64(1_000..40_000))).await;
            trio.rivven.thaw()?;
        }
        Event::Cut(mqtt) => {
            network(mqtt).cut_after(random.usize(1..4_000));
            network(mqtt).has_cut(PATIENCE).await?;
        }
        Event::CutAll(mqtt) => network(mqtt).cut(),
        // The next event may come before it is noticed.
        Event::HalfOpen(mqtt) => network(mqtt).half_open(),
        Event::Bad(mqtt, fault) => {
            network(mqtt).set(fault);
            stay(KEEP_ALIVE.mul_f64(0.5 + 2.0 * random.f64())).await;
            network(mqtt).set(Fault::None);
        }
    }
    Ok(())
}

/// What the host uses when nothing is to be done, and every connection to Rivven is open because there was much to be done just
/// before.
async fn at_rest(trio: &mut Trio) -> Result<Usage> {
    trio.settle().await?;
    trio.burst().await?;
    // The idle tick gives memory back.
    stay(Duration::from_secs(2)).await;
    Usage::of(trio.host.id())
}

fn compare(first: Usage, last: Usage, row: &mut Row) {
    let most = first.resident + MEMORY.max(first.resident * MEMORY_PERCENT / 100);
    row.claim(last.resident <= most, || {
        format!("memory grew from {} to {} bytes", first.resident, last.resident)
    });
    let (before, now) = (first.descriptors, last.descriptors);
    row.claim(now.abs_diff(before) <= DESCRIPTORS, || format!("descriptors went from {before} to {now}"));
    let (before, now) = (first.threads, last.threads);
    row.claim(now.abs_diff(before) <= THREADS, || format!("threads went from {before} to {now}"));
}
