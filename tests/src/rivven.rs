//! A `rivvend` of one test, as a process of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rivven_client::Client;
use tempfile::TempDir;

use crate::host::program;
use crate::net::free_port;
use crate::process::Process;
use crate::wait::wait_for;

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// It serves its clients for 10 s after SIGTERM, and then takes its time.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// Records asked for in one request.
const FETCH: u32 = 5_000;

/// One record as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition.
    pub partition: u32,
    /// Offset in the partition.
    pub offset: u64,
    /// Key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Vec<u8>,
}

impl Record {
    /// The value as text; what is not UTF-8 shows as such.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }

    /// The key as text, empty when there is none.
    pub fn key_text(&self) -> String {
        self.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default()
    }

    /// Key and value, to compare records whose place in the log is open.
    pub fn pair(&self) -> (String, Vec<u8>) {
        (self.key_text(), self.value.clone())
    }

    /// The value as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.value)
            .with_context(|| format!("a record that is not JSON: {}", self.text()))
    }
}

/// A server with a data folder of its own, both of which end with this value.
#[derive(Debug)]
pub struct Rivven {
    // Before the folder, so that the server is gone when the folder is removed.
    process: Option<Process>,
    port: u16,
    api_port: u16,
    folder: TempDir,
}

impl Rivven {
    /// Starts a server and waits until it answers.
    pub async fn launch() -> Result<Self> {
        let mut rivven = Self::reserve()?;
        rivven.start().await?;
        Ok(rivven)
    }

    /// Picks ports and a folder, and starts nothing yet.
    pub fn reserve() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Rivven { process: None, port: free_port()?, api_port: free_port()?, folder })
    }

    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`; stays the same over a restart.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the server on its port and folder, and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = Command::new(program("rivvend")?)
            .args(["--bind", &self.address()])
            .args(["--api-bind", &format!("127.0.0.1:{}", self.api_port)])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--no-dashboard", "--no-require-auth", "--rate-limit-per-ip", "0", "--log-level", "warn"])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run rivvend")?;
        // When it is dropped, so is its data: nothing is worth waiting for.
        self.process = Some(Process::new(child, Signal::SIGKILL, Duration::from_secs(5)));
        let address = self.address();
        let answers = async || match Client::connect(&address).await {
            Ok(mut client) => client.ping().await.is_ok(),
            Err(_) => false,
        };
        if let Err(error) = wait_for("rivvend answers", START_TIMEOUT, answers).await {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            return Err(error.context(format!("rivvend's log:\n{log}")));
        }
        Ok(())
    }

    /// Stops it as its operator would, with SIGTERM; a `kill -9` would test bugs of its own recovery.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGTERM)?;
        process.ended(STOP_TIMEOUT).await.context("rivvend does not stop")?;
        Ok(())
    }

    /// Stops it from running (SIGSTOP): connections stay open and nothing answers.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it run again.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("rivvend does not run")?.signal(signal)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// A connection to it.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(&self.address()).await.context("cannot connect to rivvend")
    }

    /// Every record of a topic, partition by partition in order; none when there is no such topic.
    pub async fn consume_all(&self, topic: &str) -> Result<Vec<Record>> {
        let mut client = self.client().await?;
        let mut records = Vec::new();
        for (partition, earliest, latest) in bounds(&mut client, topic).await? {
            let mut next = earliest;
            while next < latest {
                let fetched = client.consume(topic, partition, next, FETCH).await?;
                next = fetched
                    .last()
                    .with_context(|| format!("rivvend withholds {topic}/{partition}@{next}"))?
                    .offset
                    + 1;
                records.extend(fetched.into_iter().map(|message| Record {
                    partition,
                    offset: message.offset,
                    key: message.key.map(|key| key.to_vec()),
                    value: message.value.to_vec(),
                }));
            }
        }
        Ok(records)
    }

    /// How many records a topic has.
    pub async fn count(&self, topic: &str) -> Result<u64> {
        let mut client = self.client().await?;
        Ok(bounds(&mut client, topic).await?.iter().map(|(_, earliest, latest)| latest - earliest).sum())
    }

    /// Waits until a topic has `count` records or more, and returns all of them.
    pub async fn wait_for_records(&self, topic: &str, count: u64, timeout: Duration) -> Result<Vec<Record>> {
        let mut found = 0;
        let enough = async || {
            found = self.count(topic).await.unwrap_or(found);
            found >= count
        };
        let waited = wait_for(&format!("{count} records in {topic}"), timeout, enough).await;
        waited.with_context(|| format!("{topic} has {found} records"))?;
        self.consume_all(topic).await
    }
}

/// First and next offset of each partition.
async fn bounds(client: &mut Client, topic: &str) -> Result<Vec<(u32, u64, u64)>> {
    if !client.list_topics().await?.iter().any(|name| name == topic) {
        return Ok(Vec::new());
    }
    let (_, partitions) = client.get_metadata(topic).await?;
    let mut bounds = Vec::new();
    for partition in 0..partitions {
        let (earliest, latest) = client.get_offset_bounds(topic, partition).await?;
        bounds.push((partition, earliest, latest));
    }
    Ok(bounds)
}
