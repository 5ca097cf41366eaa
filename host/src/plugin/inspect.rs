//! What `plugin inspect` shows: a component against the contract, the grants and the limits, without running it.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::grants::{Import, World};
use super::producers::Producers;
use super::{Sandbox, component, grants, link};
use crate::config::Limits;
use crate::error::PluginError;

/// A component as a plugin would be judged. `Display` is for a person, `Serialize` for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: String,
    /// Its size in bytes.
    pub size: usize,
    /// Its SHA-256, hexadecimal, as `sha256:` of the configuration takes it.
    pub sha256: String,
    /// The world that it fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world: Option<World>,
    /// The version of the contract that it was built against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    /// What it imports, and whether that is granted.
    pub imports: Vec<Import>,
    /// What it exports.
    pub exports: Vec<String>,
    /// What it says about how it was made.
    pub producers: Producers,
    /// The limits that it would run in.
    pub limits: InspectedLimits,
    /// Why it cannot be a plugin, where it is not an import that is not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// [`Limits`] under the names and in the units of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct InspectedLimits {
    pub memory_mb: usize,
    pub deadline_ms: u128,
    pub outputs_per_message: usize,
    pub output_bytes: usize,
    pub stack_kb: usize,
    pub log_lines_per_second: u32,
    pub metrics: usize,
    pub state_mb: usize,
    pub component_mb: usize,
    pub compile_seconds: u64,
    pub compile_mb: usize,
    pub instances: usize,
    pub handles: usize,
}

impl From<&Limits> for InspectedLimits {
    fn from(limits: &Limits) -> Self {
        InspectedLimits {
            memory_mb: limits.memory >> 20,
            deadline_ms: limits.deadline.as_millis(),
            outputs_per_message: limits.outputs_per_message,
            output_bytes: limits.output_bytes,
            stack_kb: limits.stack >> 10,
            log_lines_per_second: limits.log_lines_per_second,
            metrics: limits.metrics,
            state_mb: limits.state >> 20,
            component_mb: limits.component >> 20,
            compile_seconds: limits.compile_time.as_secs(),
            compile_mb: limits.compile_memory >> 20,
            instances: limits.instances,
            handles: limits.handles,
        }
    }
}

impl Inspection {
    /// Whether the host would load it.
    pub fn loads(&self) -> bool {
        self.problem.is_none() && self.imports.iter().all(|import| import.granted)
    }
}

pub(super) fn inspect(sandbox: &Sandbox, path: &Path, limits: &Limits) -> Result<Inspection, PluginError> {
    let binary = component::read(path, limits.component, None)?;
    let engine = sandbox.engine(limits.stack)?;
    let (component, _) = component::compile(&engine, sandbox.cache(), path, &binary, limits)?;
    let imports = grants::imports(&component);
    let (world, mut problem) = match grants::world(&component) {
        Ok(world) => (Some(world), None),
        Err(problem) => (None, Some(problem)),
    };
    if problem.is_none() && imports.iter().all(|import| import.granted) {
        problem = super::Exports::find(path, &component)
            .and_then(|_| link(path, &component))
            .err()
            .map(|error| error.to_string());
    }
    let (world, contract) = world.unzip();
    Ok(Inspection {
        path: path.display().to_string(),
        size: binary.bytes.len(),
        sha256: component::hex(&binary.sha256),
        world,
        contract,
        imports,
        exports: grants::exports(&component),
        producers: Producers::of(&binary.bytes),
        limits: limits.into(),
        problem,
    })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "file      {}", self.path)?;
        writeln!(f, "size      {} bytes", self.size)?;
        writeln!(f, "sha256    {}", self.sha256)?;
        match (self.world, &self.contract) {
            (Some(world), Some(version)) => writeln!(f, "world     {world} of rivven:connect {version}")?,
            _ => writeln!(f, "world     none of rivven:connect")?,
        }
        for (name, values) in self.producers.fields() {
            writeln!(f, "{name:9} {values}")?;
        }
        writeln!(f, "exports")?;
        for export in &self.exports {
            writeln!(f, "  {export}")?;
        }
        writeln!(f, "imports")?;
        if self.imports.is_empty() {
            writeln!(f, "  none")?;
        }
        for import in &self.imports {
            match &import.hint {
                None => writeln!(f, "  granted      {}", import.name)?,
                Some(hint) => writeln!(f, "  NOT GRANTED  {}: {hint}", import.name)?,
            }
        }
        let InspectedLimits {
            memory_mb,
            deadline_ms,
            outputs_per_message,
            output_bytes,
            stack_kb,
            log_lines_per_second,
            metrics,
            state_mb,
            component_mb,
            compile_seconds,
            compile_mb,
            instances,
            handles,
        } = self.limits;
        writeln!(f, "limits")?;
        writeln!(f, "  memory_mb {memory_mb}, stack_kb {stack_kb}, deadline_ms {deadline_ms}")?;
        writeln!(f, "  outputs_per_message {outputs_per_message}, output_bytes {output_bytes}")?;
        writeln!(f, "  log_lines_per_second {log_lines_per_second}, metrics {metrics}")?;
        writeln!(f, "  state_mb {state_mb}, instances {instances}, handles {handles}")?;
        writeln!(
            f,
            "  component_mb {component_mb}, compile_seconds {compile_seconds}, compile_mb {compile_mb}"
        )?;
        match (&self.problem, self.loads()) {
            (Some(problem), _) => write!(f, "It cannot be loaded: {problem}"),
            (None, false) => write!(f, "It cannot be loaded: it imports what is not granted."),
            (None, true) => write!(f, "It can be loaded."),
        }
    }
}
