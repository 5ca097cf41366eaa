//! What the host keeps for one instance of a plugin.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lower, ResourceTable};
use wasmtime_wasi::WasiCtx;

use super::loads::PluginLoads;
use super::log::{Level, LineSplitter, PluginLog};
use super::metrics::PluginMetrics;
use super::sandbox::Limiter;
use super::state::{StateStore, Transaction};
use super::usage::PluginUsage;
use super::wasi;
use crate::config::Limits;
use crate::message::Batch;

/// What a plugin's messages come from; the WIT's `source.description`.
#[derive(Debug, Default, Clone, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct SourceDescription {
    /// Name and version of the connector, such as `rivven-mqtt 0.1.0`.
    pub connector: String,
    /// The MQTT client identifier.
    #[component(name = "client-id")]
    pub client_id: String,
    /// Host and port of the MQTT broker; never credentials.
    pub broker: String,
    /// The topic filters subscribed to.
    pub subscriptions: Vec<String>,
    /// `3.1.1` or `5.0`.
    #[component(name = "protocol-version")]
    pub protocol_version: String,
}

/// What a plugin of one source shares with the host: between its workers, and over reloads.
#[derive(Debug, Clone)]
pub struct PluginHost {
    /// What it is called in metrics and dead letters; no two plugins of a source have one name.
    pub name: Arc<str>,
    /// Its lines in the host's log.
    pub log: Arc<PluginLog>,
    /// The metrics that it reports.
    pub metrics: Arc<PluginMetrics>,
    /// Its keys and values.
    pub state: Arc<StateStore>,
    /// What it uses of its limits.
    pub usage: Arc<PluginUsage>,
    /// Which component it is.
    pub loads: Arc<PluginLoads>,
}

impl PluginHost {
    /// A log marked with the name of the source, no metrics, no state; all bounded by `limits`.
    pub fn new(source: &str, limits: &Limits) -> Self {
        Self::named(source, "plugin", limits)
    }

    /// As [`new`](Self::new), for a plugin of this name.
    pub fn named(source: &str, name: impl Into<Arc<str>>, limits: &Limits) -> Self {
        let name = name.into();
        PluginHost {
            log: Arc::new(PluginLog::new(source, name.clone(), limits.log_lines_per_second)),
            name,
            metrics: Arc::new(PluginMetrics::new(limits.metrics)),
            state: Arc::new(StateStore::new(limits.state)),
            usage: Arc::new(PluginUsage::new(limits)),
            loads: Arc::default(),
        }
    }
}

/// The data of one instance's store.
pub(super) struct Guest {
    /// The batch of the running call; empty between calls.
    pub batch: Batch,
    pub source: Arc<SourceDescription>,
    pub log: Arc<PluginLog>,
    pub metrics: Arc<PluginMetrics>,
    pub state: Transaction,
    pub limiter: Limiter,
    pub stdout: LineSplitter,
    pub stderr: LineSplitter,
    pub wasi: WasiCtx,
    pub table: ResourceTable,
}

impl Guest {
    pub fn new(host: &PluginHost, source: Arc<SourceDescription>, limits: &Limits) -> Self {
        let stdout = LineSplitter::new(host.log.clone(), Level::Info);
        let stderr = LineSplitter::new(host.log.clone(), Level::Warn);
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Guest {
            batch: Batch::default(),
            source,
            log: host.log.clone(),
            metrics: host.metrics.clone(),
            state: Transaction::new(host.state.clone()),
            limiter: Limiter::new(limits.memory, limits.instances),
            wasi: wasi::context(stdout.clone(), stderr.clone()),
            stdout,
            stderr,
            table,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // A last line without an end is a line too.
        self.stdout.end();
        self.stderr.end();
    }
}
