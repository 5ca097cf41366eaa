//! The plugin: whoever builds or configures it has to act.

use std::path::PathBuf;
use std::time::Duration;

/// Why a plugin cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The file cannot be read.
    #[error("cannot read the plugin {}: {source}", path.display())]
    Read {
        /// The component's file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is greater than its limit.
    #[error(
        "the plugin {} is greater than {} MiB: strip it, or raise `limits.component_mb`",
        path.display(), limit >> 20
    )]
    TooLarge {
        /// The component's file.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// The file is not the one that the configuration names by its SHA-256.
    #[error(
        "the plugin {} has the SHA-256 {actual}, the configuration wants {expected}: \
         put the right file there, or correct `sha256`",
        path.display()
    )]
    Pin {
        /// The component's file.
        path: PathBuf,
        /// From the configuration, hexadecimal.
        expected: String,
        /// Of the file, hexadecimal.
        actual: String,
    },
    /// The file is something else than a component.
    #[error("the plugin {} is {found}, not a WebAssembly component: {hint}", path.display())]
    NotAComponent {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The component is damaged, or uses what this host does not run.
    #[error("the plugin {} is not a valid component: {message}", path.display())]
    Invalid {
        /// The component's file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// Compiling it takes longer than its limit.
    #[error(
        "the plugin {} takes longer than {} s to compile: make it smaller, or raise `limits.compile_seconds`",
        path.display(), limit.as_secs()
    )]
    CompileTime {
        /// The component's file.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// Compiling it takes more memory than its limit.
    #[error(
        "the plugin {} takes more than {} MiB of memory to compile: make it smaller, or raise `limits.compile_mb`",
        path.display(), limit >> 20
    )]
    CompileMemory {
        /// The component's file.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// The compiler crashed over it.
    #[error("the plugin {} cannot be compiled, the compiler ended with {message}", path.display())]
    Compiler {
        /// The component's file.
        path: PathBuf,
        /// How it ended, and what it said.
        message: String,
    },
    /// A component, but not a plugin of this contract.
    #[error("the component {} is not a plugin for this host: {message}", path.display())]
    World {
        /// The component's file.
        path: PathBuf,
        /// What it is instead, and what to do.
        message: String,
    },
    /// The component imports what plugins are not granted.
    #[error(
        "the plugin {} imports what is not granted:\n{}",
        path.display(),
        missing.iter().map(|(name, hint)| format!("  {name}: {hint}")).collect::<Vec<_>>().join("\n")
    )]
    Imports {
        /// The component's file.
        path: PathBuf,
        /// Each import, and what to do about it.
        missing: Vec<(String, String)>,
    },
    /// It could not be started, or its `init` returned an error.
    #[error("the plugin {name} ({}) does not start: {fault}", path.display())]
    Start {
        /// The plugin's name.
        name: String,
        /// The component's file.
        path: PathBuf,
        /// What happened.
        fault: Fault,
    },
    /// It uses `state`, for which nothing was prepared when the host started.
    #[error(
        "the plugin {name} uses `state`, and no plugin of its source did when the host started: restart the host, which makes room for it"
    )]
    NoState {
        /// The plugin's name.
        name: String,
    },
    /// The WebAssembly engine does not run on this machine.
    #[error("the WebAssembly engine cannot be started: {0}")]
    Engine(String),
}

/// How a call of a plugin failed. Its instance is gone, with its memory; the message that caused it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The code trapped: a panic, an illegal access, a stack overflow, a call of what is refused.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// The call took longer than its deadline.
    #[error("the plugin took longer than its deadline of {} ms (`limits.deadline_ms`)", .0.as_millis())]
    Deadline(Duration),
    /// The code trapped after more memory was refused to it.
    #[error("the plugin needs more memory than its limit of {} MiB (`limits.memory_mb`)", limit >> 20)]
    Memory {
        /// The limit in bytes.
        limit: usize,
    },
    /// The outputs of one call are too large.
    #[error("the outputs of the plugin exceed {limit} bytes in one call (`limits.output_bytes`)")]
    OutputTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// One message became too many outputs.
    #[error(
        "the plugin made {outputs} outputs of one message, the limit is {limit} (`limits.outputs_per_message`)"
    )]
    TooManyOutputs {
        /// How many it made.
        outputs: usize,
        /// How many it may make.
        limit: usize,
    },
    /// What came back breaks a rule of the contract.
    #[error("the plugin broke a rule of its contract: {0}")]
    BrokenRule(String),
    /// It called `exit`.
    #[error("the plugin called exit with the status {0}")]
    Exit(i32),
    /// Its `init` returned an error; or, after an earlier fault, it could not be started again.
    #[error("init failed: {0}")]
    Init(String),
}

impl Fault {
    /// The kinds of faults, for metrics.
    pub const KINDS: [&'static str; 8] =
        ["trap", "deadline", "memory", "output_too_large", "too_many_outputs", "broken_rule", "exit", "init"];

    /// The same, with what the plugin said changed by `change`.
    #[must_use]
    pub fn map_said(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Fault::Trap(said) => Fault::Trap(change(said)),
            Fault::BrokenRule(said) => Fault::BrokenRule(change(said)),
            Fault::Init(said) => Fault::Init(change(said)),
            fault => fault,
        }
    }

    /// Which of [`KINDS`](Self::KINDS) it is.
    pub fn kind_index(&self) -> usize {
        match self {
            Fault::Trap(_) => 0,
            Fault::Deadline(_) => 1,
            Fault::Memory { .. } => 2,
            Fault::OutputTooLarge { .. } => 3,
            Fault::TooManyOutputs { .. } => 4,
            Fault::BrokenRule(_) => 5,
            Fault::Exit(_) => 6,
            Fault::Init(_) => 7,
        }
    }
}
