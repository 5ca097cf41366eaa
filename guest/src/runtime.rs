//! How the calls of the host reach a plugin: what `export!` expands to, without the macro.

use std::cell::RefCell;

pub use crate::host::Batch;
use crate::message::{Columns, Message};
use crate::output::{Output, Records, Writer};
use crate::raw::aggregate::exports::rivven::connect::aggregate::Outputs;
use crate::raw::plugin::exports::rivven::connect::transform::Results;
use crate::{AggregatingPlugin, Config, Plugin, Result};

/// The one plugin of a component, from `init` on.
#[derive(Debug)]
pub struct Slot<P>(RefCell<Option<P>>);

impl<P: Plugin> Slot<P> {
    /// Without a plugin.
    pub const fn empty() -> Self {
        Self(RefCell::new(None))
    }

    /// `transform.init`
    pub fn init(&self, config: &str) -> core::result::Result<(), String> {
        let plugin = P::new(Config::new(config)).map_err(crate::Error::into_reason)?;
        self.0.replace(Some(plugin));
        Ok(())
    }

    /// `transform.process`
    pub fn process(&self, batch: &Batch) -> Results {
        self.with(|plugin| process(plugin, batch))
    }

    /// `aggregate.flush`
    pub fn flush(&self) -> Outputs
    where
        P: AggregatingPlugin,
    {
        self.with(flush).unwrap_or_else(|error| fault(&format!("flush failed: {error}")))
    }

    fn with<T>(&self, call: impl FnOnce(&mut P) -> T) -> T {
        match &mut *self.0.borrow_mut() {
            Some(plugin) => call(plugin),
            None => fault("called before init succeeded"),
        }
    }
}

/// The contract has no other way to say that a call failed, and the host treats a trap as just that.
#[expect(clippy::panic, reason = "a panic is how a component faults with a message")]
fn fault(reason: &str) -> ! {
    panic!("{reason}")
}

pub(crate) fn process<P: Plugin>(plugin: &mut P, batch: &Batch) -> Results {
    let columns = Columns::new(batch);
    let mut writer = Writer::new(columns.len());
    for index in 0..columns.len() {
        let message = Message { columns: &columns, index };
        let decision = plugin.process(message, Output::new(&mut writer, &columns, index));
        writer.decide(decision);
    }
    writer.into_results()
}

pub(crate) fn flush<P: AggregatingPlugin>(plugin: &mut P) -> Result<Outputs> {
    let mut writer = Writer::new(0);
    plugin.flush(&mut Records::of_flush(&mut writer))?;
    Ok(writer.into_outputs())
}
