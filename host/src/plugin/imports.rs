//! What a plugin may call: the imports of `rivven:connect`, typed by hand so that columns cross as they are.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower, Resource, ResourceType, WasmList, WasmStr};

use super::guest::Guest;
use super::log::Level;
use super::state::Transaction;
use crate::message::{Flags, Message, QoS};
use crate::properties::parse_properties;

/// The resource `batch`. Its handle is lent for one call, and the messages are those of that call: an instance is never
/// shown two batches at a time, and wasmtime traps when a call keeps its handle.
pub(super) enum BatchHandle {}

/// The WIT's `qos`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
#[allow(clippy::enum_variant_names, reason = "the names of MQTT")]
enum WitQos {
    #[component(name = "at-most-once")]
    AtMostOnce,
    #[component(name = "at-least-once")]
    AtLeastOnce,
    #[component(name = "exactly-once")]
    ExactlyOnce,
}

/// The WIT's `delivery`.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Delivery {
    qos: WitQos,
    retain: bool,
    duplicate: bool,
}

impl From<Flags> for Delivery {
    fn from(flags: Flags) -> Self {
        let qos = match flags.qos() {
            QoS::AtMostOnce => WitQos::AtMostOnce,
            QoS::AtLeastOnce => WitQos::AtLeastOnce,
            QoS::ExactlyOnce => WitQos::ExactlyOnce,
        };
        Delivery { qos, retain: flags.retain(), duplicate: flags.duplicate() }
    }
}

/// The WIT's `properties`.
#[derive(Debug, ComponentType, Lower)]
#[component(record)]
struct Properties {
    #[component(name = "content-type")]
    content_type: Option<String>,
    #[component(name = "response-topic")]
    response_topic: Option<String>,
    #[component(name = "correlation-data")]
    correlation_data: Option<Vec<u8>>,
    #[component(name = "message-expiry")]
    message_expiry: Option<u32>,
    #[component(name = "payload-is-utf8")]
    payload_is_utf8: bool,
    user: Vec<(String, String)>,
}

impl Properties {
    fn of(message: Message<'_>) -> Option<Self> {
        // The driver has checked the block; one that cannot be read would be as good as none.
        let properties = parse_properties(message.properties()?)?;
        Some(Properties {
            content_type: properties.content_type.map(str::to_owned),
            response_topic: properties.response_topic.map(str::to_owned),
            correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
            message_expiry: properties.message_expiry,
            payload_is_utf8: properties.payload_is_utf8,
            user: properties.user.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        })
    }
}

/// The WIT's `message`.
#[derive(Debug, ComponentType, Lower)]
#[component(record)]
struct Row {
    topic: String,
    payload: Vec<u8>,
    delivery: Delivery,
    #[component(name = "received-at")]
    received_at: u64,
    properties: Option<Properties>,
}

impl From<Message<'_>> for Row {
    fn from(message: Message<'_>) -> Self {
        Row {
            topic: message.topic().to_owned(),
            payload: message.payload().to_vec(),
            delivery: message.flags().into(),
            received_at: message.received_at(),
            properties: Properties::of(message),
        }
    }
}

type Store<'a> = StoreContextMut<'a, Guest>;
type Batch = (Resource<BatchHandle>,);

/// Adds everything that the contract lets a plugin import.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    link_source(linker)?;
    link_log(linker)?;
    link_metrics(linker)?;
    link_state(linker)
}

fn link_source(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut source = linker.instance("rivven:connect/source@0.1.0")?;
    source.resource("batch", ResourceType::host::<BatchHandle>(), |_, _| Ok(()))?;
    source.func_wrap("[method]batch.len", |store: Store, _: Batch| Ok((store.data().batch.len() as u32,)))?;
    // A shared column is lowered from where the driver built it: one copy, into the plugin's memory.
    source.func_wrap("[method]batch.topics", |store: Store, _: Batch| {
        Ok((Arc::clone(&store.data().batch.topics),))
    })?;
    source.func_wrap("[method]batch.payloads", |store: Store, _: Batch| {
        Ok((Arc::clone(&store.data().batch.payloads),))
    })?;
    source.func_wrap("[method]batch.delivery", |store: Store, _: Batch| {
        let flags = &store.data().batch.flags;
        Ok((flags.iter().map(|flags| Delivery::from(*flags)).collect::<Vec<_>>(),))
    })?;
    source.func_wrap("[method]batch.received-at", |store: Store, _: Batch| {
        Ok((store.data().batch.received_at.clone(),))
    })?;
    source.func_wrap(
        "[method]batch.properties",
        |store: Store, (_, index): (Resource<BatchHandle>, u32)| {
            let batch = &store.data().batch;
            let message = ((index as usize) < batch.len()).then(|| batch.message(index as usize));
            Ok((message.and_then(Properties::of),))
        },
    )?;
    source.func_wrap("[method]batch.messages", |store: Store, _: Batch| {
        Ok((store.data().batch.messages().map(Row::from).collect::<Vec<_>>(),))
    })?;
    source.func_wrap("describe", |store: Store, (): ()| Ok((Arc::clone(&store.data().source),)))
}

fn link_log(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut log = linker.instance("rivven:connect/log@0.1.0")?;
    log.func_wrap("log", |store: Store, (level, message): (Level, WasmStr)| {
        store.data().log.write(level, &message.to_str(&store)?);
        Ok(())
    })
}

fn link_metrics(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut metrics = linker.instance("rivven:connect/metrics@0.1.0")?;
    metrics.func_wrap("counter-add", |store: Store, (name, value): (WasmStr, u64)| {
        store.data().metrics.add(&name.to_str(&store)?, value);
        Ok(())
    })?;
    metrics.func_wrap("gauge-set", |store: Store, (name, value): (WasmStr, f64)| {
        store.data().metrics.set(&name.to_str(&store)?, value);
        Ok(())
    })?;
    metrics.func_wrap("histogram-record", |store: Store, (name, value): (WasmStr, f64)| {
        store.data().metrics.record(&name.to_str(&store)?, value);
        Ok(())
    })
}

fn link_state(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut state = linker.instance("rivven:connect/state@0.1.0")?;
    state.func_wrap("get", |store: Store, (key,): (WasmStr,)| {
        let key = key.to_str(&store)?;
        Ok((store.data().state.get(&key),))
    })?;
    state.func_wrap("set", |mut store: Store, (key, value): (WasmStr, WasmList<u8>)| {
        // Both lie in the plugin's memory until they have passed the checks of their sizes.
        if let Err(error) = Transaction::check(&key.to_str(&store)?, value.as_le_slice(&store)) {
            return Ok((Err(error),));
        }
        let key = Arc::from(&*key.to_str(&store)?);
        let value = Arc::from(value.as_le_slice(&store));
        Ok((store.data_mut().state.set(key, value),))
    })?;
    state.func_wrap("delete", |mut store: Store, (key,): (WasmStr,)| {
        let key = key.to_str(&store)?.into_owned();
        store.data_mut().state.delete(&key);
        Ok(())
    })
}
