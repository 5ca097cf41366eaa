//! Only the face of the plugin host, so that this branch compiles: to be overwritten.

mod metrics;

use std::fmt;
use std::path::Path;

pub use self::metrics::{BUCKETS, Histogram, MetricValues, PluginMetrics};
use crate::config;

/// A loaded plugin.
#[derive(Clone)]
pub struct Plugin;

/// What a component is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Inspection;

impl Inspection {
    /// Whether the host would load it.
    pub fn loads(&self) -> bool {
        false
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

impl Plugin {
    /// Looks at a component.
    ///
    /// # Errors
    /// Always.
    pub fn inspect(_path: &Path, _limits: &config::Limits) -> Result<Inspection, std::io::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
