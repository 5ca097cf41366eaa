//! The only place that wires the stages and spawns them:
//!
//! ```text
//! driver thread --Work--> worker threads --Delivery--> sink --Batch (settled)--> driver thread
//! ```
//!
//! A settled batch that wrote to the state of a plugin takes the way through the source's journal, which makes that durable first.
//!
//! Shutdown runs the same way: the driver stops reading and closes the workers' channels, the workers process what is
//! queued, flush, and end; the sink commits; the driver acknowledges, disconnects and ends; then the sink is closed.

mod files;
mod load;
mod reload;
mod source;
mod worker;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;

use crate::config::{BadMessage, Config, Source};
use crate::error::HostError;
use crate::metrics::SourceMetrics;
use crate::plugin::PluginHost;
use crate::sink::{Discard, FileSink, RivvenSink, Sink};
use crate::state_dir;
use crate::status::Status;

pub(crate) use self::load::try_load;
pub use self::reload::Reload;
pub(crate) use self::source::on_worker;

/// How long workers may take to end when nothing is left to do for them.
const LAST_CALL: Duration = Duration::from_secs(2);

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

/// A source of a running host, as an operator sees it.
#[derive(Clone)]
pub struct SourceHandle {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it has counted.
    pub metrics: Arc<SourceMetrics>,
    /// Whether it is ready, and why not.
    pub status: Status,
    /// What its plugins use and report, in their order.
    pub plugins: Vec<PluginHost>,
}

/// Running sources, their workers and their sink.
pub struct Host {
    sources: Vec<SourceHandle>,
    running: JoinSet<Result<(), HostError>>,
    workers: Vec<JoinHandle<()>>,
    shutdown: watch::Sender<bool>,
    reload: Reload,
    sink: Arc<dyn Sink>,
    /// `state_dir` is ours for as long as this lives.
    _state: Option<state_dir::Lock>,
}

impl Host {
    /// Loads and initialises every plugin, opens the sink, then starts the sources: nothing connects before all plugins
    /// are ready.
    ///
    /// # Errors
    ///
    /// When another host uses the state folder, a plugin cannot be loaded, the sink cannot be opened, or a thread cannot be
    /// started.
    pub async fn start(config: Config, sink: SinkKind) -> Result<Self, HostError> {
        let (config, state, plugins) = tokio::task::spawn_blocking(move || {
            let state = match config.sources.values().any(keeps_state) {
                true => state_dir::lock(&config.settings.state_dir)?,
                false => None,
            };
            let plugins = load::load_all(&config)?;
            Ok::<_, HostError>((config, state, plugins))
        })
        .await
        .map_err(HostError::Panicked)??;
        let sink = open(&config, sink)?;
        let (shutdown, _) = watch::channel(false);
        let mut host = Host {
            sources: Vec::new(),
            running: JoinSet::new(),
            workers: Vec::new(),
            shutdown,
            reload: Reload::new(),
            sink,
            _state: state,
        };
        for ((name, source), ready) in config.sources.into_iter().zip(plugins) {
            host.start_source(name, source, ready, &config.settings)?;
        }
        Ok(host)
    }

    /// The sources, for metrics and readiness.
    pub fn sources(&self) -> &[SourceHandle] {
        &self.sources
    }

    /// The sink of all sources, for metrics.
    pub fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    /// What has the plugins loaded again while it runs.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Runs until `shutdown` completes and everything that was taken is settled or the grace is over, or until every source
    /// has failed. When a source fails the others go on; its status says why.
    ///
    /// # Errors
    ///
    /// The first failure of a source, once all have ended.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), HostError> {
        tokio::pin!(shutdown);
        let mut stopping = false;
        let mut result = Ok(());
        loop {
            tokio::select! {
                () = &mut shutdown, if !stopping => {
                    stopping = true;
                    info!("shutting down: what is in flight is committed and acknowledged");
                    self.shutdown.send_replace(true);
                }
                ended = self.running.join_next() => match ended {
                    None => break,
                    Some(ended) => result = result.and(ended.map_err(HostError::Panicked).flatten()),
                },
            }
        }
        self.sink.close().await;
        // Their channels and the sink are closed, so they end at once, unless they wait where nobody can call them back: in a
        // plugin, or for the reader of a pipe. The end of the process ends those; what they have is not acknowledged.
        let end = Instant::now() + LAST_CALL;
        while self.workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        result
    }
}

/// Whether a source has anything in the state folder.
fn keeps_state(source: &Source) -> bool {
    !source.mqtt.clean_session || !source.plugins.is_empty()
}

/// Opens the sink of all sources.
pub(crate) fn open(config: &Config, kind: SinkKind) -> Result<Arc<dyn Sink>, HostError> {
    Ok(match kind {
        SinkKind::Discard => Arc::new(Discard),
        SinkKind::Stdout => Arc::new(FileSink::stdout()?),
        SinkKind::File(path) => Arc::new(FileSink::open(&path, false)?),
        SinkKind::Rivven => {
            let broker = config.broker.as_ref().ok_or(HostError::NoBroker)?;
            Arc::new(RivvenSink::start(broker, config.sources.values().flat_map(known_topics))?)
        }
    })
}

/// The topics that a source is known to write to, and the partitions that they get should they have to be created.
pub(crate) fn known_topics(source: &Source) -> Vec<(String, Option<u32>)> {
    let record = &source.record;
    let dead_letters =
        source.on_reject == BadMessage::DeadLetter || source.on_fault == BadMessage::DeadLetter;
    let topics = [record.topic.fixed(), dead_letters.then_some(record.dead_letter_topic.as_str())];
    topics.into_iter().flatten().map(|topic| (topic.to_owned(), record.partitions)).collect()
}
