//! What the host counts. One writer for each count, one short lock for each batch, never one for each message.

mod link;
mod mqtt;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::Tally;

pub use self::link::{Link, LinkSnapshot, Reconnect, Subscription};
pub use self::mqtt::{MqttSourceMetrics, MqttSourceMetricsSnapshot};

/// The loss equation of a source: `received = committed + dropped + dead_lettered + in_flight`, in messages. A copy is one
/// consistent snapshot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Messages that entered the host; a redelivery counts again, a suppressed QoS 2 duplicate does not.
    pub received: u64,
    /// Bytes of their topics and payloads.
    pub received_bytes: u64,
    /// What became of those that are settled.
    pub settled: Tally,
}

impl Ledger {
    /// Messages that are received and not settled.
    pub fn in_flight(&self) -> u64 {
        self.received.saturating_sub(self.settled.total())
    }
}

impl fmt::Display for Ledger {
    /// The loss equation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { committed, dropped, dead_lettered } = self.settled;
        let (received, in_flight) = (self.received, self.in_flight());
        write!(
            f,
            "received {received} = committed {committed} + dropped {dropped} + dead-lettered {dead_lettered} + in flight \
             {in_flight}"
        )
    }
}

/// The counts of one source at one moment; the fields are those of [`SourceMetrics`].
#[derive(Debug, Default, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub ledger: Ledger,
    pub mqtt: MqttSourceMetricsSnapshot,
    pub link: LinkSnapshot,
    pub duplicates_suppressed: u64,
    pub redeliveries: u64,
    pub oversized: u64,
    pub plugin_faults: u64,
    /// Seconds spent in the plugin.
    pub plugin_seconds: f64,
    pub records_written: u64,
    pub sink_retries: u64,
    /// 1 or 0.
    pub quarantined: u64,
    /// Seconds since the Unix epoch; 0 before the first.
    pub last_commit: f64,
    pub store_failures: u64,
}

/// The counts of one source.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    /// Never reset, or the equation would not balance.
    ledger: Mutex<Ledger>,
    /// Connections, latency and batches, and the counts of received messages that may be reset.
    pub mqtt: MqttSourceMetrics,
    /// The state of the connection.
    pub link: Link,
    /// QoS 2 messages that arrived again and were not processed twice.
    pub duplicates_suppressed: AtomicU64,
    /// Messages with the DUP flag that were processed (again, or for the first time here).
    pub redeliveries: AtomicU64,
    /// Packets greater than `max_packet_size`.
    pub oversized: AtomicU64,
    /// Calls of the plugin that trapped, exceeded a limit or returned nonsense.
    pub plugin_faults: AtomicU64,
    /// Nanoseconds spent in the plugin.
    pub plugin_nanos: AtomicU64,
    /// Records that the sink has committed, dead letters included.
    pub records_written: AtomicU64,
    /// Writes that the sink had to repeat.
    pub sink_retries: AtomicU64,
    /// 1 while a plugin is in quarantine, else 0.
    pub quarantined: AtomicU64,
    /// When a message was last committed or dead-lettered, in microseconds since the Unix epoch.
    last_commit: AtomicU64,
    /// Times that the state of a persistent session could not be made durable.
    pub store_failures: AtomicU64,
}

impl SourceMetrics {
    /// Messages were read. Called by the driver, once for each read.
    pub fn received(&self, messages: u64, bytes: u64) {
        Self::add(&self.mqtt.messages_received, messages);
        Self::add(&self.mqtt.bytes_received, bytes);
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.received += messages;
        ledger.received_bytes += bytes;
    }

    /// Messages are settled. Called by the driver, once for each batch that comes back.
    pub fn settled(&self, tally: Tally) {
        if tally.committed + tally.dead_lettered > 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_commit.store(u64::try_from(now.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.settled.committed += tally.committed;
        ledger.settled.dropped += tally.dropped;
        ledger.settled.dead_lettered += tally.dead_lettered;
    }

    /// The loss equation as it stands.
    pub fn ledger(&self) -> Ledger {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All counts as they stand; those of the loss equation are of one moment.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            ledger: self.ledger(),
            mqtt: self.mqtt.snapshot(),
            link: self.link.snapshot(),
            duplicates_suppressed: self.duplicates_suppressed.load(Relaxed),
            redeliveries: self.redeliveries.load(Relaxed),
            oversized: self.oversized.load(Relaxed),
            plugin_faults: self.plugin_faults.load(Relaxed),
            plugin_seconds: self.plugin_nanos.load(Relaxed) as f64 / 1e9,
            records_written: self.records_written.load(Relaxed),
            sink_retries: self.sink_retries.load(Relaxed),
            quarantined: self.quarantined.load(Relaxed),
            last_commit: self.last_commit.load(Relaxed) as f64 / 1e6,
            store_failures: self.store_failures.load(Relaxed),
        }
    }

    /// Adds to one of the counts.
    pub fn add(count: &AtomicU64, n: u64) {
        count.fetch_add(n, Relaxed);
    }
}
