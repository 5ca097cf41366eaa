//! The MQTT source as a library: the driver of the host, with a caller in the place of the plugin and the sink.
//!
//! A message is acknowledged to the broker when its reader says so: by asking for the next event, or by
//! [`EventBatch::ack`]. Acknowledgements leave in receive order, so one that is missing holds back those behind it. With
//! `clean_session: false`, a client id and QoS 1 or 2 nothing is lost that was not acknowledged, whatever crashes: the broker
//! sends it again.
//!
//! Consuming in the background, and a shutdown that says DISCONNECT:
//!
//! ```
//! # use rivven_mqtt::{MqttError as Error, MqttSource, MqttSourceConfig};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = MqttSourceConfig::new("mqtt://localhost:1", ["sensors/+/temperature"])?;
//! let source = MqttSource::new(config)?;
//!
//! // Start consuming in background, with a handle of its own
//! let handle = {
//!     let source = source.clone();
//!     tokio::spawn(async move {
//!         while let Some(_event) = source.read().await? {
//!             if source.is_shutting_down() {
//!                 break;
//!             }
//!             // Process event...
//!         }
//!         Ok::<_, Error>(())
//!     })
//! };
//!
//! // Signal shutdown (sends DISCONNECT packet)
//! source.shutdown();
//!
//! // Wait for clean exit
//! handle.await?;
//! source.closed().await;
//! # Ok(())
//! # }
//! ```
//!
//! What it counts, for a person, as Prometheus text and as JSON:
//!
//! ```
//! # use rivven_mqtt::{MqttSource, MqttSourceConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = MqttSourceConfig::new("mqtt://localhost:1", ["devices/#"])?;
//! # let elapsed_secs = 60.0;
//! let source = MqttSource::new(config)?;
//! // ... receive messages ...
//!
//! let snapshot = source.metrics().snapshot();
//! println!("Messages received: {}", snapshot.messages_received);
//! println!("Bytes received: {}", snapshot.bytes_received);
//! println!("Connections: {}", snapshot.connections);
//! println!("Disconnections: {}", snapshot.disconnections);
//! println!("Errors: {}", snapshot.errors);
//!
//! // Computed metrics
//! println!("Avg receive latency: {:.2}ms", snapshot.avg_receive_latency_ms());
//! println!("Avg batch size: {:.1}", snapshot.avg_batch_size());
//! println!("Throughput: {:.0} msg/s", snapshot.messages_per_second(elapsed_secs));
//! println!("Error rate: {:.1}%", snapshot.error_rate_percent());
//!
//! let snapshot = source.metrics().snapshot();
//! let prometheus_output = snapshot.to_prometheus_format("rivven");
//! # let first = "# HELP rivven_mqtt_source_messages_received_total Total messages received\n\
//! #     # TYPE rivven_mqtt_source_messages_received_total counter\n\
//! #     rivven_mqtt_source_messages_received_total 0\n";
//! # assert!(prometheus_output.starts_with(first), "{prometheus_output}");
//!
//! let snapshot = source.metrics().snapshot();
//! let json = serde_json::to_string(&snapshot)?;
//! // {"messages_received":10000,"bytes_received":500000,...}
//! # assert!(json.starts_with(r#"{"messages_received":0,"bytes_received":0,"#), "{json}");
//! # Ok(())
//! # }
//! ```
//!
//! Batches, committed by the caller before they are acknowledged, and settings from anything that serde reads:
//!
//! ```
//! # use rivven_mqtt::{MqttSource, MqttSourceConfig};
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn store(_: String) -> Result<(), std::io::Error> { Ok(()) }
//! let config: MqttSourceConfig = serde_json::from_str(
//!     r#"{"broker_url": "mqtt://localhost:1", "topics": ["devices/#"], "client_id": "iot-1", "clean_session": false}"#,
//! )?;
//! let source = MqttSource::new(config)?;
//! # source.shutdown();
//! while let Some(batch) = source.read_batch().await? {
//!     for event in &batch {
//!         store(event.to_json()).await?;
//!     }
//!     batch.ack();
//! }
//! # Ok(())
//! # }
//! ```

mod batch;
mod catalog;
mod check;
mod event;
mod queue;
mod stream;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::timeout;

use self::queue::{Queue, Receipt};
use crate::config::Mqtt;
use crate::error::MqttError;
use crate::metrics::{Ledger, MqttSourceMetrics, SourceMetrics};
use crate::record::EventShape;
use crate::status::Status;

pub use self::batch::EventBatch;
pub use self::catalog::{Catalog, CatalogStream, SyncMode};
pub use self::check::{CheckReport, CheckStep};
pub use self::event::Event;
pub use self::stream::{Batches, Events};

/// What a source needs besides its MQTT settings.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// What logs call the source, and what its state in `state_dir` is called; default: the client id.
    pub name: Option<String>,
    /// Folder for what a persistent session must not forget (default `./state`); not touched in a clean session.
    pub state_dir: PathBuf,
    /// How long a shutdown waits for events that readers have and have not acknowledged (default 10 s).
    pub shutdown_grace: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        SourceOptions { name: None, state_dir: "./state".into(), shutdown_grace: Duration::from_secs(10) }
    }
}

/// A handle of an MQTT source.
///
/// It connects with the first read, on a thread of its own: while the caller is busy, pings are sent on time. Messages wait in
/// the source up to `max_inflight` and `max_inflight_bytes`; then no more are read from the broker.
///
/// Clones are cheap, share the connection, and get different events. A handle is one reader: it owns the acknowledgement of the
/// event that it read last, and takes the next call for the word that this one is done. Two tasks that read need two clones; on
/// one handle, behind an `Arc`, a call of one acknowledges also what the other still has.
///
/// When all are dropped the source disconnects; what is unread or unacknowledged then stays with the broker. For that moment its
/// state is still in use: to open a persistent session again at once, end the source with a [shutdown](MqttSource::shutdown) and
/// wait until it is [closed](MqttSource::closed), else the new one fails with [`MqttError::Store`].
///
/// # Errors of reads
///
/// What the network or a busy broker causes is tried again with the configured backoff, and a read just takes longer
/// ([`MqttSource::trouble`] says why). Two kinds of errors end the connection and go to one reader: those that waiting does not
/// mend ([`MqttError::is_permanent`]), such as a wrong password or a refused subscription, and [`MqttError::GaveUp`] after
/// `max_reconnect_attempts`. The next read connects anew, after a delay that grows from error to error, so that a caller may
/// ask again in a loop and hammers nobody.
#[derive(Debug)]
pub struct MqttSource {
    shared: Arc<Shared>,
    /// The acknowledgement of the event that this handle read last; of several where calls overlapped.
    last: Mutex<Vec<Receipt>>,
}

/// What all handles of a source share.
#[derive(Debug)]
struct Shared {
    config: Arc<Mqtt>,
    options: SourceOptions,
    metrics: Arc<SourceMetrics>,
    status: Status,
    shape: Arc<EventShape>,
    queue: Arc<AsyncMutex<Queue>>,
    /// True from the shutdown on.
    stop: watch::Sender<bool>,
    /// True while there is a driver.
    running: watch::Sender<bool>,
}

impl Clone for MqttSource {
    fn clone(&self) -> Self {
        MqttSource { shared: self.shared.clone(), last: Mutex::default() }
    }
}

impl MqttSource {
    /// A source with these settings, which are checked again: a value that was changed in code may be out of its range. Nothing
    /// is connected yet.
    ///
    /// # Errors
    /// [`MqttError::Config`] with all that is wrong, each with its key.
    pub fn new(config: Mqtt) -> Result<Self, MqttError> {
        Self::with_options(config, SourceOptions::default())
    }

    /// As [`MqttSource::new`], with options of your own.
    ///
    /// # Errors
    /// As [`MqttSource::new`].
    pub fn with_options(config: Mqtt, options: SourceOptions) -> Result<Self, MqttError> {
        config.validate()?;
        let shared = Shared {
            shape: Arc::new(EventShape::new(&config)),
            queue: Arc::new(AsyncMutex::new(Queue::new(config.retry))),
            config: Arc::new(config),
            options,
            metrics: Arc::default(),
            status: Status::default(),
            stop: watch::Sender::new(false),
            running: watch::Sender::new(false),
        };
        Ok(MqttSource { shared: Arc::new(shared), last: Mutex::default() })
    }

    /// The settings.
    pub fn config(&self) -> &Mqtt {
        &self.shared.config
    }

    /// The next event; `None` after a [shutdown](MqttSource::shutdown). Connects on first use, and waits for as long as no
    /// message comes.
    ///
    /// Asking for the next event acknowledges the one that this handle read before. An event for whose successor nobody asks,
    /// because of a crash, a dropped handle or an error in between, is not acknowledged: a broker that keeps the session sends
    /// it again on the next connection. After a shutdown the call still acknowledges.
    ///
    /// Cancel safe: a call that is dropped while it waits loses no event.
    ///
    /// # Errors
    /// See [`MqttSource`].
    pub async fn read(&self) -> Result<Option<Event>, MqttError> {
        self.acknowledge_last();
        let mut queue = self.shared.queue.lock().await;
        if !queue.fill(&self.shared).await? {
            return Ok(None);
        }
        let Some((event, receipt)) = queue.take_one(&self.shared.shape) else { return Ok(None) };
        self.last().push(receipt);
        Ok(Some(event))
    }

    /// The events that are there, in receive order, to be acknowledged together by [`EventBatch::ack`]; an empty batch when none
    /// came within `empty_poll_delay_ms`; `None` after a [shutdown](MqttSource::shutdown). Connects on first use. Like
    /// [`MqttSource::read`] it acknowledges the event that `read` gave before.
    ///
    /// A batch that is dropped is not acknowledged, and holds back what came behind it until the connection ends. Cancel safe: a
    /// call that is dropped while it waits loses no event.
    ///
    /// # Errors
    /// See [`MqttSource`].
    pub async fn read_batch(&self) -> Result<Option<EventBatch>, MqttError> {
        self.acknowledge_last();
        let next = async {
            let mut queue = self.shared.queue.lock().await;
            Ok(queue.fill(&self.shared).await?.then(|| queue.take_all(&self.shared.shape)))
        };
        match timeout(self.shared.config.empty_poll_delay, next).await {
            Ok(batch) => batch,
            Err(_) => Ok(Some(EventBatch::empty(self.shared.shape.clone()))),
        }
    }

    /// [`MqttSource::read`] as a stream, on a handle of its own: asking for the next event acknowledges the one before. An error
    /// does not end the stream, a shutdown does.
    pub fn events(&self) -> Events {
        Events::new(self.clone())
    }

    /// [`MqttSource::read_batch`] as a stream, without the empty batches.
    pub fn batches(&self) -> Batches {
        Batches::new(self.clone())
    }

    /// One stream for each topic filter, named as the existing connector names them, with the JSON schema of
    /// [`Event::to_json`]. Nothing is connected for it.
    pub fn discover(&self) -> Catalog {
        Catalog::of(&self.shared.config)
    }

    /// Tries what a read would do: resolves the name, connects, does the TLS handshake, logs in and subscribes to each filter.
    ///
    /// It takes nothing from anyone. The connection has a client id of its own (the configured one, `-check-` and 8 random
    /// digits), a clean session and no last will, acknowledges nothing, and ends with DISCONNECT. A shared subscription is tried
    /// with a group of its own, because a member of the group would get messages of the others; only a broker that allows just
    /// certain client ids or groups answers differently than it would answer the source.
    pub async fn check(&self) -> CheckReport {
        CheckReport::of(&self.shared.config).await
    }

    /// What the source counts.
    pub fn metrics(&self) -> &MqttSourceMetrics {
        &self.shared.metrics.mqtt
    }

    /// What became of the messages that were received: committed are those that were acknowledged by their readers, in flight
    /// those that are unread or unacknowledged. Those that a reader let go are in flight until their connection ends (at QoS 0
    /// they are not), and dropped from then on; when the broker sends them again they are received again.
    pub fn ledger(&self) -> Ledger {
        self.shared.metrics.ledger()
    }

    /// Why there is no connection with all subscriptions at present; `None` while there is one, and before the first read.
    pub fn trouble(&self) -> Option<String> {
        self.shared.status.reasons().into_iter().next()
    }

    /// Ends the source: no more events are handed out, those that are unread stay with the broker, those that readers have are
    /// acknowledged until they ask for the next or let go (for at most [`SourceOptions::shutdown_grace`]), and then DISCONNECT is
    /// said, so that the last will is not published. Returns at once; [`MqttSource::closed`] waits for the end.
    pub fn shutdown(&self) {
        self.shared.stop.send_replace(true);
    }

    /// Whether [`MqttSource::shutdown`] was called, on any handle.
    pub fn is_shutting_down(&self) -> bool {
        *self.shared.stop.borrow()
    }

    /// Waits for a shutdown and for its end: DISCONNECT is said, the connection closed, the driver gone. Lets go of the event
    /// that this handle read last, unacknowledged.
    pub async fn closed(&self) {
        self.shared.stopped().await;
        self.last().clear();
        // Who has the queue sees the shutdown and starts nothing any more.
        drop(self.shared.queue.lock().await);
        // The sender is ours.
        let _ = self.shared.running.subscribe().wait_for(|running| !running).await;
    }

    fn last(&self) -> MutexGuard<'_, Vec<Receipt>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge_last(&self) {
        self.last().drain(..).for_each(Receipt::acknowledge);
    }
}

impl Shared {
    /// The name for logs and state.
    fn name(&self) -> &str {
        self.options.name.as_deref().unwrap_or(&self.config.client_id)
    }

    /// Completes with the shutdown.
    async fn stopped(&self) {
        // The sender is ours.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod check_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod receipt_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
