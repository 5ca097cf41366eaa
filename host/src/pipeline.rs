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

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info};

use crate::config::{BadMessage, Config, Mqtt, Settings, Source, Version};
use crate::dlq::Outlet;
use crate::error::{HostError, PluginError, chain};
use crate::journal::Journal;
use crate::message::Work;
use crate::metrics::SourceMetrics;
use crate::mqtt::{self, Driver};
use crate::plugin::{Plugin, PluginHost, Sandbox, SourceDescription};
use crate::processor::{Context, PassAll, Processor, Stop, Transform};
use crate::record::{EventShape, PluginName, Provenance, Shape};
use crate::sink::{Discard, FileSink, RivvenSink, Sink};
use crate::status::{Part, Status};
use crate::thread;

/// How long workers may take to end when nothing is left to do for them.
const LAST_CALL: Duration = Duration::from_secs(2);

/// The folder of compiled plugins below `state_dir`.
const COMPILED: &str = "compiled";

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
    /// What its plugin uses and reports, if it has one.
    pub plugin: Option<PluginHost>,
}

/// Running sources, their workers and their sink.
pub struct Host {
    sources: Vec<SourceHandle>,
    running: JoinSet<Result<(), HostError>>,
    workers: Vec<JoinHandle<()>>,
    shutdown: watch::Sender<bool>,
    sink: Arc<dyn Sink>,
}

impl Host {
    /// Loads and initialises every plugin, opens the sink, then starts the sources: nothing connects before all plugins
    /// are ready.
    ///
    /// # Errors
    ///
    /// When a plugin cannot be loaded, the sink cannot be opened, or a thread cannot be started.
    pub async fn start(config: Config, sink: SinkKind) -> Result<Self, HostError> {
        let (config, plugins) = tokio::task::spawn_blocking(move || {
            let plugins = load_plugins(&config)?;
            Ok::<_, HostError>((config, plugins))
        })
        .await
        .map_err(HostError::Panicked)??;
        let sink = open(&config, sink)?;
        let (shutdown, _) = watch::channel(false);
        let mut host =
            Host { sources: Vec::new(), running: JoinSet::new(), workers: Vec::new(), shutdown, sink };
        for ((name, source), loaded) in config.sources.into_iter().zip(plugins) {
            host.start_source(name, source, loaded, &config.settings)?;
        }
        Ok(host)
    }

    fn start_source(
        &mut self,
        name: String,
        source: Source,
        loaded: Loaded,
        settings: &Settings,
    ) -> Result<(), HostError> {
        let Loaded { plugin, host, transforms, journal } = loaded;
        let metrics = Arc::new(SourceMetrics::default());
        let status = Status::default();
        status.not_ready(Part::Mqtt, "connecting");
        self.sink.attach(status.clone());

        let (stop, stopped) = mpsc::unbounded_channel();
        let (back, settled) = mpsc::unbounded_channel();
        let shape = shape(&name, &source, plugin.as_ref(), metrics.clone(), stop.clone());
        let mut context = Context::new(Arc::new(shape), source.on_reject, self.sink.clone(), back.clone());
        if let Some(journal) = journal {
            let (settle, thread) = journal.start(&name, status.clone(), back).map_err(HostError::Thread)?;
            context.journal = Some(settle);
            self.workers.push(thread);
        }

        let flush_interval = source.plugin.map_or(Duration::MAX, |plugin| plugin.flush_interval);
        let stack = plugin.as_ref().map_or(2 << 20, Plugin::thread_stack);
        let mut channels = Vec::new();
        for (index, transform) in transforms.into_iter().enumerate() {
            // One batch queued while one is processed: the driver gathers whatever else arrives into the next.
            let (sender, work) = mpsc::channel(1);
            channels.push(sender);
            let processor = Processor::new(transform, context.clone());
            let (stop, runtime) = (stop.clone(), Handle::current());
            let worker = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .stack_size(stack)
                .spawn(move || {
                    let _runtime = runtime.enter();
                    let (mut processor, mut work) = (processor, work);
                    if let Err(Stop(reason)) = work_off(&mut processor, &mut work, flush_interval) {
                        // While both channels are open, so that the driver hears the reason first and drains. Nobody listens
                        // any more when the host has ended.
                        let _ = stop.send(reason);
                    }
                })
                .map_err(HostError::Thread)?;
            self.workers.push(worker);
        }

        let driver = Driver {
            name: name.clone(),
            settings: Arc::new(source.mqtt),
            state_dir: settings.state_dir.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
            aggregating: plugin.as_ref().is_some_and(Plugin::aggregates),
            grace: settings.shutdown_grace,
            fail_fast: false,
        };
        let outlet = mqtt::Outlet { workers: channels, back: settled };
        let handle = SourceHandle { name: name.into(), metrics, status, plugin: host };
        let ended = spawn_source(handle.clone(), driver, outlet, self.shutdown.subscribe(), stopped)?;
        let died = handle.name.clone();
        self.running.spawn(async move {
            ended.await.unwrap_or_else(|_| Err(HostError::Died { name: died.to_string() }))
        });
        self.sources.push(handle);
        Ok(())
    }

    /// The sources, for metrics and readiness.
    pub fn sources(&self) -> &[SourceHandle] {
        &self.sources
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

/// Runs a source on a thread of its own.
fn spawn_source(
    source: SourceHandle,
    driver: Driver,
    outlet: mqtt::Outlet,
    shutdown: watch::Receiver<bool>,
    stopped: mpsc::UnboundedReceiver<String>,
) -> Result<oneshot::Receiver<Result<(), HostError>>, HostError> {
    let (end, ended) = oneshot::channel();
    let name = format!("{}-mqtt", source.name);
    thread::run_alone(name, run_source(source, driver, outlet, shutdown, stopped), |result| {
        // The host may be gone.
        let _ = end.send(result);
    })
    .map_err(HostError::Thread)?;
    Ok(ended)
}

/// One source, until shutdown (or the end of the host) or until it cannot go on.
async fn run_source(
    source: SourceHandle,
    driver: Driver,
    outlet: mqtt::Outlet,
    mut shutdown: watch::Receiver<bool>,
    mut stopped: mpsc::UnboundedReceiver<String>,
) -> Result<(), HostError> {
    let (stop, stopping) = watch::channel(false);
    let driver = driver.run(outlet, stopping);
    tokio::pin!(driver);
    let mut reason = None;
    let result = loop {
        tokio::select! {
            // The reason first: a worker that stops closes its channel after it, and the driver must not take that for a crash.
            biased;
            Some(why) = stopped.recv() => {
                error!(source = %source.name, reason = %why, "the source stops; what is not committed stays unacknowledged");
                reason.get_or_insert(why);
                stop.send_replace(true);
            }
            _ = shutdown.wait_for(|shutdown| *shutdown), if !*stop.borrow() => {
                stop.send_replace(true);
            }
            result = &mut driver => break result,
        }
    };
    // Workers that stop close their channels, which the driver may have seen first.
    let result = match reason.or_else(|| stopped.try_recv().ok()) {
        Some(reason) => Err(HostError::Stopped { name: source.name.to_string(), reason }),
        None => result.map_err(|error| HostError::Mqtt { name: source.name.to_string(), source: error }),
    };
    if let Err(error) = &result {
        error!(source = %source.name, error = chain(error), "the source has failed");
        source.status.not_ready(Part::Mqtt, chain(error));
    }
    result
}

/// What a worker's thread does, until its channel is closed: batches in, deliveries out, and a flush whenever something has
/// been held for as long as the interval.
fn work_off(
    processor: &mut Processor,
    work: &mut mpsc::Receiver<Work>,
    flush_interval: Duration,
) -> Result<(), Stop> {
    let runtime = Handle::current();
    let mut flush_at: Option<Instant> = None;
    loop {
        let next = match flush_at {
            None => work.blocking_recv(),
            Some(at) if at <= Instant::now() => Some(Work::Flush),
            Some(at) => runtime.block_on(timeout_at(at, work.recv())).unwrap_or(Some(Work::Flush)),
        };
        match next {
            Some(Work::Batch(batch)) => processor.process(batch)?,
            Some(Work::Flush) => {
                processor.flush()?;
                flush_at = None;
            }
            None => return processor.flush(),
        }
        if processor.holds() && flush_at.is_none() {
            flush_at = Some(Instant::now() + flush_interval);
        }
    }
}

/// The plugin of a source, and what decides on each worker's thread.
pub(crate) struct Loaded {
    pub(crate) plugin: Option<Plugin>,
    host: Option<PluginHost>,
    transforms: Vec<Box<dyn Transform>>,
    journal: Option<Journal>,
}

/// What the records of a source look like, and who hears about those that cannot be written.
fn shape(
    name: &str,
    source: &Source,
    plugin: Option<&Plugin>,
    metrics: Arc<SourceMetrics>,
    stop: mpsc::UnboundedSender<String>,
) -> Shape {
    let plugin =
        plugin.map(|plugin| PluginName { name: plugin.name().into(), sha256: plugin.sha256_hex().into() });
    let from = Provenance {
        source: name.to_owned(),
        client_id: source.mqtt.client_id.clone(),
        broker: source.mqtt.url.to_string(),
        plugin,
    };
    let events = EventShape::new(&source.mqtt);
    Shape::new(source.record.clone(), events, from, source.on_fault, metrics, stop)
}

/// Runs `job` as a worker of `source` would run: on a thread with the stack that its plugin needs, with the plugin, the policies
/// and `sink`. Nothing connects to the MQTT broker.
///
/// # Errors
///
/// The plugin cannot be used, or the thread cannot be started.
pub(crate) async fn on_worker<T: Send + 'static>(
    name: String,
    mut source: Source,
    settings: &Settings,
    sink: Arc<dyn Sink>,
    job: impl FnOnce(&mut Outlet) -> T + Send + 'static,
) -> Result<T, HostError> {
    if let Some(plugin) = &mut source.plugin {
        plugin.workers = 1;
    }
    let cache = settings.state_dir.join(COMPILED);
    let start = move || Sandbox::caching(&cache);
    let load = move || load(&mut None, start, &name, &source, None).map(|loaded| (loaded, name, source));
    let (loaded, name, source) = tokio::task::spawn_blocking(load).await.map_err(HostError::Panicked)??;
    let Loaded { plugin, transforms, .. } = loaded;
    let (stop, stopped) = mpsc::unbounded_channel();
    let (back, settled) = mpsc::unbounded_channel();
    let shape = shape(&name, &source, plugin.as_ref(), Arc::default(), stop);
    let context = Context::new(Arc::new(shape), source.on_reject, sink, back);
    let transform = transforms.into_iter().next().unwrap_or_else(|| Box::new(PassAll));
    let mut outlet = Outlet { processor: Processor::new(transform, context), settled, stopped };
    let (end, ended) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name(name.clone())
        .stack_size(plugin.as_ref().map_or(2 << 20, Plugin::thread_stack))
        .spawn(move || {
            let _runtime = runtime.enter();
            // Whoever waits for it may be gone.
            let _ = end.send(job(&mut outlet));
        })
        .map_err(HostError::Thread)?;
    ended.await.map_err(|_| HostError::Died { name })
}

fn load_plugins(config: &Config) -> Result<Vec<Loaded>, HostError> {
    let mut sandbox = None;
    let state_dir = &config.settings.state_dir;
    let cache = state_dir.join(COMPILED);
    let start = || Sandbox::caching(&cache);
    let sources = config.sources.iter();
    sources.map(|(name, source)| load(&mut sandbox, start, name, source, Some(state_dir))).collect()
}

/// Loads the plugin of a source and starts its workers, which calls `init`. The first plugin starts the sandbox of all. The
/// plugin's state is what is kept in `state_dir`; without one it is empty, and is not kept.
pub(crate) fn load(
    sandbox: &mut Option<Sandbox>,
    start: impl FnOnce() -> Result<Sandbox, PluginError>,
    name: &str,
    source: &Source,
    state_dir: Option<&Path>,
) -> Result<Loaded, HostError> {
    let Some(plugin) = &source.plugin else {
        return Ok(Loaded { plugin: None, host: None, transforms: vec![Box::new(PassAll)], journal: None });
    };
    let sandbox = match sandbox {
        Some(sandbox) => sandbox,
        None => sandbox.insert(start()?),
    };
    let description = Arc::new(describe(&source.mqtt));
    let host = PluginHost::new(name, &plugin.limits);
    let loaded = Plugin::load(sandbox, plugin, description, host.clone())?;
    let journal = match state_dir.filter(|_| loaded.uses_state()) {
        Some(folder) => Some(Journal::open(folder, name)?),
        None => None,
    };
    // Before any `init` looks into it.
    if let Some(journal) = &journal {
        journal.load(loaded.name(), &host.state)?;
    }
    let workers = (0..plugin.workers).map(|_| Ok(Box::new(loaded.worker()?) as Box<dyn Transform>));
    let transforms = workers.collect::<Result<_, PluginError>>()?;
    info!(source = %name, plugin = loaded.name(), sha256 = loaded.sha256_hex(), "plugin ready");
    Ok(Loaded { plugin: Some(loaded), host: Some(host), transforms, journal })
}

fn describe(mqtt: &Mqtt) -> SourceDescription {
    let protocol_version = match mqtt.version {
        Version::V4 => "3.1.1",
        Version::V5 => "5.0",
    };
    SourceDescription {
        connector: concat!("rivven-mqtt ", env!("CARGO_PKG_VERSION")).into(),
        client_id: mqtt.client_id.clone(),
        broker: mqtt.url.to_string(),
        subscriptions: mqtt.topics.clone(),
        protocol_version: protocol_version.into(),
    }
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
