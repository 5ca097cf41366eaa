//! From a publisher through mosquitto to a line in a file, against a subscriber that does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::{CLIENT_ID, Destination, FILTER, Host};
use crate::mosquitto::Mosquitto;
use crate::mqtt::{self, Client};
use crate::support::stats::{Latencies, median};
use crate::support::{ROUNDS, table};
use crate::tail::Tail;

/// Messages a second.
const RATE: u32 = 1_000;
const DURATION: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures and prints.
pub fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mosquitto = Mosquitto::start(directory.path())?;
    let (mut bare, mut file) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("latency, round {round} of {ROUNDS}");
        bare.push(to_a_subscriber(&mosquitto)?);
        file.push(to_a_file(&directory.path().join(round.to_string()), &mosquitto)?);
    }
    let mut table = table(["", "p50 us", "ratio", "p99 us", "ratio"]);
    let at = |runs: &[Latencies], q| median(runs.iter().map(|run| run.micros(q)));
    let (base50, base99) = (at(&bare, 0.5), at(&bare, 0.99));
    let names = ["bare subscriber on a blocking socket", "rivven-mqtt with the pass plugin, file sink"];
    for (name, runs) in names.into_iter().zip([&bare, &file]) {
        let (p50, p99) = (at(runs, 0.5), at(runs, 0.99));
        table.add_row([
            name.to_owned(),
            format!("{p50:.0}"),
            format!("{:.2}", p50 / base50),
            format!("{p99:.0}"),
            format!("{:.2}", p99 / base99),
        ]);
    }
    println!("QoS 1 at {RATE} messages/s through mosquitto, publisher to receiver\n{table}\n");
    Ok(())
}

/// Publishes on a thread of its own while `receive` takes messages, and returns what it saw.
fn publish_and<T>(mosquitto: &Mosquitto, receive: impl FnOnce(Instant, u64) -> Result<T>) -> Result<T> {
    let epoch = Instant::now();
    let publisher = Client::connect(mosquitto.port, "publisher", true)?;
    let thread = std::thread::spawn(move || publisher.publish_paced(RATE, DURATION, epoch));
    let expected = u64::from(RATE) * DURATION.as_secs();
    let received = receive(epoch, expected)?;
    let sent = thread.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
    ensure!(sent == expected, "{sent} messages sent instead of {expected}");
    Ok(received)
}

fn to_a_subscriber(mosquitto: &Mosquitto) -> Result<Latencies> {
    let mut subscriber = Client::connect(mosquitto.port, "bare", true)?;
    subscriber.subscribe(FILTER)?;
    publish_and(mosquitto, |epoch, expected| {
        let mut latencies = Latencies::default();
        while latencies.count() < expected {
            latencies.record(mqtt::latency(epoch, std::str::from_utf8(&subscriber.receive()?)?)?);
        }
        Ok(latencies)
    })
}

fn to_a_file(directory: &Path, mosquitto: &Mosquitto) -> Result<Latencies> {
    let path = directory.join("records.jsonl");
    let mut host = Host::start(directory, mosquitto, Destination::File(&path))?;
    host.ready()?;
    let latencies = publish_and(mosquitto, |epoch, expected| {
        let mut tail = Tail::follow(&path).context("the file sink made no file")?;
        let mut latencies = Latencies::default();
        while latencies.count() < expected {
            tail.lines(PATIENCE, |line| {
                let record: serde_json::Value = serde_json::from_str(line)?;
                let value = record["value"].as_str().context("a record without value")?;
                latencies.record(mqtt::latency(epoch, value)?);
                Ok(())
            })?;
        }
        Ok(latencies)
    })?;
    host.stop()?;
    // Ends the persistent session, so that nothing is queued for it in the next round.
    Client::connect(mosquitto.port, CLIENT_ID, true)?.disconnect()?;
    Ok(latencies)
}
