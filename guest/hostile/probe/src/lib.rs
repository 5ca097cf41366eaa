//! A plugin that gives back all that the host tells it about a message, so that a test can compare: one record for each
//! message, with the debug format of its row. The payload `describe` asks for the description of the source instead, and
//! `columns` asks for the same row, put together from the columns.
//!
//! `keep-handle` remembers the number of the batch's handle; `use-handle` uses that number as if it were a batch, and
//! `use-other-handle` the next one.
#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code, reason = "a handle that was not given to it")]

use std::cell::Cell;
use std::mem::ManuallyDrop;

use rivven_plugin_sdk::raw::plugin as raw;

use raw::exports::rivven::connect::transform::{Guest, Results, Verdict};
use raw::rivven::connect::source::{Batch, Column, Message, describe};

thread_local! {
    static KEPT: Cell<u32> = const { Cell::new(0) };
}

struct Probe;

impl Guest for Probe {
    fn init(_config: String) -> Result<(), String> {
        // May be called here too.
        if describe().connector.is_empty() { Err("the connector has no name".to_owned()) } else { Ok(()) }
    }

    fn process(batch: &Batch) -> Results {
        let messages = batch.messages();
        let mut values = empty();
        for (index, message) in messages.iter().enumerate() {
            let said = match message.payload.as_slice() {
                b"describe" => format!("{:?}", describe()),
                b"columns" => format!("{:?}", from_columns(batch, index)),
                b"keep-handle" => {
                    KEPT.set(batch.handle());
                    "kept".to_owned()
                }
                b"use-handle" => stale(KEPT.get()),
                b"use-other-handle" => stale(KEPT.get() + 1),
                _ => format!("{message:?}"),
            };
            values.data.extend_from_slice(said.as_bytes());
            values.ends.push(values.data.len() as u32);
        }
        Results {
            verdicts: vec![Verdict::Emit; messages.len()],
            output_of: (0..messages.len() as u32).collect(),
            topics: empty(),
            keys: empty(),
            values,
            reasons: vec![],
        }
    }
}

/// The topics of a batch whose handle is not ours.
fn stale(handle: u32) -> String {
    // SAFETY: that the host answers this with a trap, or with the batch of the running call, is what is tested.
    let batch = ManuallyDrop::new(unsafe { Batch::from_handle(handle) });
    String::from_utf8_lossy(&batch.topics().data).into_owned()
}

fn from_columns(batch: &Batch, index: usize) -> Message {
    let item = |column: Column| {
        let start = index.checked_sub(1).map_or(0, |before| column.ends[before]);
        column.data[start as usize..column.ends[index] as usize].to_vec()
    };
    assert_eq!(batch.len() as usize, batch.delivery().len());
    assert!(batch.properties(batch.len()).is_none());
    Message {
        topic: String::from_utf8(item(batch.topics())).unwrap_or_default(),
        payload: item(batch.payloads()),
        delivery: batch.delivery()[index],
        received_at: batch.received_at()[index],
        properties: batch.properties(index as u32),
    }
}

fn empty() -> Column {
    Column { data: Vec::new(), ends: Vec::new() }
}

raw::export_transform!(Probe with_types_in raw);
