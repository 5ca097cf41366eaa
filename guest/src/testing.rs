//! Tests of plugins with plain `cargo test`: no host, no broker, no component.
//!
//! ```
//! # use rivven_plugin_sdk::{Config, Message, Output, Plugin, Result, Verdict};
//! # struct Retained;
//! # impl Plugin for Retained {
//! #     fn new(_: Config) -> Result<Self> { Ok(Self) }
//! #     fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
//! #         if message.retain() { out.drop() } else { out.emit(message.payload()) }
//! #     }
//! # }
//! use rivven_plugin_sdk::testing::{Decision, Harness, Input, Record};
//!
//! let mut plugin = Harness::<Retained>::new("null").unwrap();
//! assert_eq!(plugin.process("a/b", "21.5"), Decision::Emit(vec![Record::new("21.5")]));
//! assert_eq!(plugin.process_message(Input::new("a/b", "21.5").retained()), Decision::Drop);
//! ```

use crate::log::Level;
use crate::memory::{Batch, Memory};
use crate::raw::plugin::exports::rivven::connect::transform::{Results, Verdict};
use crate::raw::plugin::rivven::connect::source::{Column, Delivery};
use crate::{AggregatingPlugin, Config, Plugin, Properties, Qos, Result, runtime};

/// A plugin and a host in memory, which keeps what the plugin logs, counts and stores.
#[derive(Debug)]
pub struct Harness<P> {
    plugin: P,
    host: Memory,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is forwarded unchanged.
    Pass,
    /// It is acknowledged and nothing is written.
    Drop,
    /// These records are written instead.
    Emit(Vec<Record>),
    /// It goes to the dead-letter topic, for this reason.
    Reject(String),
    /// The plugin keeps it for a later flush.
    Hold,
}

/// A record that a plugin wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The destination; none means that of the source.
    pub topic: Option<String>,
    /// The key; none means the one that the source gives the message, or in a flush no key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Vec<u8>,
}

impl Record {
    /// A record with the destination and the key of the source.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { topic: None, key: None, value: value.into() }
    }

    /// The same with a key.
    pub fn key(self, key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same with a destination.
    pub fn topic(self, topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..self }
    }
}

/// A message to test with: QoS 1, not retained, no properties, received at the Unix epoch, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Input {
    topic: String,
    payload: Vec<u8>,
    delivery: Delivery,
    received_at: u64,
    properties: Option<Properties>,
}

impl Input {
    /// A message.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            delivery: Delivery { qos: Qos::AtLeastOnce, retain: false, duplicate: false },
            received_at: 0,
            properties: None,
        }
    }

    /// The same with this quality of service.
    pub fn qos(mut self, qos: Qos) -> Self {
        self.delivery.qos = qos;
        self
    }

    /// The same with RETAIN set.
    pub fn retained(mut self) -> Self {
        self.delivery.retain = true;
        self
    }

    /// The same with DUP set.
    pub fn duplicate(mut self) -> Self {
        self.delivery.duplicate = true;
        self
    }

    /// The same, received so many nanoseconds after the Unix epoch.
    pub fn received_at(mut self, nanoseconds: u64) -> Self {
        self.received_at = nanoseconds;
        self
    }

    /// The same with these properties of MQTT 5.
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = Some(properties);
        self
    }
}

impl<P: Plugin> Harness<P> {
    /// Starts the plugin with its configuration as JSON, `null` for none.
    ///
    /// # Errors
    /// The plugin does not accept the configuration.
    pub fn new(config: &str) -> Result<Self> {
        let mut host = Memory::default();
        let plugin = host.host(|| P::new(Config::new(config)))?;
        Ok(Self { plugin, host })
    }

    /// Processes one message of QoS 1.
    pub fn process(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Decision {
        self.process_message(Input::new(topic, payload.as_ref()))
    }

    /// Processes one message.
    pub fn process_message(&mut self, message: Input) -> Decision {
        let decisions = self.process_batch([message]);
        decisions.into_iter().next().unwrap_or(Decision::Drop)
    }

    /// Processes messages in one call, as the host does when many arrive at once.
    pub fn process_batch(&mut self, messages: impl IntoIterator<Item = Input>) -> Vec<Decision> {
        let mut batch = Batch::default();
        for m in messages {
            batch.push(&m.topic, &m.payload, m.delivery, m.received_at, m.properties);
        }
        decisions(self.host.host(|| runtime::process(&mut self.plugin, &batch)))
    }

    /// The plugin itself.
    pub fn plugin(&self) -> &P {
        &self.plugin
    }

    /// The lines that the plugin logged.
    pub fn logs(&self) -> &[(Level, String)] {
        &self.host.logs
    }

    /// The value of a counter; 0 if the plugin never added to it.
    pub fn counter(&self, name: &str) -> u64 {
        self.host.counters.get(name).copied().unwrap_or_default()
    }

    /// The value of a gauge.
    pub fn gauge(&self, name: &str) -> Option<f64> {
        self.host.gauges.get(name).copied()
    }

    /// The observations of a histogram.
    pub fn histogram(&self, name: &str) -> &[f64] {
        self.host.histograms.get(name).map_or(&[], Vec::as_slice)
    }

    /// A value in the plugin's store.
    pub fn state(&self, key: &str) -> Option<&[u8]> {
        self.host.state.get(key).map(Vec::as_slice)
    }
}

impl<P: AggregatingPlugin> Harness<P> {
    /// Flushes the plugin.
    ///
    /// # Errors
    /// The plugin's `flush` failed: in the host that is a fault.
    pub fn flush(&mut self) -> Result<Vec<Record>> {
        let outputs = self.host.host(|| runtime::flush(&mut self.plugin))?;
        Ok(records(&outputs.topics, &outputs.keys, &outputs.values).collect())
    }
}

/// Columns back to rows.
pub(crate) fn decisions(results: Results) -> Vec<Decision> {
    let Results { verdicts, output_of, topics, keys, values, reasons } = results;
    let mut outputs = output_of.into_iter().zip(records(&topics, &keys, &values)).peekable();
    let mut reasons = reasons.into_iter();
    let decide = |(index, verdict)| match verdict {
        Verdict::Pass => Decision::Pass,
        Verdict::Drop => Decision::Drop,
        Verdict::Hold => Decision::Hold,
        Verdict::Reject => Decision::Reject(reasons.next().map(|(_, reason)| reason).unwrap_or_default()),
        Verdict::Emit => {
            let next = || outputs.next_if(|(of, _)| *of == index).map(|(_, record)| record);
            Decision::Emit(std::iter::from_fn(next).collect())
        }
    };
    (0..).zip(verdicts).map(decide).collect()
}

fn records<'a>(
    topics: &'a Column,
    keys: &'a Column,
    values: &'a Column,
) -> impl Iterator<Item = Record> + 'a {
    fn item(column: &Column, index: usize) -> Option<Vec<u8>> {
        (index < column.ends.len()).then(|| column.item(index).to_vec()).filter(|item| !item.is_empty())
    }
    (0..values.ends.len()).map(move |index| Record {
        topic: item(topics, index).map(|topic| String::from_utf8_lossy(&topic).into_owned()),
        key: item(keys, index),
        value: item(values, index).unwrap_or_default(),
    })
}
