//! Only the face of the pipeline, so that this branch compiles: to be overwritten.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::message::Batch;
use crate::metrics::SourceMetrics;
use crate::plugin::PluginMetrics;
use crate::status::Status;

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// The Rivven cluster of the configuration.
    Rivven,
    /// JSON lines on standard output.
    Stdout,
    /// Nowhere: committed at once.
    Discard,
    /// JSON lines appended to a file.
    File(PathBuf),
}

/// A source of a running host.
#[derive(Clone)]
pub struct SourceHandle {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it has counted.
    pub metrics: Arc<SourceMetrics>,
    /// Whether it is ready, and why not.
    pub status: Status,
    /// What its plugin counts, if it has one.
    pub plugin_metrics: Option<Arc<PluginMetrics>>,
}

/// Running sources.
pub struct Host {
    sources: Vec<SourceHandle>,
}

impl Host {
    /// Starts.
    ///
    /// # Errors
    /// Never.
    pub async fn start(config: Config, _sink: SinkKind) -> Result<Host, std::io::Error> {
        let handle = |name: &String| SourceHandle {
            name: name.as_str().into(),
            metrics: Arc::default(),
            status: Status::default(),
            plugin_metrics: None,
        };
        Ok(Host { sources: config.sources.keys().map(handle).collect() })
    }

    /// The sources.
    pub fn sources(&self) -> &[SourceHandle] {
        &self.sources
    }

    /// Runs.
    ///
    /// # Errors
    /// Never.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), std::io::Error> {
        shutdown.await;
        Ok(())
    }
}

/// Runs messages through a plugin.
///
/// # Errors
/// Always.
pub fn test_plugin(_file: &Path, _config: String, _messages: Batch) -> Result<Vec<u8>, std::io::Error> {
    Err(std::io::ErrorKind::Unsupported.into())
}
