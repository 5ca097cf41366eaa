//! The Rivven server of the demo: rivvend, in this process; and what is in it afterwards.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rivven_client::Client;
use rivvend::{Cli, ClusterServer, ShutdownHandle};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The topic that the records are written to.
pub const TOPIC: &str = "fleet-readings";
const PARTITIONS: u32 = 4;
/// Records in one read.
const READ: u32 = 5_000;

/// A running server.
pub struct Rivven {
    /// `host:port`.
    pub address: String,
    shutdown: ShutdownHandle,
    server: JoinHandle<Result<()>>,
}

/// A record, as it came out of Rivven.
#[derive(Debug)]
pub struct Record {
    /// The record key.
    pub key: String,
    /// The record value.
    pub value: Vec<u8>,
}

impl Rivven {
    /// Starts the server with its data in `directory`, and creates the topic.
    pub async fn start(directory: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", super::free_port()?);
        let api = format!("127.0.0.1:{}", super::free_port()?);
        let data = directory.join("rivven").display().to_string();
        let arguments = ["rivvend", "--bind", &address, "--api-bind", &api, "--data-dir", &data];
        let cli = Cli::try_parse_from(arguments.into_iter().chain(["--no-dashboard", "--no-require-auth"]))?;
        let server = ClusterServer::new(cli).await?;
        let shutdown = server.get_shutdown_handle();
        let server = tokio::spawn(server.start());
        let connected = async {
            loop {
                match Client::connect(&address).await {
                    Ok(client) => return client,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let mut client =
            timeout(Duration::from_secs(20), connected).await.context("rivvend did not start")?;
        client.create_topic(TOPIC, Some(PARTITIONS)).await?;
        Ok(Rivven { address, shutdown, server })
    }

    /// Every record of the topic: partition by partition, in the order of each.
    pub async fn consume_all(&self) -> Result<Vec<Record>> {
        let mut client = Client::connect(&self.address).await?;
        let mut records = Vec::new();
        for partition in 0..PARTITIONS {
            let mut offset = 0;
            loop {
                let read = client.consume(TOPIC, partition, offset, READ).await?;
                let Some(last) = read.last() else { break };
                offset = last.offset + 1;
                records.extend(read.into_iter().map(|message| Record {
                    key: String::from_utf8_lossy(&message.key.unwrap_or_default()).into_owned(),
                    value: message.value.to_vec(),
                }));
            }
        }
        Ok(records)
    }

    /// Stops the server. Its clients have to be gone: it waits for them.
    pub async fn stop(self) -> Result<()> {
        self.shutdown.shutdown();
        timeout(Duration::from_secs(15), self.server).await.context("rivvend did not stop")??
    }
}
