//! One source: its workers, its driver, and their ends.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use super::load::{self, Loaded, Ready};
use super::reload::Reloader;
use super::{Host, SourceHandle, worker};
use crate::config::{Settings, Source};
use crate::dlq::Outlet;
use crate::error::{HostError, chain};
use crate::live::{Live, Quarantine};
use crate::message::Batch;
use crate::metrics::SourceMetrics;
use crate::mqtt::{self, Driver};
use crate::processor::{Context, PassAll, Processor, Stop};
use crate::record::{EventShape, Provenance, Shape};
use crate::sink::Sink;
use crate::status::{Part, Status};
use crate::thread;

/// What the workers of a source have in common, and the ends of their channels.
struct Bench {
    context: Context,
    stop: mpsc::UnboundedSender<String>,
    stopped: mpsc::UnboundedReceiver<String>,
    settled: mpsc::UnboundedReceiver<Box<Batch>>,
}

impl Bench {
    fn new(
        name: &str,
        source: &Source,
        loaded: &Loaded,
        metrics: Arc<SourceMetrics>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let (stop, stopped) = mpsc::unbounded_channel();
        let (back, settled) = mpsc::unbounded_channel();
        let from = Provenance {
            source: name.to_owned(),
            client_id: source.mqtt.client_id.clone(),
            broker: source.mqtt.url.to_string(),
            plugins: loaded.names.clone(),
        };
        let events = EventShape::new(&source.mqtt);
        let shape = Shape::new(source.record.clone(), events, from, source.on_fault, metrics, stop.clone());
        let context = Context::new(Arc::new(shape), source.on_reject, sink, back);
        Bench { context, stop, stopped, settled }
    }
}

impl Host {
    /// Starts the workers and the driver of a source.
    pub(super) fn start_source(
        &mut self,
        name: String,
        source: Source,
        ready: Ready,
        settings: &Settings,
    ) -> Result<(), HostError> {
        let Ready { loader, watch, loaded, journal } = ready;
        let metrics = Arc::new(SourceMetrics::default());
        let status = Status::default();
        status.not_ready(Part::Mqtt, "connecting");
        self.sink.attach(status.clone());

        let Bench { mut context, stop, stopped, settled } =
            Bench::new(&name, &source, &loaded, metrics.clone(), self.sink.clone());
        if let Some(journal) = journal {
            let started = journal.start(&name, status.clone(), context.back.clone());
            let (queue, thread) = started.map_err(HostError::Thread)?;
            context.journal = Some(queue);
            self.workers.push(thread);
        }
        let stack = load::stack(&source.plugins);
        let aggregating = Arc::new(AtomicBool::new(loaded.aggregates()));
        let limit = source.max_faults_per_minute;
        let quarantine = Arc::new(Quarantine::new(&name, limit, status.clone(), metrics.clone()));
        let (mut channels, mut swaps) = (Vec::new(), Vec::new());
        for (index, transform) in loaded.transforms.into_iter().enumerate() {
            // One batch queued while one is processed: the driver gathers whatever else arrives into the next.
            let (sender, mut work) = mpsc::channel(1);
            channels.push(sender);
            let (swap, swapped) = mpsc::channel(1);
            swaps.push(swap);
            let live = Live::new(quarantine.clone(), swapped);
            let mut processor = Processor::new(transform, context.clone()).live(live);
            let (stop, flush_interval) = (stop.clone(), source.flush_interval);
            let job = move || {
                if let Err(Stop(reason)) = worker::work_off(&mut processor, &mut work, flush_interval) {
                    // While both channels are open, so that the driver hears the reason first and drains. Nobody listens
                    // any more when the host has ended.
                    let _ = stop.send(reason);
                }
            };
            let (thread, _) = worker::spawn(format!("{name}-{index}"), stack, job)?;
            self.workers.push(thread);
        }

        let driver = Driver {
            name: name.clone(),
            settings: Arc::new(source.mqtt),
            state_dir: settings.state_dir.clone(),
            metrics: metrics.clone(),
            status: status.clone(),
            aggregating: aggregating.clone(),
            grace: settings.shutdown_grace,
            fail_fast: false,
        };
        let outlet = mqtt::Outlet { workers: channels, back: settled };
        let plugins = loader.as_ref().map(|loader| loader.hosts.clone()).unwrap_or_default();
        let handle = SourceHandle { name: name.clone().into(), metrics, status, plugins };
        let ended = spawn_source(handle.clone(), driver, outlet, self.shutdown.subscribe(), stopped)?;
        let (asked, shutdown) = (self.reload.subscribe(), self.shutdown.subscribe());
        let reloads = loader.map(|loader| {
            let (loader, shape) = (Arc::new(loader), context.shape);
            Reloader { name: name.clone(), loader, workers: swaps, quarantine, shape, aggregating }
        });
        self.running.spawn(async move {
            let ended = async { ended.await.unwrap_or_else(|_| Err(HostError::Died { name })) };
            let Some(reloads) = reloads else { return ended.await };
            tokio::pin!(ended);
            // A worker in quarantine ends with the reloads that it waits for.
            tokio::select! {
                ended = &mut ended => return ended,
                () = reloads.run(watch, asked, shutdown) => {}
            }
            ended.await
        });
        self.sources.push(handle);
        Ok(())
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

/// Runs `job` as a worker of `source` would run: on a thread with the stack that its plugins need, with the plugins, the policies
/// and `sink`. Nothing connects to the MQTT broker.
///
/// # Errors
///
/// A plugin cannot be used, or the thread cannot be started.
pub(crate) async fn on_worker<T: Send + 'static>(
    name: String,
    source: Source,
    settings: &Settings,
    sink: Arc<dyn Sink>,
    job: impl FnOnce(&mut Outlet) -> T + Send + 'static,
) -> Result<T, HostError> {
    let (source, settings) = (Source { workers: 1, ..source }, settings.clone());
    let start = move || load::sandbox(&settings);
    let load =
        move || load::load(&mut None, start, &name, &source, None).map(|ready| (ready.loaded, name, source));
    let (loaded, name, source) = tokio::task::spawn_blocking(load).await.map_err(HostError::Panicked)??;
    let Bench { context, settled, stopped, .. } = Bench::new(&name, &source, &loaded, Arc::default(), sink);
    let stack = load::stack(&source.plugins);
    let transform = loaded.transforms.into_iter().next().unwrap_or_else(|| Box::new(PassAll));
    let mut outlet = Outlet { processor: Processor::new(transform, context), settled, stopped };
    let (_, ended) = worker::spawn(name.clone(), stack, move || job(&mut outlet))?;
    ended.await.map_err(|_| HostError::Died { name })
}
