//! A plugin that attacks its host. The payload of a message says how, as `attack` or `attack:argument`; any other payload
//! passes, so that one attack among honest messages can be told from them.
//!
//! | payload | attack |
//! |---|---|
//! | `trap`, `exit` | panics; ends the process with status 0 |
//! | `spin`, `recurse`, `sleep` | never comes back: by looping, by overflowing the stack, by sleeping an hour |
//! | `slow:N` | passes, N ms later |
//! | `hog` | allocates without end |
//! | `outputs:N`, `giant:N` | emits N empty records; one record of N bytes |
//! | `topic:NAME` | emits a record to this topic |
//! | `logs:N`, `prints:N`, `metrics:N` | N log lines; N lines to stdout; N names of counters |
//! | `flood:N`, `flood-stdout:N`, `flood-stderr:N` | N MiB of log lines of 1 KiB each; to stdout; to stderr |
//! | `set:K=V`, `set-trap:K=V`, `get:K` | writes state and passes; the same and panics; emits what is there, if anything |
//! | `once:KEY` | no attack: drops the message when the key was set before, and else sets it |
//! | `fill` | writes state until that is refused; rejects with the refusal |
//! | `read:PATH`, `env` | emits a file, or rejects with the error; emits what it sees of arguments and environment |
//! | `nonsense:RULE` | breaks a rule of the results of the whole batch, see `nonsense.rs` |
//!
//! The configuration is one word: `"refuse"`, `"trap"` and `"spin"` do so in `init`, and `"set:KEY=VALUE"` writes state there.
#![cfg(target_arch = "wasm32")]
#![allow(clippy::panic, clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]

mod nonsense;

use std::time::{Duration, Instant};

use rivven_plugin_sdk::raw::plugin as raw;
use rivven_plugin_sdk::runtime::Slot;
use rivven_plugin_sdk::{
    Config, Error, Message, Output, Plugin, Record, Result, Verdict, log, metrics, state,
};

struct Attacks;

impl Plugin for Attacks {
    fn new(config: Config) -> Result<Self> {
        match config.parse::<Option<&str>>()? {
            Some("refuse") => Err(Error::new("refused, as configured")),
            Some("trap") => panic!("trapped in init, as configured"),
            Some("spin") => spin(),
            Some(word) => word.strip_prefix("set:").map_or(Ok(()), set).map(|()| Self),
            None => Ok(Self),
        }
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        let payload = message.text().unwrap_or_default();
        let (attack, argument) = payload.split_once(':').unwrap_or((payload, ""));
        let number = || argument.parse::<usize>();
        match attack {
            "trap" => panic!("trapped, as the message said"),
            "exit" => std::process::exit(0),
            "spin" => spin(),
            "recurse" => return Err(Error::new(recurse(1).to_string())),
            "slow" => work(Duration::from_millis(argument.parse()?)),
            "sleep" => std::thread::sleep(Duration::from_secs(3600)),
            "hog" => hog(),
            "outputs" => {
                let mut records = out.records();
                for _ in 0..number()? {
                    records.emit("")?;
                }
                return records.done();
            }
            "giant" => return out.emit(vec![b'x'; number()?]),
            "topic" => return out.emit(Record::new("astray").topic(argument)),
            "flood" => (0..number()? << 10).for_each(|_| log::info(&*line())),
            "flood-stdout" => (0..number()? << 10).for_each(|_| println!("{}", line())),
            "flood-stderr" => (0..number()? << 10).for_each(|_| eprintln!("{}", line())),
            "logs" => (0..number()?).for_each(|n| log::info(format!("line {n}"))),
            "prints" => (0..number()?).for_each(|n| println!("line {n}")),
            "metrics" => (0..number()?).for_each(|n| metrics::counter_add(&format!("counter_{n}"), 1)),
            "set" => set(argument)?,
            "once" if state::get(argument).is_some() => return out.drop(),
            "once" => state::set(argument, "seen")?,
            "set-trap" => {
                set(argument)?;
                panic!("trapped after a write to the state")
            }
            "get" => {
                let mut records = out.records();
                if let Some(value) = state::get(argument) {
                    records.emit(value)?;
                }
                return records.done();
            }
            "fill" => {
                for n in 0.. {
                    state::set(&format!("fill-{n}"), vec![0; 1 << 20])?;
                }
            }
            "read" => return out.emit(std::fs::read(argument)?),
            "env" => {
                let (args, vars) = (std::env::args().count(), std::env::vars().count());
                return out.emit(format!("{args} arguments, {vars} variables"));
            }
            _ => {}
        }
        out.pass()
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

#[expect(unconditional_recursion, reason = "that is the attack")]
fn recurse(depth: u64) -> u64 {
    // Used after the call, so that it is no loop.
    let frame = std::hint::black_box([depth; 64]);
    recurse(depth + 1) + frame[depth as usize % 64]
}

fn work(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// 1 KiB with the end of the line.
fn line() -> String {
    "x".repeat(1_023)
}

fn hog() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

fn set(argument: &str) -> Result<()> {
    let (key, value) = argument.split_once('=').ok_or_else(|| Error::new("expected KEY=VALUE"))?;
    Ok(state::set(key, value)?)
}

thread_local! {
    static PLUGIN: Slot<Attacks> = const { Slot::empty() };
}

struct Component;

impl raw::exports::rivven::connect::transform::Guest for Component {
    fn init(config: String) -> std::result::Result<(), String> {
        PLUGIN.with(|plugin| plugin.init(&config))
    }

    fn process(
        batch: &raw::rivven::connect::source::Batch,
    ) -> raw::exports::rivven::connect::transform::Results {
        nonsense::nonsense(batch).unwrap_or_else(|| PLUGIN.with(|plugin| plugin.process(batch)))
    }
}

raw::export_transform!(Component with_types_in raw);
