//! Loading the plugins of a source, and starting their instances.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::info;

use super::files::Watch;
use crate::chain::Chain;
use crate::config::{self, Config, Mqtt, Source, Version};
use crate::error::{HostError, PluginError};
use crate::journal::Journal;
use crate::plugin::{Plugin, PluginHost, Sandbox, SourceDescription, name_of};
use crate::processor::{PassAll, Transform};
use crate::record::PluginName;

/// The folder of compiled plugins below `state_dir`.
const COMPILED: &str = "compiled";

/// Stack of a worker for the host's own code, in bytes.
const STACK: usize = 2 << 20;

/// What the plugins of a source are loaded with, at the start and again with each reload.
pub(super) struct Loader {
    source: String,
    plugins: Vec<config::Plugin>,
    workers: usize,
    description: Arc<SourceDescription>,
    /// What each plugin shares with the host.
    pub(super) hosts: Vec<PluginHost>,
    /// Whether a plugin that uses state may be loaded: there is a journal for it, or nothing is to last.
    takes_state: bool,
    sandbox: Sandbox,
}

/// The plugins of a source, and what decides on each worker's thread.
pub(crate) struct Loaded {
    /// In the order in which messages go through them.
    pub(crate) plugins: Vec<Plugin>,
    /// For dead letters.
    pub(super) names: Vec<PluginName>,
    /// One for each worker.
    pub(super) transforms: Vec<Box<dyn Transform>>,
}

impl Loaded {
    /// Whether any plugin may hold messages.
    pub(super) fn aggregates(&self) -> bool {
        self.plugins.iter().any(Plugin::aggregates)
    }
}

impl Loader {
    /// For the plugins of `source`, if it has any. The first plugin starts the sandbox of all.
    pub(super) fn new(
        sandbox: &mut Option<Sandbox>,
        start: impl FnOnce() -> Result<Sandbox, PluginError>,
        name: &str,
        source: &Source,
    ) -> Result<Option<Self>, PluginError> {
        if source.plugins.is_empty() {
            return Ok(None);
        }
        let sandbox = match sandbox {
            Some(sandbox) => sandbox,
            None => sandbox.insert(start()?),
        };
        let plugins = named(&source.plugins);
        let host = |plugin: &config::Plugin| {
            PluginHost::named(name, plugin.name.as_deref().unwrap_or_default(), &plugin.limits)
        };
        Ok(Some(Loader {
            source: name.to_owned(),
            workers: source.workers,
            description: Arc::new(describe(&source.mqtt)),
            hosts: plugins.iter().map(host).collect(),
            plugins,
            takes_state: true,
            sandbox: sandbox.clone(),
        }))
    }

    /// The files of the plugins.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.plugins.iter().map(|plugin| plugin.path.clone()).collect()
    }

    /// Reads the files, and starts the instances of all workers, which calls `init`. Takes its time.
    pub(super) fn load(&self) -> Result<Loaded, PluginError> {
        let plugins = self.compile()?;
        if let Some((plugin, host)) = plugins.iter().zip(&self.hosts).find(|(it, _)| it.uses_state())
            && !self.takes_state
        {
            host.loads.failed();
            return Err(PluginError::NoState { name: plugin.name().to_owned() });
        }
        self.start(plugins)
    }

    fn compile(&self) -> Result<Vec<Plugin>, PluginError> {
        let load = |(config, host): (&config::Plugin, &PluginHost)| {
            let loaded = Plugin::load(&self.sandbox, config, self.description.clone(), host.clone());
            loaded.inspect_err(|_| host.loads.failed())
        };
        self.plugins.iter().zip(&self.hosts).map(load).collect()
    }

    /// What is durable of the state of the plugins, for their instances to find. Opens the journal if one of them uses it.
    fn state(&mut self, plugins: &[Plugin], state_dir: &Path) -> Result<Option<Journal>, HostError> {
        self.takes_state = plugins.iter().any(Plugin::uses_state);
        if !self.takes_state {
            return Ok(None);
        }
        let journal = Journal::open(state_dir, &self.source)?;
        for host in &self.hosts {
            journal.load(&host.name, &host.state)?;
        }
        Ok(Some(journal))
    }

    fn start(&self, plugins: Vec<Plugin>) -> Result<Loaded, PluginError> {
        let stack = stack(&self.plugins);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("plugin-load".into()).stack_size(stack);
            let loading = thread
                .spawn_scoped(scope, || self.start_here(plugins))
                .map_err(|error| PluginError::Engine(format!("no thread for loading it: {error}")))?;
            loading.join().unwrap_or_else(|_| Err(PluginError::Engine("loading it has panicked".into())))
        })
    }

    /// Needs a stack that the code of the plugins fits into.
    fn start_here(&self, plugins: Vec<Plugin>) -> Result<Loaded, PluginError> {
        let transforms = (0..self.workers).map(|_| self.transform(&plugins)).collect::<Result<_, _>>()?;
        let name = |(plugin, host): (&Plugin, &PluginHost)| PluginName {
            name: host.name.to_string(),
            sha256: plugin.sha256_hex().into(),
        };
        let names = plugins.iter().zip(&self.hosts).map(name).collect();
        Ok(Loaded { plugins, names, transforms })
    }

    /// An instance of each plugin. One alone needs nothing around it.
    fn transform(&self, plugins: &[Plugin]) -> Result<Box<dyn Transform>, PluginError> {
        let instance = |(plugin, host): (&Plugin, &PluginHost)| -> Result<Box<dyn Transform>, PluginError> {
            Ok(Box::new(plugin.worker().inspect_err(|_| host.loads.failed())?))
        };
        let mut instances = plugins.iter().zip(&self.hosts).map(instance).collect::<Result<Vec<_>, _>>()?;
        match (instances.len(), instances.pop()) {
            (1, Some(instance)) => Ok(instance),
            (_, last) => {
                instances.extend(last);
                Ok(Box::new(Chain::new(instances)))
            }
        }
    }

    /// All workers run what was loaded.
    pub(super) fn is_live(&self, names: &[PluginName]) {
        for (PluginName { name, sha256 }, host) in names.iter().zip(&self.hosts) {
            host.loads.succeeded(sha256);
            info!(source = self.source, plugin = name, sha256, "plugin ready");
        }
    }
}

/// A sandbox that keeps compiled code in `state_dir`.
pub(super) fn sandbox(settings: &config::Settings) -> Result<Sandbox, PluginError> {
    Sandbox::caching(&settings.state_dir.join(COMPILED))
}

/// How much stack the thread of a worker with these plugins needs, in bytes.
pub(super) fn stack(plugins: &[config::Plugin]) -> usize {
    STACK + plugins.iter().map(|plugin| plugin.limits.stack).max().unwrap_or(0)
}

/// The plugins of a source that is to run.
pub(super) struct Ready {
    pub loader: Option<Loader>,
    /// Of their files.
    pub watch: Option<io::Result<Watch>>,
    pub loaded: Loaded,
    pub journal: Option<Journal>,
}

/// Loads the plugins of all sources, in the order of their names.
pub(super) fn load_all(config: &Config) -> Result<Vec<Ready>, HostError> {
    let (mut started, settings) = (None, &config.settings);
    let load = |(name, source): (&String, &Source)| {
        load(&mut started, || sandbox(settings), name, source, Some(&settings.state_dir))
    };
    config.sources.iter().map(load).collect()
}

/// Loads the plugins of a source and starts its workers, which calls `init`. The state of the plugins is what is kept in
/// `state_dir`; without one it is empty, and is not kept.
pub(super) fn load(
    sandbox: &mut Option<Sandbox>,
    start: impl FnOnce() -> Result<Sandbox, PluginError>,
    name: &str,
    source: &Source,
    state_dir: Option<&Path>,
) -> Result<Ready, HostError> {
    let Some(mut loader) = Loader::new(sandbox, start, name, source)? else {
        let transforms: Vec<Box<dyn Transform>> = vec![Box::new(PassAll)];
        let loaded = Loaded { plugins: Vec::new(), names: Vec::new(), transforms };
        return Ok(Ready { loader: None, watch: None, loaded, journal: None });
    };
    // Before they are read: a change while the others are loaded is one, too.
    let watch = state_dir.map(|_| Watch::new(loader.files()));
    let plugins = loader.compile()?;
    let journal = match state_dir {
        Some(folder) => loader.state(&plugins, folder)?,
        None => None,
    };
    let loaded = loader.start(plugins)?;
    loader.is_live(&loaded.names);
    Ok(Ready { loader: Some(loader), watch, loaded, journal })
}

/// Loads the plugins of a source and calls the `init` of each, for nothing but to see that it works.
pub(crate) fn try_load(sandbox: Sandbox, name: &str, source: &Source) -> Result<Loaded, HostError> {
    load(&mut Some(sandbox), Sandbox::new, name, source, None).map(|ready| ready.loaded)
}

/// The plugins with a name each, by default that of the file. A name that comes again has its number.
fn named(plugins: &[config::Plugin]) -> Vec<config::Plugin> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut unique = |plugin: &config::Plugin| {
        let name = plugin.name.clone().unwrap_or_else(|| name_of(&plugin.path).to_string());
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}#{count}") }
    };
    plugins.iter().map(|plugin| config::Plugin { name: Some(unique(plugin)), ..plugin.clone() }).collect()
}

fn describe(mqtt: &Mqtt) -> SourceDescription {
    let protocol_version = match mqtt.version {
        Version::V4 => "3.1.1",
        Version::V5 => "5.0",
    };
    SourceDescription {
        connector: concat!("rivven-mqtt ", env!("CARGO_PKG_VERSION")).into(),
        client_id: mqtt.client_id.clone(),
        broker: mqtt.url.to_string(),
        subscriptions: mqtt.topics.clone(),
        protocol_version: protocol_version.into(),
    }
}
