//! The host as a process, as a user runs it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::mosquitto::{Mosquitto, WINDOW};
use crate::process::{Process, free_port};
use crate::rivvend::{PARTITIONS, Rivvend};
use crate::support::component;

/// The MQTT client identifier of the host.
pub const CLIENT_ID: &str = "delivery-bench";
/// What it subscribes to.
pub const FILTER: &str = "sensor/#";

/// Where the host writes.
pub enum Destination<'a> {
    /// A topic of rivvend.
    Rivven { rivvend: &'a Rivvend, connections: usize, topic: &'a str },
    /// The file sink.
    File(&'a Path),
}

/// A running host.
pub struct Host {
    /// Its process.
    pub process: Process,
    http: u16,
}

impl Host {
    /// Starts the host with the pass plugin; its files are in `directory`.
    pub fn start(directory: &Path, mosquitto: &Mosquitto, destination: Destination<'_>) -> Result<Self> {
        let path = component("bench_guest")?;
        let plugin = format!("plugin: {{path: {}, config: {{work: pass}}}}", path.display());
        Self::start_with(directory, mosquitto, destination, &plugin)
    }

    /// The same with another line for the plugin, or none.
    pub fn start_with(
        directory: &Path,
        mosquitto: &Mosquitto,
        destination: Destination<'_>,
        plugin: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let http = free_port()?;
        let (broker, topic, sink) = match destination {
            Destination::Rivven { rivvend, connections, topic } => {
                let address = &rivvend.address;
                let broker =
                    format!("broker: {{bootstrap_servers: [\"{address}\"], connections: {connections}}}");
                (broker, topic, "rivven".to_owned())
            }
            Destination::File(path) => (String::new(), "unused", format!("file:{}", path.display())),
        };
        let config = format!(
            "{broker}
sources:
  bench:
    type: mqtt-source
    topic: {topic}
    partitions: {PARTITIONS}
    format: raw
    {plugin}
    config:
      broker_url: mqtt://127.0.0.1:{}
      topics: [\"{FILTER}\"]
      client_id: {CLIENT_ID}
      clean_session: false
      max_inflight: {WINDOW}
settings:
  state_dir: {}
  http: {{listen: \"127.0.0.1:{http}\"}}
",
            mosquitto.port,
            directory.join("state").display(),
        );
        let path = directory.join("host.yaml");
        std::fs::write(&path, config)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_rivven-mqtt"));
        command.arg("run").arg("-c").arg(path).args(["--sink", &sink]);
        Ok(Host { process: Process::start("rivven-mqtt", &mut command, directory)?, http })
    }

    /// Waits until every part is ready.
    pub fn ready(&mut self) -> Result<()> {
        let http = self.http;
        let ready = || get(http, "/ready").ok().filter(|answer| answer.starts_with("HTTP/1.1 200"));
        self.process.wait_for("readiness", Duration::from_secs(30), ready)?;
        Ok(())
    }

    /// Messages received, and of those committed.
    pub fn counts(&self) -> Result<(u64, u64)> {
        counts(self.http)
    }

    /// Waits until `condition` holds of the counts.
    pub fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        condition: impl Fn(u64, u64) -> bool,
    ) -> Result<()> {
        let http = self.http;
        let holds = || counts(http).ok().filter(|&(received, committed)| condition(received, committed));
        self.process.wait_for(what, patience, holds).map(drop)
    }

    /// SIGTERM and a clean end.
    pub fn stop(self) -> Result<()> {
        let status = self.process.terminate(Duration::from_secs(20))?;
        ensure!(status.success(), "the host ended with {status}");
        Ok(())
    }
}

fn counts(http: u16) -> Result<(u64, u64)> {
    let answer = get(http, "/metrics")?;
    Ok((
        metric(&answer, "rivven_mqtt_source_messages_received_total")?,
        metric(&answer, "rivven_mqtt_source_messages_committed_total")?,
    ))
}

/// The value of a metric of the only source.
fn metric(answer: &str, name: &str) -> Result<u64> {
    let mut lines =
        answer.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with('{'));
    let value = lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.with_context(|| format!("no {name} in\n{answer}"))
}

/// The whole answer to a GET.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
