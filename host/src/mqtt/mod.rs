//! The MQTT source: connects, subscribes, decodes what comes into batches for the plugin workers, and acknowledges in receive
//! order what comes back. See [`Driver::run`].

mod ages;
mod backoff;
mod connection;
pub mod filter;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(crate) mod fuzz;
mod intake;
mod keep_alive;
mod lane;
mod packet;
pub(crate) mod probe;
mod publish;
mod reason;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod rules_tests;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod second_opinion;
mod session;
mod store;
mod subscribe;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tls_tests;
mod transport;
mod websocket;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod websocket_tests;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use self::connection::Connection;
use self::intake::Intake;
use self::publish::ReadBuffer;
use crate::config;
use crate::error::{MqttError, chain};
use crate::message::{Batch, Work};
use crate::metrics::SourceMetrics;
use crate::status::{Part, Status};

pub(crate) use self::backoff::Backoff;
pub use self::filter::{validate_filter, validate_topic_name};

/// A connection that lasted so long was a good one: what ends it is not answered with a longer delay than the first. But one that
/// was no longer than the greatest delay may have been ended by a client that is waiting as we are, for the same client id.
const LASTING: Duration = Duration::from_secs(5);
/// So many short connections in a row, each closed by the broker without a word, look like two clients with one client id.
const FLAPS: u32 = 3;

/// The MQTT side of one source.
#[derive(Debug)]
pub struct Driver {
    /// The source's name.
    pub name: String,
    /// What to connect to and how.
    pub settings: Arc<config::Mqtt>,
    /// Folder for what a persistent session must not forget; not touched in a clean one.
    pub state_dir: PathBuf,
    /// Where the driver counts. It is the only writer of the ledger.
    pub metrics: Arc<SourceMetrics>,
    /// Where the driver says whether it is ready, as [`Part::Mqtt`].
    pub status: Status,
    /// The plugin holds messages: ask it to flush when the window of unacknowledged messages is nearly full. A plugin that
    /// takes its place may differ.
    pub aggregating: Arc<AtomicBool>,
    /// How long a shutdown may wait for messages in flight.
    pub grace: Duration,
    /// Whether an error that waiting does not mend ([`MqttError::is_permanent`]) ends the source. Otherwise it is tried again
    /// like all others: the settings of a broker may be mended while a host runs.
    pub fail_fast: bool,
}

/// The driver's end of the channels to the plugin workers.
#[derive(Debug)]
pub struct Outlet {
    /// One for each worker, at least one, each of capacity 1: one batch is processed, one waits.
    pub workers: Vec<mpsc::Sender<Work>>,
    /// Settled batches, with their tally.
    pub back: mpsc::UnboundedReceiver<Box<Batch>>,
}

impl Driver {
    /// Runs the source until `shutdown` becomes true (or its sender is dropped): connects, subscribes, streams, and connects
    /// again with backoff. Then it stops reading, hands on what is pending, lets the workers go, and goes on acknowledging
    /// until nothing is in flight, [`Outlet::back`] is closed or [`grace`](Self::grace) is over; at last it says DISCONNECT, so
    /// that the will is not published. Messages that are in flight even then are in the ledger and stay with the broker.
    ///
    /// # Errors
    /// [`MqttError::GaveUp`] after `max_attempts` failed attempts in a row; [`MqttError::WorkersGone`] when a worker or all
    /// senders of `back` are gone without a shutdown; [`MqttError::Store`] when the session's state cannot be opened
    /// (a write that fails later is tried again); [`MqttError::Encode`] when a setting does not fit into a packet; with [`fail_fast`](Self::fail_fast) whatever
    /// waiting does not mend.
    pub async fn run(self, outlet: Outlet, shutdown: watch::Receiver<bool>) -> Result<(), MqttError> {
        let mut shutdown = Shutdown::new(shutdown);
        self.status.not_ready(Part::Mqtt, "connecting");
        let mut intake = Intake::new(&self, outlet)?;
        let mut buffer = ReadBuffer::new();
        let mut backoff = Backoff::new(self.settings.retry);
        let mut grace = None;
        let mut flaps = 0;
        loop {
            let mut up = None;
            let attempt = self.attempt(&mut intake, &mut buffer, &mut shutdown, &mut grace, &mut up).await;
            intake.disconnected();
            let mut error = match attempt {
                Ok(()) => {
                    self.metrics.link.ended(None);
                    break;
                }
                Err(error) => error,
            };
            if matches!(error, MqttError::WorkersGone | MqttError::Store { .. } | MqttError::Encode { .. }) {
                self.metrics.link.ended(None);
                return Err(error);
            }
            intake.count(|metrics| &metrics.errors);
            if let Some(up) = up {
                backoff.connected();
                let short = up.elapsed() < LASTING.max(self.settings.retry.max);
                if !short {
                    backoff.lasted();
                }
                flaps = if short && is_wordless(&error) { flaps + 1 } else { 0 };
                if flaps >= FLAPS {
                    error = MqttError::Flapping { client_id: self.settings.client_id.clone() };
                }
            }
            self.metrics.link.ended(Some(reason::reconnect(&error)));
            if grace.is_some() {
                warn!(source = self.name, reason = chain(&error), "lost the MQTT connection while draining");
                break;
            }
            if self.fail_fast && up.is_none() && error.is_permanent() {
                self.status.not_ready(Part::Mqtt, chain(&error));
                return Err(error);
            }
            let Some(delay) = backoff.failed() else {
                self.status.not_ready(Part::Mqtt, chain(&error));
                return Err(MqttError::GaveUp { attempts: backoff.attempts(), source: Box::new(error) });
            };
            let reason = chain(&error);
            warn!(
                source = self.name,
                reason,
                failed_attempts = backoff.attempts(),
                next_attempt_in_ms = delay.as_millis() as u64,
                "{}",
                if up.is_some() { "lost the MQTT connection" } else { "no MQTT connection" }
            );
            self.status.not_ready(Part::Mqtt, reason);
            let pause = sleep_until(Instant::now() + delay);
            if alongside(&mut intake, &mut shutdown, pause).await?.is_none() {
                break;
            }
        }
        self.status.not_ready(Part::Mqtt, "shut down");
        self.drain(&mut intake, grace).await
    }

    /// One connection, from the name look-up to its end. `Ok` is the shutdown.
    async fn attempt(
        &self,
        intake: &mut Intake,
        buffer: &mut ReadBuffer,
        shutdown: &mut Shutdown,
        grace: &mut Option<Instant>,
        up: &mut Option<Instant>,
    ) -> Result<(), MqttError> {
        let after = self.settings.connect_timeout;
        let deadline = Instant::now() + after;
        let connect = timeout_at(deadline, transport::connect(&self.settings, deadline));
        let Some(stream) = alongside(intake, shutdown, connect).await? else { return Ok(()) };
        let stream = stream.map_err(|_| MqttError::Timeout {
            broker: self.settings.url.to_string(),
            after,
            waiting_for: transport::layers(&self.settings),
        })??;
        let mut connection = Connection::new(self, stream, intake, buffer, deadline)?;
        let result = connection.run(shutdown, grace).await;
        *up = connection.up_since();
        result.map_err(|error| transport::explain(error, &self.settings))
    }

    /// What is left to do without a connection: workers finish, and what they commit is counted.
    async fn drain(&self, intake: &mut Intake, grace: Option<Instant>) -> Result<(), MqttError> {
        intake.drain();
        let end = grace.unwrap_or_else(|| Instant::now() + self.grace);
        let drained = std::future::poll_fn(|cx| match intake.progress(cx) {
            Ok(()) if intake.is_drained() => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        });
        match timeout_at(end, drained).await {
            Ok(result) => result?,
            Err(_) => {
                let in_flight = self.metrics.ledger().in_flight();
                warn!(
                    source = self.name,
                    in_flight, "the grace is over; messages in flight stay unacknowledged"
                );
            }
        }
        info!(source = self.name, "source drained");
        Ok(())
    }
}

/// Whether the broker closed the connection and did not say why. It resets one of which it has not read everything.
fn is_wordless(error: &MqttError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        MqttError::Closed => true,
        MqttError::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionReset),
        _ => false,
    }
}

/// Now, in nanoseconds since the Unix epoch.
fn epoch_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits for `future` while the pipeline goes on. `None`: the shutdown came first.
async fn alongside<F: Future>(
    intake: &mut Intake,
    shutdown: &mut Shutdown,
    future: F,
) -> Result<Option<F::Output>, MqttError> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if shutdown.poll(cx).is_ready() {
            return Poll::Ready(Ok(None));
        }
        intake.progress(cx)?;
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(Some(output)));
        }
        intake.check_workers(cx)?;
        Poll::Pending
    })
    .await
}

/// The shutdown, to be polled as often as one likes.
struct Shutdown {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    begun: bool,
}

impl Shutdown {
    fn new(mut receiver: watch::Receiver<bool>) -> Self {
        let future = Box::pin(async move {
            // A sender that is gone can never ask again.
            let _ = receiver.wait_for(|stop| *stop).await;
        });
        Shutdown { future, begun: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.begun = self.begun || self.future.as_mut().poll(cx).is_ready();
        if self.begun { Poll::Ready(()) } else { Poll::Pending }
    }
}
