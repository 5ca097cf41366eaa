//! Between the driver and the readers: the worker's end of the driver's channels, and what came and is not read.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::{Event, EventBatch, Shared};
use crate::config::Retry;
use crate::error::MqttError;
use crate::message::{Batch, Sequences, Tally, Work};
use crate::mqtt::{Backoff, Driver, Outlet};
use crate::record::EventShape;
use crate::thread;

/// The right to acknowledge some messages; when it is dropped they stay unacknowledged, and the driver is told so.
#[derive(Debug)]
pub(super) struct Receipt {
    sequences: Sequences,
    back: mpsc::UnboundedSender<Box<Batch>>,
}

impl Receipt {
    /// These messages are done.
    pub fn acknowledge(mut self) {
        self.give_back(false);
    }

    fn give_back(&mut self, abandoned: bool) {
        let sequences = std::mem::take(&mut self.sequences);
        if sequences.is_empty() {
            return;
        }
        let committed = if abandoned { 0 } else { sequences.len() };
        let tally = Tally { committed, ..Tally::default() };
        // A driver that is gone acknowledges nothing any more; the broker sends the messages again.
        let _ = self.back.send(Box::new(Batch { sequences, tally, abandoned, ..Batch::default() }));
    }
}

impl Drop for Receipt {
    /// Otherwise they would take up the window for ever, and a QoS 2 message that comes again would pass for one in the host.
    fn drop(&mut self) {
        self.give_back(true);
    }
}

/// Belongs to one reader at a time.
#[derive(Debug)]
pub(super) struct Queue {
    /// `None` before the first read, after an error, and after the shutdown.
    worker: Option<Worker>,
    /// Between errors.
    backoff: Backoff,
    /// When the next driver may start.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Worker {
    work: mpsc::Receiver<Work>,
    back: mpsc::UnboundedSender<Box<Batch>>,
    unread: Option<Unread>,
    /// Why the driver ended.
    ended: oneshot::Receiver<Result<(), MqttError>>,
}

#[derive(Debug)]
struct Unread {
    batch: Arc<Batch>,
    next: usize,
}

impl Queue {
    pub fn new(retry: Retry) -> Self {
        let backoff = Backoff::new(Retry { max_attempts: 0, ..retry });
        Queue { worker: None, backoff, not_before: None }
    }

    /// Waits until something is unread; false after the shutdown.
    pub async fn fill(&mut self, shared: &Shared) -> Result<bool, MqttError> {
        tokio::select! {
            biased;
            () = shared.stopped() => Ok(false),
            filled = self.wait(shared) => filled.map(|()| true),
        }
    }

    async fn wait(&mut self, shared: &Shared) -> Result<(), MqttError> {
        loop {
            let Some(worker) = &mut self.worker else {
                if let Some(at) = self.not_before {
                    sleep_until(at).await;
                }
                self.worker = Some(start(shared)?);
                continue;
            };
            if worker.unread.is_some() {
                return Ok(());
            }
            match worker.work.recv().await {
                Some(Work::Batch(batch)) => {
                    worker.unread = Some(Unread { batch: batch.into(), next: 0 });
                    self.backoff.lasted();
                }
                // Only asked for where messages are held.
                Some(Work::Flush) => {}
                None => {
                    let ended = (&mut worker.ended).await;
                    self.worker = None;
                    self.not_before = self.backoff.failed().map(|delay| Instant::now() + delay);
                    ended.unwrap_or(Err(MqttError::Died))?;
                }
            }
        }
    }

    /// The next event.
    pub fn take_one(&mut self, shape: &Arc<EventShape>) -> Option<(Event, Receipt)> {
        let (batch, range, receipt) = self.take(1)?;
        Some((Event::new(batch, range.start, shape.clone()), receipt))
    }

    /// All that is unread.
    pub fn take_all(&mut self, shape: &Arc<EventShape>) -> EventBatch {
        match self.take(usize::MAX) {
            Some((batch, range, receipt)) => EventBatch::new(batch, range, receipt, shape.clone()),
            None => EventBatch::empty(shape.clone()),
        }
    }

    fn take(&mut self, at_most: usize) -> Option<(Arc<Batch>, Range<usize>, Receipt)> {
        let worker = self.worker.as_mut()?;
        let unread = worker.unread.as_mut()?;
        let batch = unread.batch.clone();
        let range = unread.next..batch.len().min(unread.next.saturating_add(at_most));
        unread.next = range.end;
        if range.end == batch.len() {
            worker.unread = None;
        }
        let mut sequences = Sequences::default();
        range.clone().filter_map(|index| batch.sequences.get(index as u64)).for_each(|n| sequences.push(n));
        Some((batch, range, Receipt { sequences, back: worker.back.clone() }))
    }

    /// Lets the driver go: nothing is read any more.
    fn close(&mut self) {
        self.worker = None;
    }
}

/// Starts a driver.
fn start(shared: &Shared) -> Result<Worker, MqttError> {
    let (sender, work) = mpsc::channel(1);
    let (back, settled) = mpsc::unbounded_channel();
    let (end, ended) = oneshot::channel();
    let driver = Driver {
        name: shared.name().to_owned(),
        settings: shared.config.clone(),
        state_dir: shared.options.state_dir.clone(),
        metrics: shared.metrics.clone(),
        status: shared.status.clone(),
        aggregating: Arc::default(),
        grace: shared.options.shutdown_grace,
        fail_fast: true,
    };
    let (stop, stopping) = watch::channel(false);
    let driver = driver.run(Outlet { workers: vec![sender], back: settled }, stopping);
    let let_go = let_go(shared, stop);
    let running = Running::new(&shared.running);
    let alone = async move {
        tokio::pin!(driver);
        tokio::select! {
            result = &mut driver => return result,
            () = let_go => {}
        }
        driver.await
    };
    for risk in shared.config.risks() {
        warn!(source = shared.name(), "{risk}");
    }
    thread::run_alone(format!("{}-mqtt", shared.name()), alone, move |result| {
        // Nobody may wait for it any more.
        let _ = end.send(result);
        drop(running);
    })?;
    Ok(Worker { work, back, unread: None, ended })
}

/// When the source is shut down, or nobody has a handle any more: tells the driver, and takes its channels from the readers. In
/// this order and on the driver's own task, because a driver that saw its channels close before it knows of the shutdown would
/// take that for a crash.
fn let_go(shared: &Shared, driver: watch::Sender<bool>) -> impl Future<Output = ()> + Send + use<> {
    let (mut stop, queue) = (shared.stop.subscribe(), shared.queue.clone());
    async move {
        // A sender that is gone says the same.
        let _ = stop.wait_for(|stop| *stop).await;
        driver.send_replace(true);
        queue.lock().await.close();
    }
}

/// There is a driver for as long as this lives.
struct Running(watch::Sender<bool>);

impl Running {
    fn new(running: &watch::Sender<bool>) -> Self {
        running.send_replace(true);
        Running(running.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
