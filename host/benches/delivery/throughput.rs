//! A backlog at mosquitto, through the host into rivvend; against writers that have the records already.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::runtime::Runtime;

use crate::host::{CLIENT_ID, Destination, FILTER, Host};
use crate::mosquitto::{Mosquitto, WINDOW};
use crate::mqtt::Client;
use crate::rivvend::{self, PARTITIONS, Rivvend};
use crate::support::stats::{median, range};
use crate::support::{ROUNDS, table};

/// Messages queued at the broker before the host starts.
const BACKLOG: usize = 60_000;
/// Connections to rivvend, of the host and of the direct writers.
const CONNECTIONS: usize = 32;
/// Records in a request of the direct writers.
const BATCH: usize = 50;

/// Measures and prints.
pub fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let runtime = Runtime::new()?;
    let mosquitto = Mosquitto::start(directory.path())?;
    let rivvend = Rivvend::start(directory.path())?;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("throughput, round {round} of {ROUNDS}");
        let topic = format!("direct-{round}");
        runtime.block_on(rivvend.create_topic(&topic))?;
        let write = rivvend::write_directly(&rivvend.address, &topic, CONNECTIONS, BATCH, BACKLOG);
        direct.push(runtime.block_on(write)?);
        through.push(through_the_host(
            &directory.path().join(round.to_string()),
            &runtime,
            &mosquitto,
            &rivvend,
            &format!("host-{round}"),
        )?);
    }
    let mut table = table(["", "records/s", "least - most", "ratio"]);
    let base = median(direct.iter().copied());
    let names = [
        format!("PublishBatch, {CONNECTIONS} connections, {BATCH} records a request"),
        format!("mosquitto -> rivven-mqtt with the pass plugin -> rivvend, {CONNECTIONS} connections"),
    ];
    for (name, rates) in names.into_iter().zip([direct, through]) {
        let (least, most) = range(rates.iter().copied());
        let rate = median(rates);
        table.add_row([
            name,
            format!("{rate:.0}"),
            format!("{least:.0} - {most:.0}"),
            format!("{:.2}", rate / base),
        ]);
    }
    println!(
        "{BACKLOG} messages of 100 bytes queued beforehand, QoS 1, window {WINDOW}, {PARTITIONS} partitions \
         (ratio to reach: 0.9, at least 0.7)\n{table}\n"
    );
    Ok(())
}

/// Records a second from the first commit to the last.
fn through_the_host(
    directory: &Path,
    runtime: &Runtime,
    mosquitto: &Mosquitto,
    rivvend: &Rivvend,
    topic: &str,
) -> Result<f64> {
    // A session without a client: the broker queues for it.
    let mut session = Client::connect(mosquitto.port, CLIENT_ID, false)?;
    session.subscribe(FILTER)?;
    session.disconnect()?;
    Client::connect(mosquitto.port, "publisher", true)?.publish(BACKLOG)?;

    runtime.block_on(rivvend.create_topic(topic))?;
    let mut host =
        Host::start(directory, mosquitto, Destination::Rivven { rivvend, connections: CONNECTIONS, topic })?;
    host.wait_for("first commit", Duration::from_secs(30), |_, committed| committed > 0)?;
    let (start, (_, before)) = (Instant::now(), host.counts()?);
    host.wait_for("last commit", Duration::from_secs(300), |_, committed| committed >= BACKLOG as u64)?;
    let rate = (BACKLOG as u64 - before) as f64 / start.elapsed().as_secs_f64();
    host.stop()?;

    let records = runtime.block_on(rivvend.count(topic))?;
    ensure!(records == BACKLOG as u64, "{records} records of {BACKLOG} messages in {topic}");
    // A clean session takes the place of the persistent one and ends with its connection.
    Client::connect(mosquitto.port, CLIENT_ID, true)?.disconnect()?;
    Ok(rate)
}
