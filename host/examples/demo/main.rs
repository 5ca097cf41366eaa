//! The whole thing in one process: an MQTT broker, a fleet of devices, the host with a filter plugin, and a Rivven server.
//!
//! ```text
//! 20 devices --QoS 1--> rumqttd --> rivven-mqtt [filter plugin] --> rivvend --> read back and compared
//! ```
//!
//! It ends by itself, with exit code 0 only if every published message is accounted for.

#![allow(missing_docs, clippy::print_stdout, clippy::print_stderr)]

mod audit;
mod broker;
mod connector;
mod fleet;
mod progress;
mod report;
mod rivven;

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use connector::Connector;
use progress::{Progress, Stage};
use rivven_mqtt::metrics::Ledger;
use tokio::time::{Instant, interval, timeout};
use tracing_subscriber::EnvFilter;

/// The demo takes seconds; if it does not, something is broken.
const AT_MOST: Duration = Duration::from_secs(55);
/// How often the counts are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long nothing may happen before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::main]
async fn main() -> ExitCode {
    // The broker and the server inside this process say a lot; RUST_LOG=info shows it.
    let filter = EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("error,rivven_mqtt=warn,rumqttd=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let outcome = tokio::select! {
        outcome = timeout(AT_MOST, demo()) => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted");
            return ExitCode::from(130);
        }
    };
    match outcome {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("\nThe demo failed: it did not end within {AT_MOST:?}");
            ExitCode::FAILURE
        }
    }
}

/// The story from beginning to end. Returns whether every message is accounted for.
async fn demo() -> Result<bool> {
    let plugin = connector::filter_plugin()?;
    // Removed when the demo ends, whichever way.
    let files = tempfile::tempdir()?;

    println!("Starting an MQTT broker (rumqttd) and a Rivven server (rivvend) inside this process ...");
    let mqtt_port = broker::start().await?;
    let rivven = rivven::Rivven::start(files.path()).await?;

    println!("Starting rivven-mqtt between them, with this configuration:\n");
    let connector = Connector::start(files.path(), mqtt_port, &rivven.address, &plugin).await?;

    let total = fleet::DEVICES * fleet::READINGS;
    println!(
        "{} devices publish {total} temperatures at QoS 1. The plugin, a sandboxed WebAssembly component, drops what is \
         under {} degrees.\n",
        fleet::DEVICES,
        fleet::THRESHOLD
    );
    let stages = run_fleet(mqtt_port, &connector, total).await?;
    let ledger = connector.stop().await?;

    println!(
        "\nReading topic `{}` back from Rivven and comparing each record with what was published ...",
        rivven::TOPIC
    );
    let records = rivven.consume_all().await?;
    let audit = audit::audit(&records);
    report::print_samples(&records);
    report::print_table(&stages, &ledger, &audit);
    let accounted = report::print_verdict(total, &ledger, &audit);
    rivven.stop().await?;
    Ok(accounted)
}

/// Lets the devices publish, and watches until everything that they published is settled.
async fn run_fleet(mqtt_port: u16, connector: &Connector, total: u64) -> Result<Vec<Stage>> {
    let published = Arc::new(AtomicU64::new(0));
    let fleet = tokio::spawn(fleet::publish(mqtt_port, published.clone()));
    let mut progress =
        Progress::new(&["published", "received", "dropped by the plugin", "written to Rivven"], total)?;
    let mut tick = interval(LOOK);
    let (mut last, mut changed) = (Ledger::default(), Instant::now());
    while last.settled.total() < total {
        tick.tick().await;
        let ledger = connector.ledger();
        progress.update(&[
            published.load(Relaxed),
            ledger.received,
            ledger.settled.dropped,
            ledger.settled.committed,
        ]);
        if ledger != last {
            (last, changed) = (ledger, Instant::now());
        } else if changed.elapsed() > PATIENCE {
            bail!("nothing has happened for {PATIENCE:?}: {}", connector.describe());
        }
    }
    fleet.await?.context("the fleet failed")?;
    progress.update(&[published.load(Relaxed), last.received, last.settled.dropped, last.settled.committed]);
    Ok(progress.finish())
}

/// A port of 127.0.0.1 that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
