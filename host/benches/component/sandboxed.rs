//! The plugin host's own call, as a worker thread makes it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use rivven_mqtt::config;
use rivven_mqtt::plugin::{Plugin, PluginHost, Sandbox, SourceDescription, Worker};

use crate::support::component;

/// An instance of the bench plugin with this workload, with every limit on.
pub fn worker(workload: &str) -> Result<Worker> {
    let config = plugin(component("bench_guest")?, workload);
    let host = PluginHost::new("bench", &config.limits);
    let plugin = Plugin::load(&Sandbox::new()?, &config, Arc::new(SourceDescription::default()), host)?;
    Ok(plugin.worker()?)
}

fn plugin(path: PathBuf, workload: &str) -> config::Plugin {
    config::Plugin {
        name: None,
        path,
        sha256: None,
        config: format!(r#"{{"work": "{workload}"}}"#),
        secrets: Vec::new(),
        limits: config::Limits::default(),
    }
}
