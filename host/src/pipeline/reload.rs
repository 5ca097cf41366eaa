//! Loading the plugins of a running source again.
//!
//! The new ones are compiled and started beside those that run. Each worker takes them between two calls, when what it held
//! is flushed. When one cannot be loaded, nothing changes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::files::Watch;
use super::load::{Loaded, Loader};
use crate::error::{HostError, chain};
use crate::live::{Quarantine, Swap};
use crate::record::Shape;

/// Has the plugins of a running host loaded again; clones are the same.
#[derive(Debug, Clone)]
pub struct Reload(watch::Sender<()>);

impl Reload {
    pub(super) fn new() -> Self {
        Reload(watch::Sender::new(()))
    }

    /// The files of all plugins are read and the plugins started anew, changed or not. Returns at once; the log, the metrics
    /// and `/status` say what became of it.
    pub fn now(&self) {
        self.0.send_replace(());
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Reloads the plugins of one source.
pub(super) struct Reloader {
    pub name: String,
    pub loader: Arc<Loader>,
    /// To each worker. A worker in quarantine ends when they are dropped.
    pub workers: Vec<mpsc::Sender<Swap>>,
    pub quarantine: Arc<Quarantine>,
    /// With the names of other plugins.
    pub shape: Arc<Shape>,
    /// Told to the driver.
    pub aggregating: Arc<AtomicBool>,
}

impl Reloader {
    /// Reloads whenever it is asked to or a file has changed, until shutdown.
    pub async fn run(
        self,
        files: Option<io::Result<Watch>>,
        mut asked: watch::Receiver<()>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut files = files.and_then(|files| {
            files
                .inspect_err(|error| {
                    warn!(source = self.name, %error, "changes of the plugin's file are not noticed: send SIGHUP to load it again");
                })
                .ok()
        });
        let reloads = async {
            loop {
                let changed = async {
                    match &mut files {
                        Some(files) => files.changed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = changed => info!(source = self.name, "a plugin's file has changed: loading it"),
                    Ok(()) = asked.changed() => info!(source = self.name, "loading the plugin again"),
                }
                self.reload().await;
            }
        };
        tokio::select! {
            () = reloads => {}
            // A sender that is gone is the end of the host.
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
    }

    async fn reload(&self) {
        let loader = self.loader.clone();
        let loaded = match tokio::task::spawn_blocking(move || loader.load()).await {
            Ok(loaded) => loaded.map_err(HostError::from),
            Err(panicked) => Err(HostError::Panicked(panicked)),
        };
        match loaded {
            Ok(loaded) => self.swap(loaded).await,
            Err(error) => error!(
                source = self.name,
                error = chain(&error),
                "the plugin is not loaded again; nothing has changed, and what ran before still does"
            ),
        }
    }

    /// Returns when all workers run the new ones.
    async fn swap(&self, loaded: Loaded) {
        self.aggregating.store(loaded.aggregates(), Relaxed);
        let Loaded { names, transforms, .. } = loaded;
        let shape = Arc::new(self.shape.with_plugins(names.clone()));
        let generation = self.quarantine.renew();
        let (taken, mut all_taken) = mpsc::channel(1);
        for (worker, transform) in self.workers.iter().zip(transforms) {
            let swap = Swap { transform, shape: shape.clone(), generation, taken: taken.clone() };
            // A worker that has stopped needs none.
            let _ = worker.send(swap).await;
        }
        drop(taken);
        // Nobody sends anything: it ends when the last one is dropped.
        let _ = all_taken.recv().await;
        self.loader.is_live(&names);
    }
}
