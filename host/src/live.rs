//! What may change while a source runs: its plugins are replaced, or are in quarantine until they are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::error;

use crate::error::Fault;
use crate::metrics::SourceMetrics;
use crate::processor::{Stop, Transform};
use crate::record::Shape;
use crate::status::{Part, Status};

/// The time in which faults are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Plugins that take the place of those that a worker runs.
pub struct Swap {
    /// An instance of each.
    pub transform: Box<dyn Transform>,
    /// Names them in dead letters.
    pub shape: Arc<Shape>,
    /// From [`Quarantine::renew`].
    pub generation: u64,
    /// Dropped when the worker has taken them.
    pub taken: mpsc::Sender<()>,
}

/// A worker's end of what may change.
pub struct Live {
    quarantine: Arc<Quarantine>,
    swaps: mpsc::Receiver<Swap>,
    generation: u64,
}

impl Live {
    /// For the plugins that the source starts with.
    pub fn new(quarantine: Arc<Quarantine>, swaps: mpsc::Receiver<Swap>) -> Self {
        Live { quarantine, swaps, generation: FIRST }
    }

    /// The next plugins; waits for ever when there will be none.
    pub async fn next(&mut self) -> Swap {
        match self.swaps.recv().await {
            Some(swap) => swap,
            None => std::future::pending().await,
        }
    }

    /// Whether plugins of this generation come after those that run.
    pub(crate) fn advance(&mut self, generation: u64) -> bool {
        let newer = generation > self.generation;
        self.generation = self.generation.max(generation);
        newer
    }

    /// The call of `plugin` has faulted.
    pub(crate) fn fault(&self, plugin: Option<&str>, fault: &Fault) {
        self.quarantine.fault(self.generation, plugin.unwrap_or_default(), fault, Instant::now());
    }

    /// The plugins that are to take over, if there are any. Blocks for them while those that run are in quarantine.
    pub(crate) fn successor(&mut self) -> Result<Option<Swap>, Stop> {
        if !self.quarantine.holds(self.generation) {
            return Ok(self.swaps.try_recv().ok());
        }
        match Handle::current().block_on(self.swaps.recv()) {
            Some(swap) => Ok(Some(swap)),
            None => Err(Stop("its plugin is in quarantine".into())),
        }
    }
}

/// Stops a source whose plugins fault too often: its workers wait, nothing is processed, acknowledged or lost.
#[derive(Debug)]
pub struct Quarantine {
    source: String,
    /// Faults that a minute may have; 0: any number.
    limit: usize,
    status: Status,
    metrics: Arc<SourceMetrics>,
    /// The generation of plugins that is in quarantine; 0: none.
    held: AtomicU64,
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    /// That of the plugins that were loaded last: what older ones do does not count any more.
    generation: u64,
    faults: VecDeque<Instant>,
}

const FIRST: u64 = 1;

impl Quarantine {
    /// For `source`: more than `limit` faults in a minute are too many; 0: none are.
    pub fn new(source: &str, limit: u32, status: Status, metrics: Arc<SourceMetrics>) -> Self {
        let recent = Mutex::new(Recent { generation: FIRST, faults: VecDeque::new() });
        let (source, limit) = (source.to_owned(), limit as usize);
        Quarantine { source, limit, status, metrics, held: AtomicU64::new(0), recent }
    }

    /// Other plugins are loaded, which begin without faults: ends the quarantine. Their generation.
    pub fn renew(&self) -> u64 {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.generation += 1;
        recent.faults.clear();
        self.held.store(0, Relaxed);
        self.metrics.quarantined.store(0, Relaxed);
        self.status.ready(Part::Plugin);
        recent.generation
    }

    fn holds(&self, generation: u64) -> bool {
        self.held.load(Relaxed) == generation
    }

    fn fault(&self, generation: u64, plugin: &str, fault: &Fault, now: Instant) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if self.limit == 0 || generation != recent.generation || self.holds(generation) {
            return;
        }
        recent.faults.push_back(now);
        while recent.faults.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            recent.faults.pop_front();
        }
        if recent.faults.len() <= self.limit {
            return;
        }
        self.held.store(generation, Relaxed);
        self.metrics.quarantined.store(1, Relaxed);
        let reason = format!(
            "in quarantine after more than {} faults in a minute (`max_faults_per_minute`), the last one of {plugin}: {fault}; \
             nothing is processed or acknowledged until the plugin is replaced, SIGHUP has it loaded again, or a restart",
            self.limit
        );
        error!(source = self.source, "{reason}");
        self.status.not_ready(Part::Plugin, reason);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn quarantine(limit: u32) -> (Quarantine, Status) {
        let status = Status::default();
        (Quarantine::new("s", limit, status.clone(), Arc::default()), status)
    }

    fn trap() -> Fault {
        Fault::Trap("unreachable".into())
    }

    #[test]
    fn only_more_faults_than_allowed_within_a_minute_are_too_many() {
        let (quarantine, status) = quarantine(3);
        let start = Instant::now();
        let fault = |seconds| quarantine.fault(FIRST, "p", &trap(), start + Duration::from_secs(seconds));
        for seconds in [0, 1, 2, 60, 61, 62] {
            fault(seconds);
            assert!(!quarantine.holds(FIRST), "{seconds}");
        }
        fault(62);
        assert!(quarantine.holds(FIRST));
        let reasons = status.reasons().join("\n");
        assert!(
            reasons.starts_with("plugin: in quarantine after more than 3 faults in a minute"),
            "{reasons}"
        );
        assert!(reasons.contains("the last one of p: the plugin trapped: unreachable"), "{reasons}");
        assert_eq!(quarantine.metrics.snapshot().quarantined, 1);
    }

    #[test]
    fn plugins_that_are_replaced_do_not_count_any_more() {
        let (quarantine, status) = quarantine(1);
        let now = Instant::now();
        let fault = |generation| quarantine.fault(generation, "p", &trap(), now);
        fault(FIRST);
        fault(FIRST);
        assert!(quarantine.holds(FIRST));
        let second = quarantine.renew();
        assert!(status.reasons().is_empty() && !quarantine.holds(FIRST) && !quarantine.holds(second));
        for _ in 0..10 {
            fault(FIRST);
        }
        fault(second);
        assert!(!quarantine.holds(FIRST) && !quarantine.holds(second));
        fault(second);
        assert!(quarantine.holds(second));
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let (quarantine, _) = quarantine(0);
        for _ in 0..1_000 {
            quarantine.fault(FIRST, "p", &trap(), Instant::now());
        }
        assert!(!quarantine.holds(FIRST));
    }
}
