//! What a record looks like: topic, key and value of forwarded messages, plugin outputs and dead letters.
//!
//! A [`Record`] is a borrowed view of one record of a delivery, so that a sink can queue the delivery and make the bytes when
//! it writes them.

mod json;
mod template;

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::{self, BadMessage, Format};
use crate::delivery::{Delivery, Origin, Stage};
use crate::message::Message;
use crate::metrics::SourceMetrics;

pub(crate) use json::MAX_REASON;
pub use json::{EventShape, write_jsonl};
pub use template::{MAX_TOPIC, is_legal_topic};

/// Where the messages of a source come from, as events and dead letters say it.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Name of the source in the configuration.
    pub source: String,
    /// The MQTT client identifier.
    pub client_id: String,
    /// Host and port of the MQTT broker, without credentials.
    pub broker: String,
    /// The plugins that the messages go through, in this order.
    pub plugins: Vec<PluginName>,
}

/// Which plugin it was, for dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginName {
    /// The name of the component's file, without its extension.
    pub name: String,
    /// SHA-256 of the component, in hexadecimal.
    pub sha256: String,
}

/// How the records of one source are made, and who hears about them.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Destination, key, format.
    pub record: config::Record,
    /// What the JSON event of a forwarded message looks like.
    pub events: EventShape,
    /// Where the messages come from.
    pub from: Provenance,
    /// What happens to a record that the sink can never take.
    pub on_fault: BadMessage,
    /// The source's counts.
    pub metrics: Arc<SourceMetrics>,
    /// Receives the reason when a record can never be taken and `on_fault` is [`BadMessage::Stop`]. The delivery is then never
    /// settled.
    pub stop: mpsc::UnboundedSender<String>,
}

impl Shape {
    /// The shape of a source's records.
    pub fn new(
        record: config::Record,
        events: EventShape,
        from: Provenance,
        on_fault: BadMessage,
        metrics: Arc<SourceMetrics>,
        stop: mpsc::UnboundedSender<String>,
    ) -> Self {
        Shape { record, events, from, on_fault, metrics, stop }
    }

    /// The same with other plugins.
    pub fn with_plugins(&self, plugins: Vec<PluginName>) -> Self {
        let from = Provenance { plugins, ..self.from.clone() };
        Shape { from, ..self.clone() }
    }
}

/// One record of a delivery, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    delivery: &'a Delivery,
    what: What<'a>,
}

#[derive(Debug, Clone, Copy)]
enum What<'a> {
    /// Forwarded.
    Message(Message<'a>),
    /// Emitted for a message, or for none by a flush.
    Output(usize, Option<Message<'a>>),
    /// What could not go its way: a message, or an output of a flush.
    DeadLetter(DeadLetter<'a>),
}

#[derive(Debug, Clone, Copy)]
struct DeadLetter<'a> {
    message: Option<Message<'a>>,
    output: Option<usize>,
    stage: Stage,
    reason: &'a str,
    plugin: Option<usize>,
    /// Why it goes without its payload, if it does.
    omitted: Option<&'static str>,
}

impl<'a> Record<'a> {
    /// The record that `origin` stands for.
    pub fn new(delivery: &'a Delivery, origin: Origin) -> Self {
        let what = match origin {
            Origin::Message(index) => match message(delivery, index) {
                Some(message) => What::Message(message),
                None => What::Output(usize::MAX, None),
            },
            Origin::Output(index) => What::Output(index as usize, message_of(delivery, index)),
            Origin::DeadLetter(index) => match delivery.dead_letters.get(index as usize) {
                Some(letter) => What::DeadLetter(DeadLetter {
                    message: message(delivery, letter.message),
                    output: None,
                    stage: letter.stage,
                    reason: &letter.reason,
                    plugin: letter.plugin,
                    omitted: None,
                }),
                None => What::Output(usize::MAX, None),
            },
        };
        Record { delivery, what }
    }

    /// The dead letter of the record that `origin` stands for, because the sink can never take it. It is about the MQTT
    /// message; an output of a flush has none, so its dead letter carries the output itself.
    pub fn refused(delivery: &'a Delivery, origin: Origin, reason: &'a str) -> Self {
        let (message, output) = match origin {
            Origin::Message(index) => (message(delivery, index), None),
            Origin::Output(index) => match message_of(delivery, index) {
                None => (None, Some(index as usize)),
                message => (message, None),
            },
            Origin::DeadLetter(_) => return Record::new(delivery, origin),
        };
        let letter = DeadLetter { message, output, stage: Stage::Sink, reason, plugin: None, omitted: None };
        Record { delivery, what: What::DeadLetter(letter) }
    }

    /// The same dead letter without its payload, for a server that refuses it whole. Any other record stays as it is.
    pub fn without_payload(mut self) -> Self {
        if let What::DeadLetter(letter) = &mut self.what {
            letter.omitted = Some("Rivven refuses the dead letter with it");
        }
        self
    }

    /// The index of the message that the record is about; none for an output of a flush.
    pub fn message(&self) -> Option<u32> {
        let message = match self.what {
            What::Message(message) => Some(message),
            What::Output(_, message) | What::DeadLetter(DeadLetter { message, .. }) => message,
        };
        message.map(|message| message.index() as u32)
    }

    /// The Rivven topic.
    ///
    /// # Errors
    ///
    /// A sentence that says why there is no legal one: the plugin named an illegal topic, or none where there is no MQTT topic
    /// to make one from. Such a record can never be taken.
    pub fn topic(&self) -> Result<Cow<'a, str>, String> {
        let shape = &self.delivery.shape.record;
        let message = match self.what {
            What::DeadLetter(_) => return Ok(Cow::Borrowed(&shape.dead_letter_topic)),
            What::Message(message) => Some(message),
            What::Output(index, message) => {
                let own = self.delivery.outcome.outputs.topics.get(index);
                if !own.is_empty() {
                    return match std::str::from_utf8(own) {
                        Ok(topic) if is_legal_topic(topic) => Ok(Cow::Borrowed(topic)),
                        _ => Err(illegal_topic(own)),
                    };
                }
                message
            }
        };
        match message {
            Some(message) => Ok(shape.topic.rivven_topic(message.topic())),
            None => shape.topic.fixed().map(Cow::Borrowed).ok_or_else(|| {
                "the plugin's flush named no topic for this output, and the source's topic is a template over \
                 the MQTT topic: let the plugin name one"
                    .to_owned()
            }),
        }
    }

    /// The record key.
    pub fn key(&self) -> Option<Cow<'a, [u8]>> {
        if let What::Output(index, _) = self.what {
            let own = self.delivery.outcome.outputs.keys.get(index);
            if !own.is_empty() {
                return Some(Cow::Borrowed(own));
            }
        }
        let template = self.delivery.shape.record.key.as_ref()?;
        let message = match self.what {
            What::Message(message) => message,
            What::Output(_, message) | What::DeadLetter(DeadLetter { message, .. }) => message?,
        };
        Some(match template.render(message.topic()) {
            Cow::Borrowed(key) => Cow::Borrowed(key.as_bytes()),
            Cow::Owned(key) => Cow::Owned(key.into_bytes()),
        })
    }

    /// Appends the record's value to `out`.
    pub fn value(&self, out: &mut Vec<u8>) {
        match self.what {
            What::Message(message) => match self.delivery.shape.record.format {
                Format::Raw => out.extend_from_slice(message.payload()),
                Format::Json => {
                    let id = json::sequence(self.delivery, message.index());
                    self.delivery.shape.events.write(message, id, self.delivery.batch.oversized, out);
                }
            },
            What::Output(index, _) => out.extend_from_slice(self.delivery.outcome.outputs.values.get(index)),
            What::DeadLetter(DeadLetter { message, output, stage, reason, plugin, omitted }) => {
                let payload = match (message, output) {
                    (Some(message), _) => message.payload(),
                    (None, Some(output)) => self.delivery.outcome.outputs.values.get(output),
                    (None, None) => &[],
                };
                let failed = json::Failed { message, payload, omitted, stage, reason, plugin };
                json::dead_letter(&self.delivery.shape, self.delivery.batch.oversized, &failed, out);
            }
        }
    }

    /// About how many bytes key and value will be: for cutting batches, not for limits.
    pub fn size_hint(&self) -> usize {
        match self.what {
            What::Message(message) => message.payload().len() + 2 * message.topic().len() + 256,
            What::Output(index, message) => {
                let outputs = &self.delivery.outcome.outputs;
                let key = match outputs.keys.get(index) {
                    [] => message.map_or(0, |message| message.topic().len()),
                    own => own.len(),
                };
                outputs.values.get(index).len() + key + 64
            }
            What::DeadLetter(DeadLetter { message, output, reason, .. }) => {
                let output = output.map_or(0, |index| self.delivery.outcome.outputs.values.get(index).len());
                let of_message = |message: Message<'_>| {
                    let properties = message.properties().map_or(0, <[u8]>::len);
                    message.payload().len() + 2 * (message.topic().len() + properties)
                };
                message.map_or(output, of_message) * 4 / 3 + reason.len() + 512
            }
        }
    }
}

fn message(delivery: &Delivery, index: u32) -> Option<Message<'_>> {
    let index = index as usize;
    (index < delivery.batch.len()).then(|| delivery.batch.message(index))
}

fn message_of(delivery: &Delivery, output: u32) -> Option<Message<'_>> {
    message(delivery, *delivery.outcome.outputs.of.get(output as usize)?)
}

fn illegal_topic(topic: &[u8]) -> String {
    let shown = topic.get(..MAX_TOPIC).unwrap_or(topic).escape_ascii();
    format!(
        "the plugin named the topic `{shown}`, which Rivven does not take (expected 1 to {MAX_TOPIC} of A-Z, a-z, 0-9, \
         `.`, `_` and `-`, a letter or digit first, no `..`)"
    )
}

#[cfg(test)]
pub(crate) mod tests;
