//! The plugin host: a WebAssembly component, what it is granted and the limits that it runs in.
//!
//! [`Plugin::load`] compiles a component and refuses what it may not import before any of its code runs;
//! [`Plugin::worker`] makes a [`Worker`], an instance that one thread calls with batches. A call that traps, exceeds a limit
//! or breaks a rule of the contract is a [`Fault`]: the instance is gone, and the next call starts a fresh one.

mod cache;
mod compiler;
mod component;
mod grants;
mod guest;
mod imports;
mod inspect;
mod loads;
mod log;
mod metrics;
mod producers;
mod results;
mod sandbox;
mod state;
mod usage;
mod wasi;
mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

pub use self::compiler::{CompileCost, compile_if_asked};
pub use self::grants::{Import, World};
pub use self::guest::{PluginHost, SourceDescription};
pub use self::inspect::Inspection;
pub use self::loads::PluginLoads;
pub use self::log::PluginLog;
pub use self::metrics::{BUCKETS, Histogram, MetricValues, PluginMetrics};
pub use self::producers::Producers;
pub use self::sandbox::Sandbox;
pub use self::state::StateStore;
pub use self::usage::{LimitUse, PluginSample, PluginUsage};
pub use self::worker::{Usage, Worker};

use self::grants::{AGGREGATE, TRANSFORM};
use self::guest::Guest;
use crate::config;
use crate::error::{Fault, PluginError};

/// A plugin that has been compiled and may be started; clones share it.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    name: Arc<str>,
    path: PathBuf,
    sha256: String,
    compiled: CompileCost,
    /// For `init`.
    config: String,
    secrets: Vec<config::Secret>,
    limits: config::Limits,
    source: Arc<SourceDescription>,
    host: PluginHost,
    component: InstancePre<Guest>,
    exports: Exports,
    uses_state: bool,
    // Its clock has to run as long as a worker does.
    _sandbox: Sandbox,
}

/// Where the functions of the contract are among the exports.
struct Exports {
    init: ComponentExportIndex,
    process: ComponentExportIndex,
    flush: Option<ComponentExportIndex>,
}

impl Plugin {
    /// Reads, checks and compiles the component that `config` names. No code of it runs. Compiling takes 0.1 s for a
    /// small plugin in Rust, and many seconds for one that brings an interpreter; a sandbox with a cache does it once. See
    /// [`compile_if_asked`] for how its limits are kept.
    ///
    /// `source` is what the plugin learns about its source; `host` is where its log lines, metrics and state go, and outlives a reload.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is too large, is not the one that `sha256` names, is not a component, is none for this
    /// contract, cannot be compiled within its limits, or imports what is not granted; the error says which, and what to do.
    pub fn load(
        sandbox: &Sandbox,
        config: &config::Plugin,
        source: Arc<SourceDescription>,
        host: PluginHost,
    ) -> Result<Self, PluginError> {
        let path = config.path.as_path();
        let binary = component::read(path, config.limits.component, config.sha256.as_ref())?;
        let engine = sandbox.engine(config.limits.stack)?;
        let (component, compiled) =
            component::compile(&engine, sandbox.cache(), path, &binary, &config.limits)?;
        if let Err(message) = grants::world(&component) {
            return Err(PluginError::World { path: path.into(), message });
        }
        let imports = grants::imports(&component);
        let uses_state = imports.iter().any(|import| import.name.starts_with("rivven:connect/state@"));
        let missing = imports.into_iter().filter(|import| !import.granted);
        let missing: Vec<_> = missing.map(|import| (import.name, import.hint.unwrap_or_default())).collect();
        if !missing.is_empty() {
            return Err(PluginError::Imports { path: path.into(), missing });
        }
        let exports = Exports::find(path, &component)?;
        host.usage.loaded(binary.bytes.len(), compiled);
        Ok(Plugin(Arc::new(Loaded {
            name: config.name.as_deref().map_or_else(|| name_of(path), Arc::from),
            path: path.into(),
            sha256: component::hex(&binary.sha256),
            compiled,
            config: config.config.clone(),
            secrets: config.secrets.clone(),
            limits: config.limits,
            source,
            host,
            component: link(path, &component)?,
            exports,
            uses_state,
            _sandbox: sandbox.clone(),
        })))
    }

    /// What `plugin inspect` shows about the component at `path`. No code of it runs.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is too large or is not a component. A component that does not fit is no error: the
    /// inspection says why.
    pub fn inspect(
        sandbox: &Sandbox,
        path: &Path,
        limits: &config::Limits,
    ) -> Result<Inspection, PluginError> {
        inspect::inspect(sandbox, path, limits)
    }

    /// Whether the plugin may hold messages: then it is flushed.
    pub fn aggregates(&self) -> bool {
        self.0.exports.flush.is_some()
    }

    /// Whether it imports `state`.
    pub fn uses_state(&self) -> bool {
        self.0.uses_state
    }

    /// Its configured name, or the file's name without its extension.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file's SHA-256, hexadecimal.
    pub fn sha256_hex(&self) -> &str {
        &self.0.sha256
    }

    /// What it took to compile it; nothing when its code was in the cache.
    pub fn compile_cost(&self) -> CompileCost {
        self.0.compiled
    }

    /// How much stack the thread of a worker needs, in bytes: the plugin's, and the host's own.
    pub fn thread_stack(&self) -> usize {
        self.0.limits.stack + (2 << 20)
    }

    /// Starts an instance and calls its `init`. The thread that calls the worker needs [`thread_stack`](Self::thread_stack)
    /// bytes of stack; calls block it, at most for the deadline.
    ///
    /// # Errors
    ///
    /// When the instance cannot be started, or its `init` fails or returns an error: what it said is in the error.
    pub fn worker(&self) -> Result<Worker, PluginError> {
        Worker::start(self.clone()).map_err(|fault| PluginError::Start {
            name: self.0.name.to_string(),
            path: self.0.path.clone(),
            fault,
        })
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.0.name)
            .field("sha256", &self.0.sha256)
            .finish_non_exhaustive()
    }
}

impl Exports {
    fn find(path: &Path, component: &Component) -> Result<Self, PluginError> {
        // A name finds every version that is compatible with it.
        let find = |interface, function| {
            let instance = component.get_export_index(None, interface)?;
            component.get_export_index(Some(&instance), function)
        };
        let required = |interface, function| {
            find(interface, function).ok_or_else(|| PluginError::World {
                path: path.into(),
                message: format!(
                    "{interface} has no function `{function}`: build it against wit/connect.wit"
                ),
            })
        };
        let aggregates = component.get_export_index(None, AGGREGATE).is_some();
        Ok(Exports {
            init: required(TRANSFORM, "init")?,
            process: required(TRANSFORM, "process")?,
            flush: aggregates.then(|| required(AGGREGATE, "flush")).transpose()?,
        })
    }
}

/// Links `component` with all that is granted, and so checks the types of its imports.
fn link(path: &Path, component: &Component) -> Result<InstancePre<Guest>, PluginError> {
    let mut linker = Linker::new(component.engine());
    imports::link(&mut linker)
        .and_then(|()| wasi::link(&mut linker))
        .map_err(|error| PluginError::Engine(format!("{error:#}")))?;
    linker.instantiate_pre(component).map_err(|error| PluginError::World {
        path: path.into(),
        message: format!("{error:#}: build it against wit/connect.wit and WASI 0.2"),
    })
}

/// What a plugin is called: the name of its file, without the extension.
pub(crate) fn name_of(path: &Path) -> Arc<str> {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into()
}
