//! `plugin inspect` and `plugin test`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{DONE, FAILED, WRONG, print};
use crate::config::Limits;
use crate::error::JsonlError;
use crate::jsonl::read_messages;
use crate::logging::{self, LogFormat};
use crate::plugin::{Plugin, Sandbox};
use crate::trial;

/// Differences that `plugin test` shows before it stops.
const MAX_DIFFERENCES: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
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
/// no line; held ones become what the flush at the end gives.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "\
Examples:
  rivven-mqtt plugin test filter.wasm --input messages.jsonl
  rivven-mqtt plugin test filter.wasm --input messages.jsonl --config '{\"threshold\": 20}' > golden.jsonl
  rivven-mqtt plugin test filter.wasm --input messages.jsonl --config '{\"threshold\": 20}' --expect golden.jsonl

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
}

fn parse_json(text: &str) -> Result<String, String> {
    serde_json::from_str::<Value>(text).map(|_| text.to_owned()).map_err(|error| format!("not JSON: {error}"))
}

pub(super) fn execute(command: &PluginCommand) -> Result<u8> {
    match command {
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
    let expected = arguments.expect.as_deref().map(read_expected).transpose()?;
    let records = trial::run(&arguments.file, arguments.config.clone(), messages)?;
    let Some(expected) = expected else {
        print(&records)?;
        return Ok(DONE);
    };
    let records = String::from_utf8(records).context("the records are not UTF-8")?;
    let differences = differences(&expected, &records);
    if differences.is_empty() {
        println!("ok: {} records, as expected", records.lines().count());
        return Ok(DONE);
    }
    let golden = arguments.expect.as_deref().unwrap_or(Path::new(""));
    for (line, expected, actual) in differences.iter().take(MAX_DIFFERENCES) {
        let show = |record: &Option<&str>| record.map_or("no record".to_owned(), str::to_owned);
        println!("{}:{line}:\n- {}\n+ {}", golden.display(), show(expected), show(actual));
    }
    Err(anyhow!("{} records differ from {} (- expected, + actual)", differences.len(), golden.display()))
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
    use super::*;

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
