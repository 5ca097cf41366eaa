//! Compares what came out of Rivven with what the devices published, record by record.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::fleet;
use crate::rivven::Record;

/// The difference between what is in Rivven and what should be there; all zero when nothing is wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Records that are right: a reading over the threshold, its payload untouched, its topic as the key.
    pub right: u64,
    /// Readings over the threshold that have no record.
    pub missing: u64,
    /// Records of a reading that has one already.
    pub twice: u64,
    /// Records that nobody published, that should have been dropped, or whose content changed.
    pub wrong: u64,
    /// Records that come before an earlier reading of the same device.
    pub out_of_order: u64,
}

impl Audit {
    /// Whether everything is as it should be.
    pub fn passed(&self) -> bool {
        *self == Audit { right: self.right, ..Audit::default() }
    }
}

/// The parts of a record's value that the demo looks at.
#[derive(Deserialize)]
struct Event<'a> {
    topic: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The number of a reading.
#[derive(Deserialize)]
struct Numbered {
    reading: u64,
}

/// Compares `records` with what the fleet published.
pub fn audit(records: &[Record]) -> Audit {
    let mut expected = fleet::expected();
    let mut seen = HashSet::new();
    let mut newest = HashMap::new();
    let mut audit = Audit::default();
    for record in records {
        let Ok((topic, number, payload)) = read(record) else {
            audit.wrong += 1;
            continue;
        };
        let reading = (topic, number);
        let last = newest.insert(reading.0.clone(), number);
        audit.out_of_order += u64::from(last.is_some_and(|last| last > number));
        if !seen.insert(reading.clone()) {
            audit.twice += 1;
        } else if record.key == reading.0
            && expected.get(&reading).is_some_and(|published| *published == payload)
        {
            audit.right += 1;
            expected.remove(&reading);
        } else {
            audit.wrong += 1;
        }
    }
    audit.missing = expected.len() as u64;
    audit
}

/// MQTT topic, number and payload of a record.
fn read(record: &Record) -> Result<(String, u64, String)> {
    let event: Event<'_> = serde_json::from_slice(&record.value).context("not an event")?;
    let payload = event.payload.get().to_owned();
    let numbered: Numbered = serde_json::from_str(&payload).context("not a reading")?;
    Ok((event.topic, numbered.reading, payload))
}
