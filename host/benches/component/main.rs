//! What one message costs in the sandbox: the plugin host's own call of a component that was written with the SDK, against a
//! core module that is called with raw pointers, and against the same Rust code without a sandbox.
//!
//! All three start from the batch that the driver makes and end with what the sink takes; what comes out is compared before
//! anything is timed. Each round times every case once; medians of the rounds are printed.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod floor;
mod native;
mod sandboxed;
#[path = "../support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use floor::{Floor, Input};
use rivven_mqtt::message::{Batch, Flags, Outcome, QoS};
use support::cpu::Cpu;
use support::messages::{payload, topic};
use support::stats::median;
use support::table;

/// Messages in a call.
const BATCHES: [usize; 3] = [1, 16, 256];
/// For how long each case is timed in each round.
const SLICE: Duration = Duration::from_millis(60);

/// What is done with each message. All of them first compare the end of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Nothing else; the payload is not even asked for.
    Topics,
    /// Topic and payload are looked at, and the message is forwarded.
    Pass,
    /// One output with the payload as its value.
    Echo,
    /// Two fields are parsed from the payload, and one output with a key is built from them.
    Json,
}

impl Workload {
    /// As in the bench plugin's `config`.
    pub const ALL: [(Workload, &'static str); 4] = [
        (Workload::Topics, "topics"),
        (Workload::Pass, "pass"),
        (Workload::Echo, "echo"),
        (Workload::Json, "json"),
    ];
}

/// One line of figures: a workload in one way, with one size of batch.
struct Case<'a> {
    workload: &'static str,
    way: &'static str,
    size: usize,
    call: Box<dyn FnMut() + 'a>,
    nanos: Vec<f64>,
}

fn main() -> Result<()> {
    if !support::Parts::named().any() {
        return Ok(());
    }
    support::machine::print("component");
    let mut batches = BATCHES.map(batch);
    let mut cases = Vec::new();
    for batch in &mut batches {
        for (workload, name) in Workload::ALL {
            cases.extend(cases_of(workload, name, batch)?);
        }
    }
    let cpu = Cpu::read(&[]);
    for round in 1..=support::ROUNDS {
        eprintln!("round {round} of {}", support::ROUNDS);
        for case in &mut cases {
            let nanos = time(&mut case.call) / case.size as f64;
            case.nanos.push(nanos);
        }
    }
    print(&cases);
    println!("Other programs used {:.2} of a core meanwhile.", cpu.usage().others);
    Ok(())
}

/// The ways to do `workload` with `batch`, after a check that all of them come to the same result.
fn cases_of(workload: Workload, name: &'static str, batch: &Batch) -> Result<Vec<Case<'static>>> {
    let size = batch.len();
    let case = |way, call: Box<dyn FnMut()>| Case { workload: name, way, size, call, nanos: Vec::new() };

    let expected = native::process(workload, batch);
    let mut component = sandboxed::worker(name)?;
    let mut theirs = batch.clone();
    ensure!(
        same(&component.process(&mut theirs)?, &expected),
        "{name}, {size}: the component's result is wrong"
    );
    let ours = batch.clone();
    let mut cases = vec![
        case(SANDBOX, Box::new(move || drop(black_box(component.process(&mut theirs))))),
        case(NATIVE, Box::new(move || drop(black_box(native::process(workload, &ours))))),
    ];
    // The core module parses nothing.
    if workload != Workload::Json {
        for (way, input) in [(FLOOR, Input::Messages), (FLOOR_COLUMNS, Input::Columns)] {
            let mut floor = Floor::new(input)?;
            let ours = floor::Batch::new(batch);
            let result = floor.process(workload, &ours)?;
            ensure!(same(&result, &expected), "{name}, {size}: the core module's result is wrong");
            cases.push(case(way, Box::new(move || drop(black_box(floor.process(workload, &ours))))));
        }
    }
    Ok(cases)
}

const SANDBOX: &str = "component";
/// The host writes message by message, as from a queue of messages.
const FLOOR: &str = "core module";
/// The host copies the driver's columns as they are.
const FLOOR_COLUMNS: &str = "with columns";
const NATIVE: &str = "no sandbox";

/// A batch as the driver makes it.
fn batch(size: usize) -> Batch {
    let mut batch = Batch::default();
    for i in 0..size {
        Arc::make_mut(&mut batch.topics).push(topic(i).as_bytes());
        Arc::make_mut(&mut batch.payloads).push(&payload(i));
        batch.packet_ids.push(i as u16 + 1);
        batch.flags.push(Flags::new(QoS::AtLeastOnce, false, false));
        batch.received_at.push(1_700_000_000_000_000_000 + i as u64);
        batch.sequences.push(i as u64);
    }
    batch
}

/// Whether two outcomes mean the same.
fn same(one: &Outcome, other: &Outcome) -> bool {
    let outputs = |outcome: &Outcome| -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let outputs = &outcome.outputs;
        let output =
            |(i, of): (usize, &u32)| (*of, outputs.keys.get(i).to_vec(), outputs.values.get(i).to_vec());
        outputs.of.iter().enumerate().map(output).collect()
    };
    one.verdicts == other.verdicts && one.reasons == other.reasons && outputs(one) == outputs(other)
}

/// Nanoseconds of one call: a third of the slice to warm up and to see how many calls fit, then that many.
fn time(call: &mut dyn FnMut()) -> f64 {
    let (start, mut calls) = (Instant::now(), 0u32);
    while start.elapsed() < SLICE / 3 {
        call();
        calls += 1;
    }
    let calls = calls * 2;
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn print(cases: &[Case<'_>]) {
    let nanos = |workload: &str, way: &str, size: usize| {
        let case = cases.iter().find(|case| (case.workload, case.way, case.size) == (workload, way, size))?;
        Some(median(case.nanos.iter().copied()))
    };
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let ratio = |one: Option<f64>, other: Option<f64>| {
        let ratio = one.zip(other).map(|(one, other)| one / other);
        ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.1}"))
    };
    let mut table =
        table(["ns per message", "batch", SANDBOX, FLOOR, "ratio", FLOOR_COLUMNS, "ratio", NATIVE, "ratio"]);
    for (_, workload) in Workload::ALL {
        for size in BATCHES {
            let [sandbox, floor, columns, native] =
                [SANDBOX, FLOOR, FLOOR_COLUMNS, NATIVE].map(|way| nanos(workload, way, size));
            table.add_row([
                workload.to_owned(),
                size.to_string(),
                figure(sandbox),
                figure(floor),
                ratio(sandbox, floor),
                figure(columns),
                ratio(sandbox, columns),
                figure(native),
                ratio(sandbox, native),
            ]);
        }
    }
    println!(
        "100-byte payloads. To reach at 256: pass 25 ns and 4x, echo 60 ns and 2.2x, where the core module takes 7 and 28.\n\
         Into the core module the host writes message by message, or copies whole columns.\n{table}\n"
    );
}
