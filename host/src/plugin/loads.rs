//! Which component runs, and how often one was loaded.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The loads of one plugin of a source, at the start and with each reload.
#[derive(Debug, Default)]
pub struct PluginLoads {
    live: Mutex<Option<Arc<str>>>,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl PluginLoads {
    /// A component with this SHA-256, hexadecimal, runs in all workers.
    pub fn succeeded(&self, sha256: &str) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(sha256.into());
        self.succeeded.fetch_add(1, Relaxed);
    }

    /// One could not be loaded: what ran before still does.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// SHA-256 of the component that runs.
    pub fn live(&self) -> Option<Arc<str>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many loads succeeded and failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.succeeded.load(Relaxed), self.failed.load(Relaxed))
    }
}
