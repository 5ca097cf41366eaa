//! Records as the `file` and `stdout` sinks and `plugin test` write them.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Destination topic.
    pub topic: String,
    /// Key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Vec<u8>,
}

impl Line {
    /// A record with a key, both of text.
    pub fn new(topic: &str, key: &str, value: &str) -> Self {
        Line { topic: topic.to_owned(), key: Some(key.into()), value: value.into() }
    }

    /// The value as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.value)
            .with_context(|| format!("not JSON: {:?}", String::from_utf8_lossy(&self.value)))
    }
}

/// Reads lines of JSON; an error names the one that is no record.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    text.lines().map(|line| record(line).with_context(|| format!("not a record: {line}"))).collect()
}

fn record(line: &str) -> Result<Line> {
    let value: Value = serde_json::from_str(line)?;
    let fields = value.as_object().context("no JSON object")?;
    for name in fields.keys() {
        if !["topic", "key", "key_base64", "value", "value_base64"].contains(&name.as_str()) {
            bail!("an unknown field {name}");
        }
    }
    Ok(Line {
        topic: fields.get("topic").and_then(Value::as_str).context("no topic")?.to_owned(),
        key: bytes(&value, "key")?,
        value: bytes(&value, "value")?.context("no value")?,
    })
}

/// A field that is text, or base64 under its other name.
fn bytes(record: &Value, name: &str) -> Result<Option<Vec<u8>>> {
    match (&record[name], &record[format!("{name}_base64")]) {
        (Value::String(text), Value::Null) => Ok(Some(text.clone().into_bytes())),
        (Value::Null, Value::String(base64)) => Ok(Some(STANDARD.decode(base64)?)),
        (Value::Null, Value::Null) => Ok(None),
        other => bail!("neither text nor base64: {name} is {other:?}"),
    }
}
