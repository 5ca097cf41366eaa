//! A plugin without any broker: messages in, records out, with the limits and the policies of production. What `plugin test`
//! runs.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::config::{self, BadMessage, Format, Limits, Template, TemplatePart};
use crate::error::{Fault, HostError};
use crate::message::{Batch, Outcome, Outputs, StateWrites};
use crate::metrics::SourceMetrics;
use crate::plugin::{Plugin, PluginHost, Sandbox, SourceDescription, Usage, Worker};
use crate::processor::{Context, Processor, Stop, Transform};
use crate::record::{EventShape, Provenance, Shape};
use crate::sink::FileSink;

/// What stands for the source's own destination in the records of a trial.
pub const DESTINATION: &str = "destination";
/// What stands for the source's dead-letter topic.
pub const DEAD_LETTERS: &str = "dead-letters";

const NAME: &str = "plugin-test";

/// What came of a trial.
#[derive(Debug)]
pub struct Trial {
    /// The records as JSON lines, in the order of the messages.
    pub records: Vec<u8>,
    /// Nanoseconds in the plugin for each message, one for each pass over the messages, in the order of the passes.
    pub nanos: Vec<f64>,
    /// What the plugin used of its limits, over all passes.
    pub usage: Usage,
}

/// Runs `messages` through the component `file`, `passes` times over, and gives back the records of the first pass: forwarded
/// messages with their payload as value and their MQTT topic as key, then what a flush at the end gives. Dead letters do not
/// name the component, so that the records stay the same when it is built anew.
///
/// # Errors
///
/// The plugin cannot be loaded, or does not start again after a fault.
pub fn run(
    file: &Path,
    config: String,
    limits: Limits,
    messages: Batch,
    passes: usize,
) -> Result<Trial, HostError> {
    let settings = config::Plugin {
        name: None,
        path: file.to_owned(),
        sha256: None,
        config,
        secrets: Vec::new(),
        limits,
    };
    let description = SourceDescription {
        connector: concat!("rivven-mqtt ", env!("CARGO_PKG_VERSION")).into(),
        client_id: NAME.into(),
        broker: String::new(),
        subscriptions: vec!["#".into()],
        protocol_version: "5.0".into(),
    };
    let plugin =
        Plugin::load(&Sandbox::of_user()?, &settings, Arc::new(description), PluginHost::new(NAME, &limits))?;

    let records = Memory::default();
    let sink = Arc::new(FileSink::writer(Box::new(records.clone())));
    let (stop, _) = mpsc::unbounded_channel();
    let shape = Shape::new(
        shape(),
        EventShape::default(),
        Provenance { source: NAME.into(), client_id: NAME.into(), broker: String::new(), plugins: vec![] },
        BadMessage::DeadLetter,
        Arc::new(SourceMetrics::default()),
        stop,
    );
    let (back, _settled) = mpsc::unbounded_channel();
    let context = Context::new(Arc::new(shape), BadMessage::DeadLetter, sink, back);
    let usage = Arc::default();
    let measured = Measured { worker: plugin.worker()?, usage: Arc::clone(&usage) };
    let mut processor = Processor::new(Box::new(measured), context);
    let count = messages.len() as f64;
    let mut trial = Trial { records: Vec::new(), nanos: Vec::new(), usage: Usage::default() };
    for pass in 0..passes.max(1) {
        let before = lock(&usage).time;
        processor
            .process(Box::new(messages.clone()))
            .and_then(|()| processor.flush())
            .map_err(|Stop(reason)| HostError::Stopped { name: NAME.into(), reason })?;
        trial.nanos.push((lock(&usage).time - before).as_nanos() as f64 / count);
        let made = records.take();
        if pass == 0 {
            trial.records = made;
        }
    }
    trial.usage = *lock(&usage);
    Ok(trial)
}

/// A worker whose usage can be seen from outside of the processor that has it.
struct Measured {
    worker: Worker,
    usage: Arc<Mutex<Usage>>,
}

impl Transform for Measured {
    fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        let outcome = self.worker.process(batch);
        *lock(&self.usage) = self.worker.usage();
        outcome
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        let outputs = self.worker.flush();
        *lock(&self.usage) = self.worker.usage();
        outputs
    }

    fn publish(&mut self, writes: &mut Vec<StateWrites>) {
        self.worker.publish(writes);
    }

    fn roll_back(&mut self) {
        self.worker.roll_back();
    }

    fn at_a_time(&self) -> usize {
        self.worker.at_a_time()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shape() -> config::Record {
    config::Record {
        topic: Template(vec![TemplatePart::Text(DESTINATION.into())]),
        key: Some(Template(vec![TemplatePart::Topic])),
        format: Format::Raw,
        dead_letter_topic: DEAD_LETTERS.into(),
        partitions: None,
    }
}

#[derive(Debug, Default, Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
