//! The fault campaigns: what is promised about losses and duplicates, tried over and over at random moments against a real
//! mosquitto, a real `rivvend` and the host as a process.
//!
//! `make faults` runs each in full, `tests/faults.rs` a short form. Randomness comes from a seed that is printed and can be
//! given again; what the machine adds to it, nobody can repeat.

mod broker;
mod clock;
mod disk;
mod follower;
mod handshake;
mod host;
mod links;
mod log;
mod publisher;
pub mod report;
mod rig;
mod rivven;
mod row;
mod small_disk;
pub mod soak;
mod trio;

use std::pin::Pin;
use std::time::Instant;

use anyhow::Result;
use rumqttc::QoS;
use tokio::runtime::Handle;

use self::links::{Side, Trouble};
pub use self::row::Row;

/// How a campaign is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often the fault happens.
    pub rounds: u32,
    /// Where the random moments come from.
    pub seed: u64,
    /// A short form: waits are short too.
    pub short: bool,
}

impl Plan {
    fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }
}

type Run = Pin<Box<dyn Future<Output = Result<Row>>>>;

/// One campaign.
pub struct Campaign {
    /// What it is called.
    pub name: &'static str,
    /// What has to hold.
    pub promise: &'static str,
    /// Rounds in full, and in the short form.
    pub rounds: (u32, u32),
    /// It waits more than it works, so that it can run beside another.
    pub waits: bool,
    run: fn(Plan) -> Run,
}

impl Campaign {
    /// Runs it on a thread of its own: where a container is removed its thread is blocked, and what else it waits for would not
    /// be told.
    pub async fn run(&'static self, plan: Plan) -> Row {
        let runtime = Handle::current();
        let run = tokio::task::spawn_blocking(move || runtime.block_on(self.run_here(plan)));
        run.await.unwrap_or_else(|error| Row { broken: vec![error.to_string()], ..Row::default() })
    }

    /// What cannot even be tried is a row too, with the reason.
    async fn run_here(&self, plan: Plan) -> Row {
        let begun = Instant::now();
        let mut row = (self.run)(plan).await.unwrap_or_else(|error| {
            let mut row = Row::default();
            row.broken.push(format!("{error:#}"));
            row
        });
        (row.campaign, row.promise) = (self.name.to_owned(), self.promise.to_owned());
        (row.rounds, row.seed, row.seconds) = (plan.rounds, plan.seed, begun.elapsed().as_secs());
        row
    }

    /// Runs its short form.
    pub async fn run_short(&'static self, seed: u64) -> Row {
        self.run(Plan { rounds: self.rounds.1, seed, short: true }).await
    }
}

/// The campaign of this name.
pub fn named(name: &str) -> Option<&'static Campaign> {
    CAMPAIGNS.iter().find(|campaign| campaign.name == name)
}

/// Runs beside another.
const WAITS: bool = true;
/// Keeps the machine busy.
const WORKS: bool = false;

const fn campaign(
    name: &'static str,
    promise: &'static str,
    rounds: (u32, u32),
    waits: bool,
    run: fn(Plan) -> Run,
) -> Campaign {
    Campaign { name, promise, rounds, waits, run }
}

/// All campaigns, in the order of the table.
#[rustfmt::skip]
pub static CAMPAIGNS: &[Campaign] = &[
    campaign("host-killed", "host: SIGKILL at random moments, also while it starts. 0 lost; no message has more records than copies that the broker sent because their acknowledgement had not reached it",
        (100, 4), WORKS, |plan| Box::pin(host::killed(plan, QoS::AtLeastOnce))),
    campaign("host-killed-qos-2", "the same at QoS 2. 0 lost; only what has no PUBREC yet comes again",
        (50, 3), WORKS, |plan| Box::pin(host::killed(plan, QoS::ExactlyOnce))),
    campaign("host-stopped", "host: SIGTERM under load. 0 lost, 0 duplicates, exit code 0 within the grace",
        (50, 3), WORKS, |plan| Box::pin(host::stopped(plan, QoS::AtLeastOnce))),
    campaign("host-stopped-qos-2", "the same at QoS 2",
        (50, 3), WORKS, |plan| Box::pin(host::stopped(plan, QoS::ExactlyOnce))),
    campaign("broker-restarted", "mosquitto stopped and started under load, persistent session. 0 lost; no message has more records than copies that mosquitto sent",
        (50, 3), WORKS, |plan| Box::pin(broker::persistent(plan))),
    campaign("broker-restarted-clean", "the same with a clean session. What is published while subscribed arrives once; subscribed again within one backoff",
        (50, 3), WORKS, |plan| Box::pin(broker::clean(plan))),
    campaign("rivven-restarted", "rivvend stopped (SIGTERM) and started under load. 0 lost, MQTT connection kept, memory bounded, no busy loop",
        (50, 1), WAITS, |plan| Box::pin(rivven::restarted(plan))),
    campaign("rivven-frozen", "rivvend frozen (SIGSTOP) for 90 s under load. 0 lost, MQTT connection kept, memory bounded, no busy loop",
        (5, 1), WAITS, |plan| Box::pin(rivven::frozen(plan))),
    campaign("mqtt-cut", "link to the broker cut behind a random byte. 0 lost at QoS 1 and 2, 0 duplicates at QoS 2",
        (50, 5), WORKS, |plan| Box::pin(links::bad(plan, Side::Mqtt, Trouble::Cut))),
    campaign("mqtt-half-open", "link to the broker half-open. The same, and noticed within 1.5 keep-alives",
        (5, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Mqtt, Trouble::HalfOpen))),
    campaign("mqtt-delay", "200 ms from and to the broker, with jitter. The same, and the connection is kept",
        (3, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Mqtt, Trouble::Delay))),
    campaign("mqtt-one-byte", "one byte at a time from and to the broker. The same",
        (3, 1), WORKS, |plan| Box::pin(links::bad(plan, Side::Mqtt, Trouble::OneByte))),
    campaign("mqtt-slow", "64 KiB/s from and to the broker. The same",
        (3, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Mqtt, Trouble::Slow))),
    campaign("mqtt-black-hole", "nothing from and to the broker for 3 keep-alives. 0 lost at QoS 1 and 2, 0 duplicates at QoS 2",
        (5, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Mqtt, Trouble::BlackHole))),
    campaign("rivven-cut", "a link to Rivven cut behind a random byte. 0 lost at any QoS, MQTT connection kept",
        (50, 5), WORKS, |plan| Box::pin(links::bad(plan, Side::Rivven, Trouble::Cut))),
    campaign("rivven-half-open", "all links to Rivven half-open. The same, and noticed within the 30 s that an answer may take",
        (3, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Rivven, Trouble::HalfOpen))),
    campaign("rivven-delay", "200 ms from and to Rivven, with jitter. The same, 0 duplicates",
        (3, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Rivven, Trouble::Delay))),
    campaign("rivven-one-byte", "one byte at a time from and to Rivven. The same",
        (3, 1), WORKS, |plan| Box::pin(links::bad(plan, Side::Rivven, Trouble::OneByte))),
    campaign("rivven-slow", "64 KiB/s from and to Rivven. The same",
        (3, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Rivven, Trouble::Slow))),
    campaign("rivven-black-hole", "nothing from and to Rivven for 3 keep-alives. 0 lost at any QoS, MQTT connection kept",
        (5, 1), WAITS, |plan| Box::pin(links::bad(plan, Side::Rivven, Trouble::BlackHole))),
    campaign("qos-2-handshake", "the connection cut at each step of the QoS 2 handshake, and SIGTERM to the host between. Each message once",
        (200, 16), WORKS, |plan| Box::pin(handshake::cut(plan))),
    campaign("state-dir-full", "no space left in state_dir. The host goes on in the space that it has; where it needs more to start, an error that names the folder and nothing acknowledged; 0 lost, 0 duplicates",
        (5, 1), WORKS, |plan| Box::pin(disk::full(plan))),
    campaign("state-dir-read-only", "state_dir read-only. An error that names the file; nothing acknowledged; later 0 lost, 0 duplicates",
        (3, 1), WORKS, |plan| Box::pin(disk::read_only(plan))),
    campaign("clock-set-back", "the host's clock set back and forth by hours at work. 0 lost, 0 duplicates, MQTT connection kept",
        (20, 2), WAITS, |plan| Box::pin(clock::set_back(plan))),
];
