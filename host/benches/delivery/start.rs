//! How long it takes from the start of the host's process to the first record of a message that waits at the broker: without
//! a plugin, with one that has to be compiled, and with one whose code is in the cache.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::{CLIENT_ID, Destination, FILTER, Host};
use crate::mosquitto::Mosquitto;
use crate::mqtt::Client;
use crate::support::stats::median;
use crate::support::{ROUNDS, component, table};

/// A plugin that is not among those that `make guests` builds, such as one in Python, with which the same is measured.
const OTHER: &str = "START_PLUGIN";

/// Measures and prints.
pub fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mosquitto = Mosquitto::start(directory.path())?;
    // The host's session, so that the broker keeps a message for it.
    let mut session = Client::connect(mosquitto.port, CLIENT_ID, false)?;
    session.subscribe(FILTER)?;
    session.disconnect()?;

    let mut table = table(["plugin", "no plugin, ms", "compiled at the start, ms", "cached, ms"]);
    let mut plugins = vec![("Rust", component("bench_guest")?, "{work: pass}")];
    if let Some(path) = std::env::var_os(OTHER) {
        plugins.push((OTHER, PathBuf::from(path), "null"));
    }
    for (name, path, config) in plugins {
        eprintln!("start: {name}");
        let plugin = format!("plugin: {{path: {}, config: {config}}}", path.display());
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let [none, cold, cached] = &mut times;
            let host = directory.path().join("host");
            none.push(first_record(&host, &mosquitto, "")?);
            let cache = host.join("state/compiled");
            if cache.exists() {
                std::fs::remove_dir_all(&cache).context("cannot empty the cache")?;
            }
            cold.push(first_record(&host, &mosquitto, &plugin)?);
            cached.push(first_record(&host, &mosquitto, &plugin)?);
        }
        let times = times.map(|times| format!("{:.0}", median(times)));
        let row: Vec<&str> = [name].into_iter().chain(times.iter().map(String::as_str)).collect();
        table.add_row(row);
    }
    println!("From the start of the process to the first record in a file, medians of {ROUNDS}\n{table}\n");
    Ok(())
}

/// Milliseconds.
fn first_record(directory: &Path, mosquitto: &Mosquitto, plugin: &str) -> Result<f64> {
    Client::connect(mosquitto.port, "publisher", true)?.publish(1)?;
    let file = directory.join("records.jsonl");
    let size = || std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let (before, started) = (size(), Instant::now());
    let host = Host::start_with(directory, mosquitto, Destination::File(&file), plugin)?;
    while size() == before {
        ensure!(started.elapsed() < Duration::from_secs(120), "no record");
        sleep(Duration::from_micros(500));
    }
    let time = started.elapsed();
    host.stop()?;
    Ok(time.as_secs_f64() * 1e3)
}
