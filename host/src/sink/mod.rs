//! Where records go. A [`Sink`] commits the records of a delivery and then settles it; what it cannot commit now it tries again
//! until it can, and what it can never take goes the way that `on_fault` names.

mod discard;
mod file;
#[cfg(feature = "mqtt")]
mod rivven;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::delivery::Delivery;
use crate::error::SinkError;
use crate::status::{Part, Status};

pub use discard::Discard;
pub use file::FileSink;
#[cfg(all(feature = "mqtt", any(test, fuzzing)))]
pub(crate) use rivven::fuzz as fuzz_answer;
#[cfg(feature = "mqtt")]
pub use rivven::{Probe, RivvenSink, StoredRecord, TopicReader, Unusable};

/// Commits deliveries.
pub trait Sink: Send + Sync {
    /// Takes a delivery. Called on a plugin worker's own thread, never on an async one: it may block, and that is the
    /// back-pressure.
    ///
    /// # Errors
    ///
    /// The sink is closed, or can never write again. The delivery is not settled, so its messages stay unacknowledged.
    fn deliver(&self, delivery: Delivery) -> Result<(), SinkError>;

    /// Reports [`Part::Sink`] to `status`, now and whenever it changes. Sources that share a sink each attach their own.
    fn attach(&self, status: Status);

    /// How it is doing; all zero for one that cannot fail.
    fn sample(&self) -> SinkSample {
        SinkSample::default()
    }

    /// Ends the sink: no delivery is settled after it, and callers that are blocked in [`deliver`](Self::deliver) get an error.
    /// Whoever wants a clean end waits first until nothing is in flight.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// How a sink is doing, for metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SinkSample {
    /// Open connections to Rivven.
    pub connections: u64,
    /// Parts whose last attempt failed: writers to Rivven, and topics that are not there yet; or the output.
    pub failing: u64,
    /// Attempts that failed and were, or are to be, made again.
    pub failures: u64,
}

/// The readiness of a sink: ready when no part of it fails, told to every attached status.
#[derive(Debug, Default)]
struct Health(Mutex<HealthState>);

#[derive(Debug, Default)]
struct HealthState {
    /// Why it has not begun to work yet.
    starting: Option<String>,
    failing: BTreeMap<usize, String>,
    failures: u64,
    attached: Vec<Status>,
}

impl Health {
    fn attach(&self, status: Status) {
        let mut state = self.state();
        state.attached.push(status);
        state.tell();
    }

    /// Nothing is known yet, which is no failure, but not ready either.
    fn starting(&self, reason: String) {
        let mut state = self.state();
        state.starting = Some(reason);
        state.tell();
    }

    /// `part` does not work; says whether everything had worked until now.
    fn failed(&self, part: usize, reason: String) -> bool {
        let mut state = self.state();
        let first = state.failing.is_empty();
        state.failures += 1;
        state.failing.insert(part, reason);
        state.tell();
        first
    }

    /// `part` works; says whether everything works now, and did not before.
    fn recovered(&self, part: usize) -> bool {
        let mut state = self.state();
        let news = state.starting.take().is_some() | state.failing.remove(&part).is_some();
        state.tell();
        news && state.failing.is_empty()
    }

    /// Without connections.
    fn sample(&self) -> SinkSample {
        let state = self.state();
        SinkSample { connections: 0, failing: state.failing.len() as u64, failures: state.failures }
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthState {
    fn tell(&self) {
        for status in &self.attached {
            match self.failing.values().next().or(self.starting.as_ref()) {
                Some(reason) => status.not_ready(Part::Sink, reason.as_str()),
                None => status.ready(Part::Sink),
            }
        }
    }
}

/// Exponential backoff with jitter, between half of the delay and all of it.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max, next: initial }
    }

    fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_ready_when_no_part_fails() {
        let health = Health::default();
        health.starting("wait".into());
        let status = Status::default();
        health.attach(status.clone());
        assert_eq!(status.reasons(), ["sink: wait"]);
        assert!(health.failed(1, "one".into()));
        assert_eq!(status.reasons(), ["sink: one"]);
        assert!(!health.failed(2, "two".into()));
        assert!(!health.failed(2, "two".into()));
        assert_eq!(health.sample(), SinkSample { connections: 0, failing: 2, failures: 3 });
        assert!(!health.recovered(1));
        assert_eq!(status.reasons(), ["sink: two"]);
        assert!(health.recovered(2));
        assert!(!health.recovered(2));
        assert_eq!(health.sample(), SinkSample { connections: 0, failing: 0, failures: 3 });
        assert!(status.reasons().is_empty());
    }

    #[test]
    fn backoff_grows_to_its_maximum_and_starts_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for most in [100, 200, 400, 400] {
            let delay = backoff.delay();
            assert!(delay >= ms(most / 2) && delay <= ms(most), "{delay:?} of {most} ms");
        }
        backoff.reset();
        assert!(backoff.delay() <= ms(100));
    }
}
