//! The durable state of plugins.

use std::path::PathBuf;

/// Why the state of the plugins of a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it.
    #[error(
        "the state of plugins {} is in use by another process: does this source run already? Give each host its own `settings.state_dir`",
        path.display()
    )]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// It cannot be made, opened or read.
    #[error("cannot open the state of plugins {}", path.display())]
    Open {
        /// The store.
        path: PathBuf,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
