//! The command line: its types, and one function for each subcommand.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
// This is the one part of the library that talks to a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::config::{self, Limits};
use crate::error::{ConfigError, JsonlError};
use crate::http::{self, Watched};
use crate::jsonl::read_messages;
use crate::logging::{self, LogFormat, LogLevel};
use crate::pipeline::{Host, SinkKind, test_plugin};
use crate::plugin::Plugin;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// Differences that `plugin test` shows before it stops.
const MAX_DIFFERENCES: usize = 20;

/// The arguments of the program.
#[derive(Debug, Parser)]
#[command(
    name = "rivven-mqtt",
    version,
    about = "MQTT to Rivven through a sandboxed WebAssembly component, acknowledged after commit",
    long_about = "Reads MQTT topics, runs every message through a WebAssembly component of yours, and writes what comes out to \
                  Rivven topics. A message is acknowledged to the MQTT broker only when every record made of it is committed: \
                  with QoS 1 or 2 and a persistent session nothing is lost, whatever is killed or restarted.",
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Run),
    /// Look at a plugin, or try it without any broker
    #[command(subcommand)]
    Plugin(PluginCommand),
}

/// Run the sources of a configuration file until SIGINT or SIGTERM
///
/// Connects to the MQTT brokers, runs messages through the plugins and writes the records to Rivven. A broker or a Rivven
/// server that is down, now or later, is tried again and again; meanwhile nothing is acknowledged, nothing is lost, and
/// /ready says why.
///
/// The first SIGINT or SIGTERM stops reading, commits and acknowledges what is in flight (for at most
/// settings.shutdown_grace_ms), disconnects, and ends with one line for each source:
///
///   iot: received 10000 = committed 8000 + dropped 1990 + dead-lettered 10 + in flight 0
///
/// A second signal ends the program at once; unacknowledged messages are sent again by the broker.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "\
Configuration, the smallest:
  type: mqtt-source
  topic: iot-events                       # Rivven topic
  config:
    broker_url: mqtt://localhost:1883
    topics: [\"sensors/#\"]
    client_id: iot-1
    clean_session: false                  # keep what arrives while disconnected
    auth: {username: iot, password: \"${MQTT_PASSWORD}\"}
  plugin: {path: filter.wasm, config: {threshold: 20}}

With `type` at the top level, Rivven is at RIVVEN_BOOTSTRAP_SERVERS (default localhost:9092). Several sources, or more about
Rivven: put each source under `sources: {NAME: ...}`, beside `broker: {bootstrap_servers: [\"host:9092\"]}` and
`settings: {state_dir: ./state, http: {listen: \"127.0.0.1:9091\"}}`. An unknown key or a wrong value is answered with its line
and what is expected.

While it runs, settings.http.listen (default 127.0.0.1:9091) answers /metrics (Prometheus), /health, /ready (200, or 503 with
the reasons), /status (JSON) and / (a page).

Examples:
  rivven-mqtt run -c iot.yaml
  rivven-mqtt run -c iot.yaml --sink stdout            # see the records; no Rivven needed
  rivven-mqtt run -c iot.yaml --log-format json --log-level warn

Exit codes:
  0  everything taken was settled before the end
  1  a source failed, something could not start, or the grace ended with messages in flight (they stay unacknowledged)
  2  wrong usage or configuration; every problem is printed as FILE:LINE:COL: KEY: what is wrong"
)]
struct Run {
    /// Configuration file (YAML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Where records go: rivven; stdout or file:PATH, one JSON object a line (a file is appended to); or discard
    #[arg(long, value_name = "SINK", default_value = "rivven", value_parser = parse_sink)]
    sink: SinkKind,
    /// What log lines on stderr look like: text, or JSON for machines
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Least level of log lines [default: RUST_LOG, else info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
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
struct Inspect {
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
/// "value_base64" where bytes are not UTF-8. Dropped messages make no line, rejected ones a dead letter, held ones what the
/// flush at the end gives.
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
struct Test {
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

fn parse_sink(text: &str) -> Result<SinkKind, String> {
    match text {
        "rivven" => Ok(SinkKind::Rivven),
        "stdout" => Ok(SinkKind::Stdout),
        "discard" => Ok(SinkKind::Discard),
        _ => match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(SinkKind::File(path.into())),
            _ => Err("expected rivven, stdout, discard or file:PATH".into()),
        },
    }
}

fn parse_json(text: &str) -> Result<String, String> {
    serde_json::from_str::<Value>(text).map(|_| text.to_owned()).map_err(|error| format!("not JSON: {error}"))
}

/// Does what the arguments say, and says on stderr what went wrong.
pub async fn execute(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Run(arguments) => run(arguments).await,
        Command::Plugin(PluginCommand::Inspect(arguments)) => inspect(&arguments),
        Command::Plugin(PluginCommand::Test(arguments)) => test(&arguments),
    };
    outcome.map_or_else(|error| report(&error), ExitCode::from)
}

/// Prints an error with its causes; the exit code that it calls for.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // The lines of these are for editors and scripts: nothing goes before the file name.
    if error.is::<ConfigError>() || error.is::<JsonlError>() {
        eprintln!("{error}");
        return WRONG.into();
    }
    eprintln!("rivven-mqtt: {}", chain(error));
    FAILED.into()
}

/// The error and its causes, without those that are in the text already.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            shown if shown.ends_with(&cause) => text,
            shown => format!("{shown}: {cause}"),
        }
    })
}

async fn run(arguments: Run) -> Result<u8> {
    if let Err(what) = logging::init(arguments.log_format, arguments.log_level) {
        eprintln!("rivven-mqtt: {what}");
        return Ok(WRONG);
    }
    let mut signals = Signals::new()?;
    let config = config::load(&arguments.config, arguments.sink == SinkKind::Rivven)?;
    let listener = http::bind(config.settings.http).await?;
    info!(version = env!("CARGO_PKG_VERSION"), sources = config.sources.len(), "starting");
    let host = tokio::select! {
        host = Host::start(config, arguments.sink) => host?,
        name = signals.next() => {
            info!(signal = name, "ended before anything was taken");
            return Ok(DONE);
        }
    };
    let sources: Vec<Watched> = host.sources().iter().map(watched).collect();
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let http = listener.map(|listener| {
        tokio::spawn(http::serve(listener, sources.clone(), async {
            // A sender that is dropped means the same.
            let _ = http_stopped.await;
        }))
    });

    let outcome = host.run(stop_signal(signals)).await;

    drop(stop_http);
    if let Some(http) = http {
        // A client that keeps its connection open does not keep the program.
        http.abort();
        let _ = http.await;
    }
    let mut in_flight = 0;
    for source in &sources {
        let ledger = source.metrics.ledger();
        in_flight += ledger.in_flight();
        eprintln!("{}: {ledger}", source.name);
    }
    outcome?;
    if in_flight > 0 {
        error!(
            in_flight,
            "ended with messages in flight: they are not acknowledged, and the MQTT broker sends them again"
        );
        return Ok(FAILED);
    }
    Ok(DONE)
}

fn watched(source: &crate::pipeline::SourceHandle) -> Watched {
    Watched {
        name: source.name.clone(),
        metrics: source.metrics.clone(),
        status: source.status.clone(),
        plugin: source.plugin_metrics.clone(),
    }
}

/// SIGINT and SIGTERM, listened to from the start on.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Completes with the first signal; the second one ends the program.
fn stop_signal(mut signals: Signals) -> impl Future<Output = ()> {
    async move {
        let name = signals.next().await;
        info!(signal = name, "stopping; a second signal ends the program at once");
        tokio::spawn(async move {
            let name = signals.next().await;
            warn!(signal = name, "ended at once; what is not acknowledged is sent again by the MQTT broker");
            std::process::exit(FAILED.into());
        });
    }
}

fn inspect(arguments: &Inspect) -> Result<u8> {
    let inspection = Plugin::inspect(&arguments.file, &Limits::default())?;
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
    let records = test_plugin(&arguments.file, arguments.config.clone(), messages)?;
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

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sinks() {
        assert_eq!(parse_sink("stdout"), Ok(SinkKind::Stdout));
        assert_eq!(parse_sink("file:a/b.jsonl"), Ok(SinkKind::File("a/b.jsonl".into())));
        for wrong in ["", "file:", "kafka", "Rivven"] {
            assert!(parse_sink(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_usage_is_told() {
        for (arguments, expected) in [
            (&["run"][..], "--config <FILE>"),
            (&["run", "-c", "f", "--sink", "kafka"], "expected rivven, stdout, discard or file:PATH"),
            (&["plugin", "test", "f", "--input", "m", "--config", "{"], "not JSON"),
            (&["plugin", "test", "f"], "--input <M.jsonl>"),
        ] {
            let error = Cli::try_parse_from([&["rivven-mqtt"], arguments].concat()).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(WRONG));
            assert!(error.to_string().contains(expected), "{error}");
        }
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

    #[test]
    fn causes_are_shown_once() {
        let cause = std::io::Error::other("refused");
        let error = JsonlError::Read { file: "f".into(), source: cause };
        assert_eq!(
            chain(&anyhow::Error::new(error).context("no input")),
            "no input: f: cannot be read: refused"
        );
    }
}
