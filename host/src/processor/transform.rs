//! What decides about messages.

use crate::error::Fault;
use crate::message::{Batch, Outcome, Outputs, StateWrites};
use crate::plugin::Worker;

/// What decides about messages: a plugin, several in a row, or [`PassAll`] where none is configured.
pub trait Transform: Send {
    /// Decides about each message of a batch, which is the same afterwards. After a fault the next call meets a fresh
    /// instance.
    fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault>;
    /// Gives back what is held.
    fn flush(&mut self) -> Result<Outputs, Fault>;
    /// The calls since the last time have succeeded as a whole: what plugins wrote to their state takes effect, and is appended to
    /// `writes`.
    fn publish(&mut self, _writes: &mut Vec<StateWrites>) {}
    /// Bytes that were written to state and wait for [`publish`](Self::publish), about.
    fn unpublished(&self) -> usize {
        0
    }
    /// Something of it has failed: what plugins wrote to their state since the last time never was.
    fn roll_back(&mut self) {}
    /// More is kept in the host for the next flush than should wait for long.
    fn is_full(&self) -> bool {
        false
    }
    /// How many messages a batch may have so that its call is likely to end before the deadline.
    fn at_a_time(&self) -> usize {
        usize::MAX
    }
    /// Throws the instance away, as after a fault: with a fault of another plugin of the list all begin anew.
    fn restart(&mut self) {}
    /// The place in the list of the plugin that the last fault was of.
    fn at_fault(&self) -> usize {
        0
    }
}

/// Every message passes.
pub struct PassAll;

impl Transform for PassAll {
    fn process(&mut self, _: &mut Batch) -> Result<Outcome, Fault> {
        Ok(Outcome::default())
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        Ok(Outputs::default())
    }
}

impl Transform for Worker {
    fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        Worker::process(self, batch)
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        Worker::flush(self)
    }

    fn publish(&mut self, writes: &mut Vec<StateWrites>) {
        Worker::publish(self, writes);
    }

    fn unpublished(&self) -> usize {
        Worker::unpublished(self)
    }

    fn roll_back(&mut self) {
        Worker::roll_back(self);
    }

    fn at_a_time(&self) -> usize {
        Worker::at_a_time(self)
    }

    fn restart(&mut self) {
        Worker::restart(self);
    }
}
