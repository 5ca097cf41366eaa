//! What the demo says in the end.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use rivven_mqtt::metrics::Ledger;

use crate::audit::Audit;
use crate::progress::Stage;
use crate::rivven::Record;

/// Records that are shown.
const SAMPLES: usize = 3;

/// Prints a few of the records, as they are in Rivven.
pub fn print_samples(records: &[Record]) {
    println!("\n{} records. Some of them:\n", records.len());
    for record in records.iter().step_by((records.len() / SAMPLES).max(1)).take(SAMPLES) {
        println!("    {} => {}", record.key, String::from_utf8_lossy(&record.value));
    }
}

/// Prints what happened at each stage.
pub fn print_table(stages: &[Stage], ledger: &Ledger, audit: &Audit) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["stage", "messages", "per second"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for stage in stages {
        table.add_row([stage.name.to_owned(), stage.count.to_string(), format!("{:.0}", stage.rate())]);
    }
    table.add_row(["dead letters", &ledger.settled.dead_lettered.to_string(), ""]);
    table.add_row(["read back and found right", &audit.right.to_string(), ""]);
    println!("\n{table}\n");
}

/// Prints the loss equation and what the comparison found. Returns whether every message is accounted for.
pub fn print_verdict(published: u64, ledger: &Ledger, audit: &Audit) -> bool {
    let settled = &ledger.settled;
    println!(
        "received {} = committed {} + dropped {} + dead-lettered {} + in flight {}",
        ledger.received,
        settled.committed,
        settled.dropped,
        settled.dead_lettered,
        ledger.in_flight()
    );
    let balanced = ledger.received == published && settled.total() == published;
    let accounted =
        balanced && settled.dead_lettered == 0 && audit.passed() && audit.right == settled.committed;
    if accounted {
        println!(
            "Every one of the {published} published messages is accounted for: none lost, none twice, none changed."
        );
    } else {
        println!("NOT every one of the {published} published messages is accounted for: {audit:?}");
    }
    accounted
}
