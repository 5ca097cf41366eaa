//! The host of native tests: what a plugin imports, in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::log::Level;
use crate::raw::plugin::rivven::connect::source::{Column, Delivery, Description, Properties};
use crate::raw::plugin::rivven::connect::state::StateError;

/// What a plugin can do to the host, and what a test can see of it.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) logs: Vec<(Level, String)>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) histograms: BTreeMap<String, Vec<f64>>,
    pub(crate) state: BTreeMap<String, Vec<u8>>,
}

thread_local! {
    /// The host of the plugin that runs on this thread now.
    static CURRENT: RefCell<Memory> = RefCell::default();
}

impl Memory {
    /// Runs `call` with `self` as the host.
    pub(crate) fn host<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let swap = |memory: &mut Memory| CURRENT.with_borrow_mut(|current| std::mem::swap(current, memory));
        swap(self);
        let result = call();
        swap(self);
        result
    }
}

pub(crate) fn log(level: Level, message: &str) {
    CURRENT.with_borrow_mut(|host| host.logs.push((level, message.to_owned())));
}

pub(crate) fn counter_add(name: &str, value: u64) {
    CURRENT.with_borrow_mut(|host| *host.counters.entry(name.to_owned()).or_default() += value);
}

pub(crate) fn gauge_set(name: &str, value: f64) {
    CURRENT.with_borrow_mut(|host| host.gauges.insert(name.to_owned(), value));
}

pub(crate) fn histogram_record(name: &str, value: f64) {
    CURRENT.with_borrow_mut(|host| host.histograms.entry(name.to_owned()).or_default().push(value));
}

pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
    CURRENT.with_borrow(|host| host.state.get(key).cloned())
}

pub(crate) fn set(key: &str, value: &[u8]) -> Result<(), StateError> {
    if key.is_empty() || key.len() > 256 {
        return Err(StateError::InvalidKey);
    }
    if value.len() > 1 << 20 {
        return Err(StateError::ValueTooLarge);
    }
    CURRENT.with_borrow_mut(|host| host.state.insert(key.to_owned(), value.to_owned()));
    Ok(())
}

pub(crate) fn delete(key: &str) {
    CURRENT.with_borrow_mut(|host| host.state.remove(key));
}

pub(crate) fn describe() -> Description {
    Description {
        connector: concat!("rivven-plugin-sdk ", env!("CARGO_PKG_VERSION")).to_owned(),
        client_id: "test".to_owned(),
        broker: "localhost:1883".to_owned(),
        subscriptions: vec!["#".to_owned()],
        protocol_version: "5.0".to_owned(),
    }
}

/// Messages as a host would hand them over.
#[derive(Debug, Default)]
pub struct Batch {
    topics: Column,
    payloads: Column,
    delivery: Vec<Delivery>,
    received_at: Vec<u64>,
    properties: Vec<Option<Properties>>,
    /// How many columns were asked for.
    fetched: Cell<usize>,
}

impl Batch {
    /// Appends a message.
    pub fn push(
        &mut self,
        topic: &str,
        payload: &[u8],
        delivery: Delivery,
        received_at: u64,
        properties: Option<Properties>,
    ) {
        self.topics.append(topic.as_bytes());
        self.payloads.append(payload);
        self.delivery.push(delivery);
        self.received_at.push(received_at);
        self.properties.push(properties);
    }

    #[cfg(test)]
    pub(crate) fn fetched(&self) -> usize {
        self.fetched.get()
    }

    fn fetch<T: Clone>(&self, column: &T) -> T {
        self.fetched.set(self.fetched.get() + 1);
        column.clone()
    }

    pub(crate) fn topics(&self) -> Column {
        self.fetch(&self.topics)
    }

    pub(crate) fn payloads(&self) -> Column {
        self.fetch(&self.payloads)
    }

    pub(crate) fn delivery(&self) -> Vec<Delivery> {
        self.fetch(&self.delivery)
    }

    pub(crate) fn received_at(&self) -> Vec<u64> {
        self.fetch(&self.received_at)
    }

    pub(crate) fn properties(&self, index: u32) -> Option<Properties> {
        self.properties.get(index as usize).cloned().flatten()
    }
}
