//! What becomes of messages: verdicts and records, written straight into the columns that go back.

use crate::message::Columns;
use crate::raw::aggregate::exports::rivven::connect::aggregate::Outputs;
use crate::raw::plugin::exports::rivven::connect::transform::{Results, Verdict as Raw};
use crate::raw::plugin::rivven::connect::source::Column;
use crate::{AggregatingPlugin, Error, Result};

/// What becomes of a message. Only the methods of [`Output`] make one.
#[derive(Debug)]
#[must_use = "return it from `process`"]
pub struct Verdict(Raw);

/// How a plugin answers: each method but [`records`](Self::records) is the last word about one message, to be returned
/// from [`process`](crate::Plugin::process).
pub struct Output<'a> {
    records: Records<'a>,
}

impl<'a> Output<'a> {
    #[inline]
    pub(crate) fn new(writer: &'a mut Writer, columns: &'a Columns<'a>, index: usize) -> Self {
        Self { records: Records { writer, columns: Some(columns), message: index as u32 } }
    }

    /// Forwards the message unchanged, in the format of the source. Nothing is copied back.
    #[inline]
    pub fn pass(self) -> Result<Verdict> {
        Ok(Verdict(Raw::Pass))
    }

    /// Drops the message: it is acknowledged and nothing is written.
    #[inline]
    pub fn drop(self) -> Result<Verdict> {
        Ok(Verdict(Raw::Drop))
    }

    /// Sends the message to the dead-letter topic. `?` on any error does the same with that error as the reason.
    pub fn reject(self, reason: impl Into<String>) -> Result<Verdict> {
        Err(Error::new(reason))
    }

    /// Writes one record instead of the message: bytes, [`Json`], or a [`Record`] with a key or a topic of its own.
    ///
    /// # Errors
    /// The value cannot be written as JSON. Bytes never fail.
    #[inline]
    pub fn emit(mut self, record: impl Emit) -> Result<Verdict> {
        self.records.emit(record)?;
        self.records.done()
    }

    /// Writes any number of records instead of the message, which is acknowledged when all of them are committed.
    #[inline]
    pub fn records(self) -> Records<'a> {
        self.records
    }

    /// Keeps the message in the plugin's own memory, to be given back in a later
    /// [`flush`](AggregatingPlugin::flush). It is acknowledged when the records of that flush are committed, so nothing is
    /// lost if the plugin or the host ends before: the broker sends it again. The holder is `self`, of the type that is
    /// exported with `export!(aggregating ...)`.
    #[inline]
    pub fn hold<P: AggregatingPlugin>(self, _holder: &P) -> Result<Verdict> {
        Ok(Verdict(Raw::Hold))
    }
}

/// A writer of records.
pub struct Records<'a> {
    writer: &'a mut Writer,
    /// The batch whose size tells how much will be written; none in a flush.
    columns: Option<&'a Columns<'a>>,
    message: u32,
}

impl Records<'_> {
    pub(crate) fn of_flush(writer: &mut Writer) -> Records<'_> {
        Records { writer, columns: None, message: 0 }
    }

    /// Writes one record: bytes, [`Json`], or a [`Record`] with a key or a topic of its own.
    ///
    /// # Errors
    /// The value cannot be written as JSON; the record is left out. Bytes never fail.
    #[inline]
    pub fn emit(&mut self, record: impl Emit) -> Result<()> {
        record.emit(self)
    }

    /// The verdict that these records are written instead of the message. None at all is allowed.
    #[inline]
    pub fn done(self) -> Result<Verdict> {
        Ok(Verdict(Raw::Emit))
    }

    #[inline]
    fn write(&mut self, topic: &str, key: &[u8], value: impl Value) -> Result<()> {
        let writer = &mut *self.writer;
        if writer.output_of.capacity() == 0 {
            writer.reserve(self.columns);
        }
        let start = writer.values.data.len();
        if let Err(error) = value.append_to(&mut writer.values.data) {
            writer.values.data.truncate(start);
            return Err(error);
        }
        writer.values.end_item();
        let (index, expected) = (writer.output_of.len(), writer.output_of.capacity());
        writer.topics.append_sparse(index, expected, topic.as_bytes());
        writer.keys.append_sparse(index, expected, key);
        writer.output_of.push(self.message);
        Ok(())
    }
}

/// A record to write: a value, and optionally a key and a destination of its own.
///
/// ```
/// # use rivven_plugin_sdk::Record;
/// let record = Record::new(b"21.5").key("sensor-7").topic("celsius");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Record<'a, V> {
    topic: &'a str,
    key: &'a [u8],
    value: V,
}

impl<V: Value> Record<'_, V> {
    /// A record with this value: bytes, text, or [`Json`]. It goes to the destination of the source, with the key that the
    /// source gives the message.
    #[inline]
    pub fn new(value: V) -> Self {
        Self { topic: "", key: &[], value }
    }
}

impl<'a, V> Record<'a, V> {
    /// Sets the key. An empty one means the key that the source gives the message; in a flush, no key.
    #[inline]
    pub fn key<K: AsRef<[u8]> + ?Sized>(self, key: &'a K) -> Self {
        Self { key: key.as_ref(), ..self }
    }

    /// Sets the Rivven topic. An empty one means the destination of the source.
    #[inline]
    pub fn topic(self, topic: &'a str) -> Self {
        Self { topic, ..self }
    }
}

/// What the value of a record can be: anything that is bytes (`&[u8]`, `&str`, `Vec<u8>`, `String`) and [`Json`].
pub trait Value {
    /// Appends the value to the values of the batch.
    ///
    /// # Errors
    /// It has no form as bytes.
    fn append_to(self, values: &mut Vec<u8>) -> Result<()>;
}

impl<T: AsRef<[u8]>> Value for T {
    #[inline]
    fn append_to(self, values: &mut Vec<u8>) -> Result<()> {
        values.extend_from_slice(self.as_ref());
        Ok(())
    }
}

/// Written as JSON, straight into the record: `out.emit(Json(&reading))`.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(
    /// The value to serialize.
    pub T,
);

#[cfg(feature = "json")]
impl<T: serde::Serialize> Value for Json<T> {
    #[inline]
    fn append_to(self, values: &mut Vec<u8>) -> Result<()> {
        Ok(serde_json::to_writer(values, &self.0)?)
    }
}

/// What can be emitted: a [`Value`] by itself, or a [`Record`].
pub trait Emit {
    /// Writes the record.
    ///
    /// # Errors
    /// Its value has no form as bytes.
    fn emit(self, records: &mut Records<'_>) -> Result<()>;
}

impl<V: Value> Emit for V {
    #[inline]
    fn emit(self, records: &mut Records<'_>) -> Result<()> {
        records.write("", &[], self)
    }
}

impl<V: Value> Emit for Record<'_, V> {
    #[inline]
    fn emit(self, records: &mut Records<'_>) -> Result<()> {
        records.write(self.topic, self.key, self.value)
    }
}

/// The columns of the results, while they are written.
pub(crate) struct Writer {
    verdicts: Vec<Raw>,
    output_of: Vec<u32>,
    topics: Column,
    keys: Column,
    values: Column,
    reasons: Vec<(u32, String)>,
}

impl Writer {
    /// For so many messages; records take memory when there is a first.
    pub(crate) fn new(messages: usize) -> Self {
        Self {
            verdicts: Vec::with_capacity(messages),
            output_of: Vec::new(),
            topics: Column::default(),
            keys: Column::default(),
            values: Column::default(),
            reasons: Vec::new(),
        }
    }

    /// Makes room for as many records as there are messages, with the size of their payloads.
    #[cold]
    fn reserve(&mut self, columns: Option<&Columns<'_>>) {
        let (records, bytes) = columns.map_or((0, 0), |columns| (columns.len(), columns.payload_bytes()));
        self.output_of.reserve(records);
        self.values.ends.reserve(records);
        self.values.data.reserve(bytes);
    }

    /// Writes down what was decided about the next message.
    #[inline]
    pub(crate) fn decide(&mut self, decision: Result<Verdict>) {
        match decision {
            Ok(Verdict(verdict)) => self.verdicts.push(verdict),
            Err(error) => self.reject(error),
        }
    }

    /// Rejects the next message. Records that were written before it went wrong are taken back.
    #[cold]
    fn reject(&mut self, error: Error) {
        let message = self.verdicts.len() as u32;
        while self.output_of.last() == Some(&message) {
            self.output_of.pop();
        }
        let kept = self.output_of.len();
        self.values.truncate(kept);
        self.topics.truncate(kept);
        self.keys.truncate(kept);
        self.reasons.push((message, error.into_reason()));
        self.verdicts.push(Raw::Reject);
    }

    pub(crate) fn into_results(self) -> Results {
        let Self { verdicts, output_of, topics, keys, values, reasons } = self;
        Results { verdicts, output_of, topics, keys, values, reasons }
    }

    pub(crate) fn into_outputs(self) -> Outputs {
        let Self { topics, keys, values, .. } = self;
        Outputs { topics, keys, values }
    }
}
