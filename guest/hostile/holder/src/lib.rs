//! A plugin that holds every message and gives it back as a record, but badly if one of them says so: `flush-trap` panics in
//! `flush`, `flush-spin` never comes back, `flush-falling-ends` and `flush-spare-key` break the rules of columns, and
//! `trap` panics while others are held.
#![cfg(target_arch = "wasm32")]
#![allow(clippy::panic, reason = "that is what it is for")]

use std::cell::RefCell;

use rivven_plugin_sdk::raw::{aggregate, plugin};

use aggregate::exports::rivven::connect::aggregate::Outputs;
use plugin::exports::rivven::connect::transform::{Results, Verdict};
use plugin::rivven::connect::source::{Batch, Column};

thread_local! {
    static HELD: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

struct Holder;

impl plugin::exports::rivven::connect::transform::Guest for Holder {
    fn init(_config: String) -> Result<(), String> {
        Ok(())
    }

    fn process(batch: &Batch) -> Results {
        let messages = batch.messages();
        let verdicts = vec![Verdict::Hold; messages.len()];
        for message in messages {
            if message.payload == b"trap" {
                panic!("trapped, as the message said");
            }
            HELD.with_borrow_mut(|held| held.push(message.payload));
        }
        Results {
            verdicts,
            output_of: vec![],
            topics: empty(),
            keys: empty(),
            values: empty(),
            reasons: vec![],
        }
    }
}

impl aggregate::exports::rivven::connect::aggregate::Guest for Holder {
    fn flush() -> Outputs {
        let held = HELD.take();
        let told = |what: &[u8]| held.iter().any(|payload| payload == what);
        if told(b"flush-trap") {
            panic!("trapped in flush, as a message said");
        }
        if told(b"flush-spin") {
            loop {
                std::hint::spin_loop();
            }
        }
        let mut outputs = Outputs { topics: empty(), keys: empty(), values: empty() };
        for payload in &held {
            outputs.values.data.extend_from_slice(payload);
            outputs.values.ends.push(outputs.values.data.len() as u32);
        }
        if told(b"flush-falling-ends") {
            outputs.values.ends = vec![1, 0];
        }
        if told(b"flush-spare-key") {
            outputs.keys = Column { data: vec![], ends: vec![0; held.len() + 1] };
        }
        outputs
    }
}

fn empty() -> Column {
    Column { data: Vec::new(), ends: Vec::new() }
}

plugin::export_transform!(Holder with_types_in plugin);
aggregate::export_aggregate!(Holder with_types_in aggregate);
