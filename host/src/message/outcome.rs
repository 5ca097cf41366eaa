//! What a plugin made of a batch.

use wasmtime::component::{ComponentType, Lift};

use super::column::OutputColumn;

/// What a plugin decides about one message. The values are those of the WIT's enum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum Verdict {
    /// Forward the message unchanged.
    #[component(name = "pass")]
    Pass,
    /// Acknowledge it and write nothing.
    #[component(name = "drop")]
    Drop,
    /// Write the outputs that name it.
    #[component(name = "emit")]
    Emit,
    /// Dead-letter it, with a reason.
    #[component(name = "reject")]
    Reject,
    /// Absorbed: acknowledged when a later flush commits.
    #[component(name = "hold")]
    Hold,
}

/// Stands in [`Outputs::of`] for an output that belongs to no message.
pub const NO_MESSAGE: u32 = u32::MAX;

/// Records that a plugin emitted, as columns.
#[derive(Debug, Default, Clone)]
pub struct Outputs {
    /// For each output, the index of its message; never falling. The outputs of a flush have no message: [`NO_MESSAGE`], or
    /// nothing here.
    pub of: Vec<u32>,
    /// Destination topics; no column or an empty item means the source's own.
    pub topics: OutputColumn,
    /// Keys; no column or an empty item means the source's own.
    pub keys: OutputColumn,
    /// Values, one for each output.
    pub values: OutputColumn,
}

impl Outputs {
    /// How many outputs there are.
    pub fn len(&self) -> usize {
        self.values.ends.len()
    }

    /// Whether there is no output.
    pub fn is_empty(&self) -> bool {
        self.values.ends.is_empty()
    }

    /// Bytes of topics, keys and values.
    pub fn bytes(&self) -> usize {
        self.topics.data.len() + self.keys.data.len() + self.values.data.len()
    }
}

/// What a plugin made of a batch, checked: lengths agree, ends are in order and in range, outputs belong to `emit`.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// One for each message. Empty: every message passes.
    pub verdicts: Vec<Verdict>,
    /// What the messages with [`Verdict::Emit`] became.
    pub outputs: Outputs,
    /// Why messages with [`Verdict::Reject`] were rejected; ascending, at most one for each.
    pub reasons: Vec<(u32, String)>,
    /// Of each reason, the place of the plugin in the source's list; empty where there is one plugin only.
    pub rejected_by: Vec<usize>,
}
