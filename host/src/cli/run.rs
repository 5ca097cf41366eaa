//! `run`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{DONE, FAILED, WRONG};
use crate::config;
use crate::http::{self, Watched};
use crate::logging::{self, LogFormat, LogLevel};
use crate::pipeline::{Host, SinkKind, SourceHandle};

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
///
/// SIGHUP reads the files of all plugins again, as a change of one of them does, and lifts their quarantine. Messages go on
/// meanwhile; a plugin that cannot be loaded changes nothing. The configuration file is not read again.
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
pub(super) struct Run {
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

pub(super) fn parse_sink(text: &str) -> Result<SinkKind, String> {
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

/// Runs the sources until a signal; the exit code.
pub(super) async fn execute(arguments: Run) -> Result<u8> {
    if let Err(what) = logging::init(arguments.log_format, arguments.log_level) {
        eprintln!("rivven-mqtt: {what}");
        return Ok(WRONG);
    }
    let mut signals = Signals::new()?;
    let mut hangups = signal(SignalKind::hangup()).context("cannot listen to signals")?;
    let config = config::load(&arguments.config, arguments.sink == SinkKind::Rivven)?;
    for config::Risk { source, key, what } in config.risks() {
        warn!(source, "{key} {what}");
    }
    let listener = http::bind(config.settings.http).await?;
    info!(version = env!("CARGO_PKG_VERSION"), sources = config.sources.len(), "starting");
    let host = tokio::select! {
        host = Host::start(config, arguments.sink) => host?,
        name = signals.next() => {
            info!(signal = name, "ended before anything was taken");
            return Ok(DONE);
        }
    };
    let reload = host.reload();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            info!(signal = "SIGHUP", "the plugins are loaded again");
            reload.now();
        }
    });
    let sources: Vec<Watched> = host.sources().iter().map(watched).collect();
    let sink = host.sink();
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let http = listener.map(|listener| {
        tokio::spawn(http::serve(listener, sources.clone(), sink, async {
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

fn watched(source: &SourceHandle) -> Watched {
    Watched {
        name: source.name.clone(),
        metrics: source.metrics.clone(),
        status: source.status.clone(),
        plugins: source.plugins.clone(),
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
async fn stop_signal(mut signals: Signals) {
    let name = signals.next().await;
    info!(signal = name, "stopping; a second signal ends the program at once");
    tokio::spawn(async move {
        let name = signals.next().await;
        warn!(signal = name, "ended at once; what is not acknowledged is sent again by the MQTT broker");
        std::process::exit(FAILED.into());
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sinks() {
        assert_eq!(parse_sink("stdout"), Ok(SinkKind::Stdout));
        assert_eq!(parse_sink("file:a/b.jsonl"), Ok(SinkKind::File("a/b.jsonl".into())));
        for wrong in ["", "file:", "kafka", "Rivven"] {
            assert!(parse_sink(wrong).is_err(), "{wrong}");
        }
    }
}
