//! What the host holds: idle, and with Rivven stopped while a million messages wait at the broker.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::runtime::Runtime;

use crate::host::{Destination, Host};
use crate::mosquitto::{Mosquitto, WINDOW};
use crate::mqtt::Client;
use crate::rivvend::Rivvend;
use crate::support::table;

/// Messages published while Rivven is stopped.
const QUEUED: usize = 1_000_000;
/// Connections to rivvend, as many as by default.
const CONNECTIONS: usize = 32;
/// How long the idle host is left alone, and how long it is watched once it is full.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures and prints.
pub fn run() -> Result<()> {
    eprintln!("memory");
    let directory = tempfile::tempdir()?;
    let runtime = Runtime::new()?;
    let mosquitto = Mosquitto::start(directory.path())?;
    let rivvend = Rivvend::start(directory.path())?;
    runtime.block_on(rivvend.create_topic("memory"))?;
    let destination = Destination::Rivven { rivvend: &rivvend, connections: CONNECTIONS, topic: "memory" };
    let mut host = Host::start(&directory.path().join("host"), &mosquitto, destination)?;
    host.ready()?;
    std::thread::sleep(SETTLE);
    let (idle, _) = host.process.resident()?;

    rivvend.process.signal(libc::SIGSTOP)?;
    Client::connect(mosquitto.port, "publisher", true)?.publish(QUEUED)?;
    let full = |received, committed| received - committed >= WINDOW as u64;
    host.wait_for("full window", Duration::from_secs(60), full)?;
    let (start, mut stalled) = (Instant::now(), 0);
    while start.elapsed() < SETTLE {
        stalled = stalled.max(host.process.resident()?.0);
        std::thread::sleep(Duration::from_millis(100));
    }
    let (received, before) = host.counts()?;
    let (queue, _) = mosquitto.process.resident()?;

    // It was alive all the time: it goes on where it stopped.
    rivvend.process.signal(libc::SIGCONT)?;
    host.wait_for("commit after Rivven goes on", Duration::from_secs(60), |_, committed| committed > before)?;
    let (_, peak) = host.process.resident()?;

    let mut table = table(["resident memory", "MB", "to reach"]);
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    table.add_row(["idle", &mb(idle), "60"]);
    table.add_row([
        &format!("Rivven stopped, {} messages in flight", received - before),
        &mb(stalled),
        "150",
    ]);
    table.add_row(["most it ever was", &mb(peak), ""]);
    println!(
        "{QUEUED} messages of 100 bytes published while Rivven was stopped, window {WINDOW}; mosquitto holds the rest in \
         {} MB\n{table}\n",
        mb(queue)
    );
    Ok(())
}
