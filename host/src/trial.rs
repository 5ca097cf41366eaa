//! A plugin without any broker: messages in, records out, with the limits and the policies of production. What `plugin test`
//! runs.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::{self, BadMessage, Format, Limits, Template, TemplatePart};
use crate::error::HostError;
use crate::message::Batch;
use crate::metrics::SourceMetrics;
use crate::plugin::{Plugin, PluginHost, Sandbox, SourceDescription};
use crate::processor::{Context, Processor, Stop};
use crate::record::{EventShape, PluginName, Provenance, Shape};
use crate::sink::FileSink;

/// What stands for the source's own destination in the records of a trial.
pub const DESTINATION: &str = "destination";
/// What stands for the source's dead-letter topic.
pub const DEAD_LETTERS: &str = "dead-letters";

const NAME: &str = "plugin-test";

/// Runs `messages` through the component `file` and gives back the records as JSON lines: forwarded messages with their payload
/// as value and their MQTT topic as key, then what a flush at the end gives.
///
/// # Errors
///
/// The plugin cannot be loaded, or does not start again after a fault.
pub fn run(file: &Path, config: String, messages: Batch) -> Result<Vec<u8>, HostError> {
    let limits = Limits::default();
    let settings = config::Plugin {
        path: file.to_owned(),
        sha256: None,
        config,
        workers: 1,
        limits,
        flush_interval: Duration::MAX,
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
        provenance(&plugin),
        BadMessage::DeadLetter,
        Arc::new(SourceMetrics::default()),
        stop,
    );
    let (back, _settled) = mpsc::unbounded_channel();
    let context = Context::new(Arc::new(shape), BadMessage::DeadLetter, sink, back);
    let mut processor = Processor::new(Box::new(plugin.worker()?), context);
    processor
        .process(Box::new(messages))
        .and_then(|()| processor.flush())
        .map_err(|Stop(reason)| HostError::Stopped { name: NAME.into(), reason })?;
    Ok(records.take())
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

fn provenance(plugin: &Plugin) -> Provenance {
    let plugin = PluginName { name: plugin.name().into(), sha256: plugin.sha256_hex().into() };
    Provenance { source: NAME.into(), client_id: NAME.into(), broker: String::new(), plugin: Some(plugin) }
}

#[derive(Debug, Default, Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
