//! `plugin new`, `plugin inspect` and `plugin test`.

use std::path::{Path, PathBuf};
use std::str;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::new::{New, new};
use super::{DONE, FAILED, WRONG, print};
use crate::config::Limits;
use crate::error::JsonlError;
use crate::jsonl::read_messages;
use crate::logging::{self, LogFormat};
use crate::plugin::{Plugin, Sandbox};
use crate::trial::{self, Trial};

/// Differences that `plugin test` shows before it stops.
const MAX_DIFFERENCES: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    New(New),
    Inspect(Inspect),
    Test(Test),
}

/// Show what a component is, what it imports and whether that is granted
///
/// Prints the world that the component is built for, each import with whether the host grants it, its exports, size and
/// SHA-256 (for `sha256:` in the configuration), and the limits that it runs in. None of its code runs.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  rivven-mqtt plugin inspect filter.wasm
  rivven-mqtt plugin inspect filter.wasm --json | jq -r .sha256

Exit codes: 0 the host would load it, 1 it would not (the reason is printed), 2 wrong usage.")]
pub(super) struct Inspect {
    /// The component, a .wasm file
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Run messages of a file through a plugin, with the limits of production and no broker
///
/// Each line of the input is a message: {"topic": "a/b", "payload": "text"}, or "payload_base64" for any bytes. Optional:
/// "qos" (default 1), "retain", "duplicate", "received_at" (default 1970-01-01T00:00:00Z, so that a run can be repeated),
/// and "properties" of MQTT 5: {"content_type", "response_topic", "correlation_data_base64", "message_expiry",
/// "payload_is_utf8", "user": [["name", "value"]]}.
///
/// Each line of the output is a record: {"topic": destination, "key": text or null, "value": text}, with "key_base64" or
/// "value_base64" where bytes are not UTF-8. A forwarded message has its payload as value, its MQTT topic as key and the topic
/// "destination", which stands for the source's own; a rejected one becomes a dead letter on "dead-letters"; a dropped one makes
/// no line; held ones become what the flush at the end gives. What the plugin used of its limits goes to stderr.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "\
Examples:
  rivven-mqtt plugin test filter.wasm --input messages.jsonl
  rivven-mqtt plugin test filter.wasm --input messages.jsonl --config '{\"threshold\": 20}' --expect golden.jsonl --update
  rivven-mqtt plugin test filter.wasm --input messages.jsonl --config '{\"threshold\": 20}' --expect golden.jsonl
  rivven-mqtt plugin test filter.wasm --input messages.jsonl --config '{\"threshold\": 20}' --repeat 1000 > /dev/null

Exit codes: 0 done, and as expected; 1 the plugin does not load or the records differ; 2 wrong usage or input."
)]
pub(super) struct Test {
    /// The component, a .wasm file
    file: PathBuf,
    /// Messages, one JSON object a line
    #[arg(long, value_name = "M.jsonl")]
    input: PathBuf,
    /// Records that have to come out, one JSON object a line; differences are shown, and nothing else
    #[arg(long, value_name = "G.jsonl")]
    expect: Option<PathBuf>,
    /// What the plugin's `init` gets
    #[arg(long, value_name = "JSON", default_value = "null", value_parser = parse_json)]
    config: String,
    /// Write the records to the file of --expect instead of comparing
    #[arg(long, requires = "expect")]
    update: bool,
    /// Limits of the sandbox under their names in the configuration, such as '{"memory_mb": 16}' [default: those of a
    /// configuration without `limits`]
    #[cfg(feature = "mqtt")]
    #[arg(long, value_name = "JSON", value_parser = crate::config::parse_limits)]
    limits: Option<Limits>,
    /// Pass the messages N times through the plugin, for its speed; the records are those of the first pass
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

fn parse_json(text: &str) -> Result<String, String> {
    serde_json::from_str::<Value>(text).map(|_| text.to_owned()).map_err(|error| format!("not JSON: {error}"))
}

pub(super) fn execute(command: &PluginCommand) -> Result<u8> {
    match command {
        PluginCommand::New(arguments) => new(arguments),
        PluginCommand::Inspect(arguments) => inspect(arguments),
        PluginCommand::Test(arguments) => test(arguments),
    }
}

fn inspect(arguments: &Inspect) -> Result<u8> {
    let inspection = Plugin::inspect(&Sandbox::of_user()?, &arguments.file, &Limits::default())?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&inspection)?,
        false => inspection.to_string(),
    };
    print(format!("{}\n", text.trim_end()).as_bytes())?;
    Ok(if inspection.loads() { DONE } else { FAILED })
}

fn test(arguments: &Test) -> Result<u8> {
    if let Err(what) = logging::init(LogFormat::Text, None) {
        eprintln!("rivven-mqtt: {what}");
        return Ok(WRONG);
    }
    let messages = read_messages(&arguments.input)?;
    let golden = arguments.expect.as_deref();
    let expected = golden.filter(|_| !arguments.update).map(read_expected).transpose()?;
    let (count, limits) = (messages.len(), arguments.limits());
    let passes = arguments.repeat as usize;
    let trial = trial::run(&arguments.file, arguments.config.clone(), limits, messages, passes)?;
    eprintln!("{}", summary(&trial, count, &limits));
    let (Some(golden), records) = (golden, &trial.records) else {
        print(&trial.records)?;
        return Ok(DONE);
    };
    let Some(expected) = expected else {
        std::fs::write(golden, records).with_context(|| format!("cannot write {}", golden.display()))?;
        println!("{}: {} records written", golden.display(), lines(records));
        return Ok(DONE);
    };
    let records = str::from_utf8(records).context("the records are not UTF-8")?;
    let differences = differences(&expected, records);
    if differences.is_empty() {
        println!("ok: {} records, as expected", records.lines().count());
        return Ok(DONE);
    }
    for (line, expected, actual) in differences.iter().take(MAX_DIFFERENCES) {
        let show = |record: &Option<&str>| record.map_or("no record".to_owned(), str::to_owned);
        println!("{}:{line}:\n- {}\n+ {}", golden.display(), show(expected), show(actual));
    }
    Err(anyhow!(
        "{} records differ from {} (- expected, + actual); if they are right, write them with --update",
        differences.len(),
        golden.display()
    ))
}

impl Test {
    fn limits(&self) -> Limits {
        // Whoever cannot read a configuration cannot read a part of one either.
        #[cfg(feature = "mqtt")]
        if let Some(limits) = self.limits {
            return limits;
        }
        Limits::default()
    }
}

/// What the plugin used of its limits.
fn summary(trial: &Trial, messages: usize, limits: &Limits) -> String {
    let Trial { records, nanos, usage } = trial;
    let mut sorted = nanos.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let of_passes = match nanos.as_slice() {
        [] | [_] => String::new(),
        [first, ..] => format!(" (median of {} passes, {first:.0} in the first)", nanos.len()),
    };
    format!(
        "{messages} messages became {} records; {median:.0} ns a message{of_passes}; longest call {:.1} of {} ms; peak memory \
         {:.1} of {} MiB; {} faults",
        lines(records),
        usage.longest.as_secs_f64() * 1e3,
        limits.deadline.as_millis(),
        usage.peak_memory as f64 / f64::from(1 << 20),
        limits.memory >> 20,
        usage.faults,
    )
}

fn lines(records: &[u8]) -> usize {
    records.iter().filter(|byte| **byte == b'\n').count()
}

fn read_expected(file: &Path) -> Result<String, JsonlError> {
    std::fs::read_to_string(file).map_err(|source| JsonlError::Read { file: file.into(), source })
}

type Difference<'a> = (usize, Option<&'a str>, Option<&'a str>);

/// The lines that differ, as JSON: spaces and the order of keys do not matter.
fn differences<'a>(expected: &'a str, actual: &'a str) -> Vec<Difference<'a>> {
    let mut expected = expected.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut actual = actual.lines();
    let mut differences = Vec::new();
    let mut end = 1;
    loop {
        let (line, wanted) = match expected.next() {
            Some((index, wanted)) => (index + 1, Some(wanted)),
            None => (end, None),
        };
        let got = actual.next();
        match (wanted, got) {
            (None, None) => return differences,
            (Some(wanted), Some(got)) if same(wanted, got) => {}
            _ => differences.push((line, wanted, got)),
        }
        end = line + 1;
    }
}

fn same(one: &str, other: &str) -> bool {
    match (serde_json::from_str::<Value>(one), serde_json::from_str::<Value>(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plugin::Usage;

    #[test]
    fn the_summary_has_what_was_used() {
        let usage = Usage {
            calls: 4,
            faults: 1,
            time: Duration::from_micros(9),
            longest: Duration::from_micros(2_500),
            peak_memory: 3 << 19,
            outputs: 2,
        };
        let trial = Trial { records: b"{}\n{}\n".to_vec(), nanos: vec![900.0, 99.6, 100.4], usage };
        assert_eq!(
            summary(&trial, 3, &Limits::default()),
            "3 messages became 2 records; 100 ns a message (median of 3 passes, 900 in the first); longest call 2.5 of 1000 ms; \
             peak memory 1.5 of 64 MiB; 1 faults"
        );
    }

    #[test]
    fn records_are_compared_as_json() {
        let golden = "{\"a\": 1, \"b\": 2}\n\n{\"a\": 2}\n{\"a\": 3}\n";
        assert_eq!(differences(golden, "{\"b\":2,\"a\":1}\n{\"a\":2}\n{\"a\":3}\n"), []);
        assert_eq!(
            differences(golden, "{\"b\":2,\"a\":1}\n{\"a\":4}\n"),
            [(3, Some("{\"a\": 2}"), Some("{\"a\":4}")), (4, Some("{\"a\": 3}"), None)]
        );
        assert_eq!(differences("", "x\n"), [(1, None, Some("x"))]);
    }
}
