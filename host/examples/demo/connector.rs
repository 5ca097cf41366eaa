//! rivven-mqtt itself, used as a library: the same configuration file and the same pipeline as `rivven-mqtt run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rivven_mqtt::config;
use rivven_mqtt::error::HostError;
use rivven_mqtt::metrics::{Ledger, SourceMetrics};
use rivven_mqtt::pipeline::{Host, SinkKind};
use rivven_mqtt::status::Status;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long the connector may take until it is subscribed.
const READY: Duration = Duration::from_secs(15);

/// The running connector.
pub struct Connector {
    metrics: Arc<SourceMetrics>,
    status: Status,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), HostError>>,
}

/// The example plugin `filter`, as `make guests` builds it.
pub fn filter_plugin() -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let path = target.join("wasm32-wasip2/plugin/example_filter.wasm");
    path.canonicalize().with_context(|| format!("no plugin at {}: run `make guests` first", path.display()))
}

impl Connector {
    /// Writes the configuration, prints it, starts the host with it, and waits until it is subscribed.
    pub async fn start(files: &Path, mqtt_port: u16, rivven: &str, plugin: &Path) -> Result<Self> {
        let text = configuration(files, mqtt_port, rivven, plugin);
        text.lines().for_each(|line| println!("    {line}"));
        println!();
        let path = files.join("demo.yaml");
        std::fs::write(&path, text)?;

        let host = Host::start(config::load(&path, true)?, SinkKind::Rivven).await?;
        let source = host.sources().first().context("the configuration has no source")?;
        let (metrics, status) = (source.metrics.clone(), source.status.clone());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(host.run(async {
            // A sender that is gone means the same.
            let _ = stopped.await;
        }));
        let connector = Connector { metrics, status, stop, running };
        connector.ready().await?;
        Ok(connector)
    }

    async fn ready(&self) -> Result<()> {
        let subscribed = async {
            while !self.status.reasons().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(READY, subscribed).await {
            Ok(()) => Ok(()),
            Err(_) => bail!("rivven-mqtt is not ready after {READY:?}: {}", self.status.reasons().join("; ")),
        }
    }

    /// The loss equation as it stands.
    pub fn ledger(&self) -> Ledger {
        self.metrics.ledger()
    }

    /// The state of the connector in words.
    pub fn describe(&self) -> String {
        format!("{:?}, not ready: {:?}", self.ledger(), self.status.reasons())
    }

    /// Drains, disconnects, and gives back the final count.
    pub async fn stop(self) -> Result<Ledger> {
        // A host that has ended already is found out about in the next line.
        let _ = self.stop.send(());
        self.running.await?.context("rivven-mqtt failed")?;
        Ok(self.metrics.ledger())
    }
}

/// What a user writes, but for the ports and the folder. The destination, the filter and the threshold are those of the fleet,
/// which the audit would find out about.
const CONFIGURATION: &str = include_str!("demo.yaml");

/// The configuration of this run.
fn configuration(files: &Path, mqtt_port: u16, rivven: &str, plugin: &Path) -> String {
    CONFIGURATION
        .replace("${RIVVEN}", rivven)
        .replace("${PLUGIN}", &plugin.display().to_string())
        .replace("${MQTT_PORT}", &mqtt_port.to_string())
        .replace("${STATE}", &files.join("state").display().to_string())
}
