//! The host in this process, through its public API: the configuration file and the pipeline of `rivven-mqtt run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rivven_mqtt::config;
use rivven_mqtt::error::HostError;
use rivven_mqtt::metrics::SourceMetrics;
use rivven_mqtt::pipeline::{self, SinkKind};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::component;

/// A running host with the bench plugin and the sink `discard`.
pub struct Host {
    runtime: Runtime,
    metrics: Arc<SourceMetrics>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), HostError>>,
    _files: TempDir,
}

impl Host {
    /// Connects to the blaster on `port`; the plugin does `work`.
    pub fn start(port: u16, qos: u8, work: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let path = files.path().join("intake.yaml");
        std::fs::write(
            &path,
            format!(
                "sources:
  intake:
    type: mqtt-source
    topic: intake
    format: raw
    plugin: {{path: {}, config: {{work: {work}}}}}
    config:
      broker_url: mqtt://127.0.0.1:{port}
      topics: [\"#\"]
      qos: {}
      max_inflight: 20000
settings: {{state_dir: {}}}
",
                component("bench_guest")?.display(),
                ["at_most_once", "at_least_once"][usize::from(qos)],
                files.path().join("state").display(),
            ),
        )?;
        let runtime = super::runtime("host")?;
        let config = config::load(&path, false)?;
        let host = runtime.block_on(pipeline::Host::start(config, SinkKind::Discard))?;
        let metrics = host.sources().first().context("no source")?.metrics.clone();
        let (stop, stopped) = oneshot::channel();
        let running = runtime.spawn(host.run(async {
            // A sender that is gone means the same.
            let _ = stopped.await;
        }));
        Ok(Host { runtime, metrics, stop, running, _files: files })
    }

    /// Messages committed and batches processed so far.
    pub fn committed(&self) -> (u64, u64) {
        (self.metrics.ledger().settled.committed, self.metrics.mqtt.snapshot().batch_count)
    }

    /// Waits until all `sent` messages are committed, then ends the host.
    pub fn finish(self, sent: u64) -> Result<()> {
        let start = Instant::now();
        while self.committed().0 < sent && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ledger = self.metrics.ledger();
        ensure!(
            ledger.received == sent && ledger.settled.committed == sent,
            "{sent} messages sent, but {ledger:?}"
        );
        // A host that has ended already is found out about in the next line.
        let _ = self.stop.send(());
        Ok(self.runtime.block_on(self.running)??)
    }
}
