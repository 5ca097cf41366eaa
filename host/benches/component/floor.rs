//! The floor: a core module that is called with raw pointers. No component model, no allocation and no checks in the guest;
//! it trusts fixed buffers. A bound, not a design.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rivven_mqtt::message::{self, Outcome, OutputColumn, Outputs, Verdict};
use wasmtime::{Config, Engine, Instance, Linker, Memory, Module, Store, TypedFunc};

use crate::Workload;
use crate::support::core_module;

/// Epochs between now and the deadline of a call; nobody advances them here.
const DEADLINE: u64 = 1_000_000;

/// How the host writes its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Message by message, from a buffer of each message's own.
    Messages,
    /// Whole columns at once.
    Columns,
}

/// A batch in both forms.
pub struct Batch {
    messages: Vec<(Bytes, Bytes)>,
    columns: message::Batch,
}

impl Batch {
    /// The messages of `batch`.
    pub fn new(batch: &message::Batch) -> Self {
        let message = |message: message::Message<'_>| {
            (Bytes::copy_from_slice(message.topic().as_bytes()), Bytes::copy_from_slice(message.payload()))
        };
        Batch { messages: batch.messages().map(message).collect(), columns: batch.clone() }
    }
}

/// An instance of the floor module.
pub struct Floor {
    form: Input,
    store: Store<()>,
    memory: Memory,
    input: usize,
    output: usize,
    /// (whether to echo, messages, bytes of topics, bytes of payloads) to bytes of values.
    process: TypedFunc<(u32, u32, u32, u32), u32>,
}

impl Floor {
    /// Compiles and starts it, with epochs on as in the plugin host.
    pub fn new(form: Input) -> Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config)?;
        let module = Module::from_file(&engine, core_module("floor_guest")?)?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(DEADLINE);
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module)?;
        let instance = linker.instantiate(&mut store, &module)?;
        let memory = instance.get_memory(&mut store, "memory").context("no memory")?;
        let (input, output) =
            (address(&instance, &mut store, "input")?, address(&instance, &mut store, "output")?);
        let process = instance.get_typed_func(&mut store, "process")?;
        Ok(Floor { form, store, memory, input, output, process })
    }

    /// What becomes of `batch`. The module parses nothing, so it has no answer to [`Workload::Json`].
    pub fn process(&mut self, workload: Workload, batch: &Batch) -> Result<Outcome> {
        self.store.set_epoch_deadline(DEADLINE);
        let messages = batch.messages.len();
        let with_payloads = workload != Workload::Topics;
        let input = &mut self.memory.data_mut(&mut self.store)[self.input..];
        let (topics, payloads) = match self.form {
            Input::Messages => write_messages(input, &batch.messages, with_payloads),
            Input::Columns => write_columns(input, &batch.columns, with_payloads),
        };
        let echo = u32::from(workload == Workload::Echo);
        let call = (echo, messages as u32, topics as u32, payloads as u32);
        let bytes = self.process.call(&mut self.store, call)? as usize;
        let output = &self.memory.data(&self.store)[self.output..];
        read(output, messages, bytes)
    }
}

/// Layout of the input: ends of topics, ends of payloads, topics, payloads. Returns the bytes of topics and of payloads.
fn write_messages(input: &mut [u8], messages: &[(Bytes, Bytes)], with_payloads: bool) -> (usize, usize) {
    let n = messages.len();
    let topics_at = n * 8;
    let payloads_at = topics_at + messages.iter().map(|(topic, _)| topic.len()).sum::<usize>();
    let (mut topics, mut payloads) = (0, 0);
    for (i, (topic, payload)) in messages.iter().enumerate() {
        input[topics_at + topics..][..topic.len()].copy_from_slice(topic);
        topics += topic.len();
        input[i * 4..][..4].copy_from_slice(&(topics as u32).to_le_bytes());
        if with_payloads {
            input[payloads_at + payloads..][..payload.len()].copy_from_slice(payload);
            payloads += payload.len();
        }
        input[(n + i) * 4..][..4].copy_from_slice(&(payloads as u32).to_le_bytes());
    }
    (topics, payloads)
}

/// The same from columns.
fn write_columns(input: &mut [u8], batch: &message::Batch, with_payloads: bool) -> (usize, usize) {
    let n = batch.len();
    let mut write_ends = |at: usize, ends: &[u32]| {
        for (to, end) in input[at..].chunks_exact_mut(4).zip(ends) {
            to.copy_from_slice(&end.to_le_bytes());
        }
    };
    write_ends(0, &batch.topics.ends);
    if with_payloads {
        write_ends(n * 4, &batch.payloads.ends);
    } else {
        input[n * 4..n * 8].fill(0);
    }
    let topics = &batch.topics.data;
    input[n * 8..][..topics.len()].copy_from_slice(topics);
    let payloads: &[u8] = if with_payloads { &batch.payloads.data } else { &[] };
    input[n * 8 + topics.len()..][..payloads.len()].copy_from_slice(payloads);
    (topics.len(), payloads.len())
}

/// Layout of the output: verdicts, ends of values from the next multiple of four on, values.
fn read(output: &[u8], messages: usize, bytes: usize) -> Result<Outcome> {
    let verdict = |code: &u8| match code {
        0 => Ok(Verdict::Pass),
        1 => Ok(Verdict::Drop),
        2 => Ok(Verdict::Emit),
        other => anyhow::bail!("verdict {other}"),
    };
    let verdicts = output[..messages].iter().map(verdict).collect::<Result<Vec<_>>>()?;
    let mut outputs = Outputs::default();
    if bytes > 0 {
        ensure!(verdicts.iter().all(|verdict| *verdict == Verdict::Emit), "only some messages are echoed");
        let ends_at = messages.next_multiple_of(4);
        let ends = output[ends_at..].chunks_exact(4).take(messages);
        let ends = ends.map(|end| u32::from_le_bytes([end[0], end[1], end[2], end[3]])).collect();
        let data = Bytes::copy_from_slice(&output[ends_at + messages * 4..][..bytes]);
        outputs.of = (0..messages as u32).collect();
        outputs.values = OutputColumn { data, ends };
    }
    Ok(Outcome { verdicts, outputs, ..Outcome::default() })
}

fn address(instance: &Instance, store: &mut Store<()>, name: &str) -> Result<usize> {
    let function: TypedFunc<(), u32> = instance.get_typed_func(&mut *store, name)?;
    Ok(function.call(store, ())? as usize)
}
