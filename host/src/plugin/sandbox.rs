//! The engines that plugins run in, the clock that ends their calls, and the limit of their memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Engine, ResourceLimiter, WasmBacktraceDetails};

use super::cache::{Cache, users_cache};
use crate::error::PluginError;

/// How often the clock of the deadlines ticks; a call ends at most two ticks after its deadline.
const TICK: Duration = Duration::from_millis(10);

/// Where plugins run: compilers, and one thread that drives their deadlines and is joined when the last clone is dropped.
/// One for each process is enough.
#[derive(Clone)]
pub struct Sandbox(Arc<Clock>);

/// One engine for each stack size in use, because the stack is the engine's property.
type Engines = BTreeMap<usize, Engine>;

struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    cache: Option<Cache>,
}

#[derive(Default)]
struct Shared {
    engines: Mutex<Engines>,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Sandbox {
    /// Starts the clock. Each [`Plugin::load`](super::Plugin::load) compiles.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn new() -> Result<Self, PluginError> {
        Self::start(None)
    }

    /// As [`new`](Self::new), and keeps compiled code in `folder` and takes it from there. The folder is made with mode 0700; one
    /// that belongs to another user, or that others may use, is not used, with a warning in the log.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn caching(folder: &Path) -> Result<Self, PluginError> {
        Self::start(Cache::open(folder))
    }

    /// As [`caching`](Self::caching) in the user's cache folder, for commands without a configuration:
    /// `$XDG_CACHE_HOME/rivven-mqtt/compiled`, else `~/.cache/rivven-mqtt/compiled`, else nowhere.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn of_user() -> Result<Self, PluginError> {
        Self::start(users_cache().and_then(|folder| Cache::open(&folder)))
    }

    fn start(cache: Option<Cache>) -> Result<Self, PluginError> {
        let shared = Arc::new(Shared::default());
        let ticking = shared.clone();
        let thread = std::thread::Builder::new()
            .name("plugin-deadline".into())
            .spawn(move || ticking.tick())
            .map_err(|error| PluginError::Engine(format!("cannot start the deadline thread: {error}")))?;
        Ok(Sandbox(Arc::new(Clock { shared, thread: Some(thread), cache })))
    }

    /// The engine whose plugins have `stack` bytes of stack.
    pub(super) fn engine(&self, stack: usize) -> Result<Engine, PluginError> {
        let mut engines = lock(&self.0.shared.engines);
        if let Some(engine) = engines.get(&stack) {
            return Ok(engine.clone());
        }
        let engine = engine(stack)?;
        engines.insert(stack, engine.clone());
        Ok(engine)
    }

    pub(super) fn cache(&self) -> Option<&Cache> {
        self.0.cache.as_ref()
    }

    /// How many ticks a call may take so that it has at least `deadline`: the first tick may come at once.
    pub(super) fn ticks(deadline: Duration) -> u64 {
        let ticks = deadline.as_nanos().div_ceil(TICK.as_nanos());
        u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
    }
}

impl Shared {
    fn tick(&self) {
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            stopped = self.wake.wait_timeout(stopped, TICK).unwrap_or_else(PoisonError::into_inner).0;
            for engine in lock(&self.engines).values() {
                engine.increment_epoch();
            }
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        *lock(&self.shared.stopped) = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only counts and cannot panic; there is nothing to report.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine for synchronous components, without the features that no plugin needs.
pub(super) fn engine(stack: usize) -> Result<Engine, PluginError> {
    let mut config = Config::new();
    config
        // Calls into a component cost 300 ns instead of 800 without it, and a plugin has nothing to wait for.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(stack)
        .async_stack_size(stack + (1 << 20))
        .wasm_memory64(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    Engine::new(&config).map_err(|error| PluginError::Engine(format!("{error:#}")))
}

/// What one instance of a plugin may take of the host's memory: linear memories and tables, summed.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: usize,
    instances: usize,
    used: usize,
    peak: usize,
    refused: bool,
}

/// What a table element takes in the host.
const ELEMENT: usize = size_of::<usize>();

impl Limiter {
    /// At most `limit` bytes, and at most so many `instances`, memories and tables each.
    pub fn new(limit: usize, instances: usize) -> Self {
        Limiter { limit, instances, used: 0, peak: 0, refused: false }
    }

    /// The most that was in use, in bytes.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Whether growth was refused since the last call of this function.
    pub fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    fn grow(&mut self, by: usize) -> bool {
        let used = self.used.saturating_add(by);
        if used > self.limit {
            self.refused = true;
            return false;
        }
        self.used = used;
        self.peak = self.peak.max(used);
        true
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond its own maximum a memory does not grow whatever is said here; then nothing may be counted.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = desired.saturating_sub(current);
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(elements.saturating_mul(ELEMENT)))
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.instances
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut limiter = Limiter::new(100_000, 1);
        assert!(limiter.memory_growing(0, 65_536, None).unwrap());
        assert!(limiter.table_growing(0, 1_000, None).unwrap());
        assert!(!limiter.take_refused());
        assert!(!limiter.memory_growing(0, 65_536, None).unwrap());
        assert!(limiter.take_refused());
        assert!(!limiter.take_refused());
        assert_eq!(limiter.peak(), 65_536 + 1_000 * ELEMENT);
    }

    #[test]
    fn growth_beyond_the_memorys_own_maximum_is_not_counted() {
        let mut limiter = Limiter::new(1 << 20, 1);
        for _ in 0..100 {
            assert!(!limiter.memory_growing(0, 131_072, Some(65_536)).unwrap());
        }
        assert!(limiter.memory_growing(0, 65_536, Some(65_536)).unwrap());
        assert!(!limiter.take_refused());
    }

    #[test]
    fn a_deadline_has_at_least_its_time_in_ticks() {
        assert_eq!(Sandbox::ticks(Duration::from_millis(1)), 2);
        assert_eq!(Sandbox::ticks(Duration::from_millis(10)), 2);
        assert_eq!(Sandbox::ticks(Duration::from_millis(11)), 3);
        assert_eq!(Sandbox::ticks(Duration::from_secs(1)), 101);
    }

    #[test]
    fn the_clock_stops_with_the_last_clone() {
        let sandbox = Sandbox::new().unwrap();
        let shared = Arc::downgrade(&sandbox.0.shared);
        drop(sandbox.clone());
        assert!(shared.upgrade().is_some());
        drop(sandbox);
        assert!(shared.upgrade().is_none());
    }
}
