//! `dlq list`, `dlq show` and `dlq replay`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{DONE, WRONG, WrongUsage};
use crate::config::{self, Config, Source};
use crate::delivery::Stage;
use crate::dlq::{self, Entry, Filter, Journal, Reader};
use crate::logging::{self, LogFormat};
use crate::pipeline::{self, SinkKind};

/// Characters of a reason that a line of `dlq list` has.
const MAX_REASON: usize = 120;

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    List(List),
    Show(Show),
    Replay(Replay),
}

/// Which letters, of which sources, from where.
#[derive(Debug, Args)]
struct Select {
    /// Places of letters, as `list` shows them [default: all]
    #[arg(value_name = "PLACE")]
    places: Vec<String>,
    /// Configuration file (YAML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Where the letters are: rivven, or file:PATH for what `run --sink file:PATH` wrote
    #[arg(long, value_name = "FROM", default_value = "rivven", value_parser = parse_place)]
    from: SinkKind,
    /// Only those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only those whose reason has this text, whatever its case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those that failed at this stage: plugin, sink or oversized
    #[arg(long, value_name = "STAGE", value_parser = parse_stage)]
    stage: Option<Stage>,
    /// Only those received at this time or later: 2026-11-29T12:00:00Z, 2026-11-29, or 90m for so long ago
    #[arg(long, value_name = "TIME", value_parser = dlq::parse_time)]
    since: Option<Timestamp>,
    /// Only those received before this time
    #[arg(long, value_name = "TIME", value_parser = dlq::parse_time)]
    until: Option<Timestamp>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// List dead letters, a line each: place, time of receipt, stage, how often it was tried, MQTT topic, reason
///
/// A letter that was replayed is marked with `replayed`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  rivven-mqtt dlq list -c iot.yaml --since 2h
  rivven-mqtt dlq list -c iot.yaml --reason 'missing field' --json | jq .topic

Exit codes: 0 done, 1 the letters cannot be read, 2 wrong usage or configuration.")]
pub(super) struct List {
    #[command(flatten)]
    select: Select,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Show dead letters, whole
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  rivven-mqtt dlq show -c iot.yaml iot-events.dlq/0@17
  rivven-mqtt dlq show -c iot.yaml --stage oversized --limit 1

Exit codes: 0 done, 1 the letters cannot be read, 2 wrong usage or configuration.")]
pub(super) struct Show {
    #[command(flatten)]
    select: Select,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Replay dead letters through the plugins of the configuration into the real destination
///
/// Each letter becomes the message that it was (topic, payload, QoS, retain, duplicate, properties, time of receipt) and goes
/// through the plugin that the configuration names now. What is rejected again becomes a dead letter again, with `attempts`
/// one greater, unless the configuration says otherwise.
///
/// Which letters are done is recorded in the state folder, after their records are committed: a replay that was interrupted
/// can be run again, and only what was in flight, at most 256 messages, is written twice. A plugin that holds messages is
/// flushed after each 256.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  rivven-mqtt dlq replay -c iot.yaml --dry-run
  rivven-mqtt dlq replay -c iot.yaml --source iot --reason 'missing field' --since 2026-11-29
  rivven-mqtt dlq replay -c iot.yaml --from file:out.jsonl --sink file:out.jsonl

Exit codes: 0 done, 1 it cannot begin, or stopped (run it again), 2 wrong usage or configuration.")]
pub(super) struct Replay {
    #[command(flatten)]
    select: Select,
    /// Where the records go: rivven, or file:PATH
    #[arg(long, value_name = "SINK", default_value = "rivven", value_parser = parse_place)]
    sink: SinkKind,
    /// Print the records that would be written, as JSON lines, and write and record nothing
    #[arg(long)]
    dry_run: bool,
}

/// Rivven or a file: the sinks that keep what they get.
fn parse_place(text: &str) -> Result<SinkKind, String> {
    match super::run::parse_sink(text) {
        Ok(kind @ (SinkKind::Rivven | SinkKind::File(_))) => Ok(kind),
        _ => Err("expected rivven or file:PATH".into()),
    }
}

fn parse_stage(text: &str) -> Result<Stage, String> {
    let stages = [Stage::Plugin, Stage::Sink, Stage::Oversized];
    stages.into_iter().find(|stage| stage.name() == text).ok_or("expected plugin, sink or oversized".into())
}

pub(super) async fn execute(command: DlqCommand) -> Result<u8> {
    if let Err(what) = logging::init(LogFormat::Text, None) {
        eprintln!("rivven-mqtt: {what}");
        return Ok(WRONG);
    }
    match command {
        DlqCommand::List(List { select, json }) => {
            let line = if json { json_line } else { list_line };
            print_letters(&select, line).await
        }
        DlqCommand::Show(Show { select, json }) => {
            let line = if json { json_whole } else { show_whole };
            print_letters(&select, line).await
        }
        DlqCommand::Replay(arguments) => replay(arguments).await,
    }
}

impl Select {
    fn load(&self, sink: &SinkKind) -> Result<(Config, Vec<(String, Source)>)> {
        let needs_broker = self.from == SinkKind::Rivven || *sink == SinkKind::Rivven;
        let config = config::load(&self.config, needs_broker)?;
        let sources: Vec<_> = config
            .sources
            .iter()
            .filter(|(name, _)| self.source.as_ref().is_none_or(|wanted| wanted == *name))
            .map(|(name, source)| (name.clone(), source.clone()))
            .collect();
        if sources.is_empty() {
            let names: Vec<_> = config.sources.keys().map(String::as_str).collect();
            let wanted = self.source.as_deref().unwrap_or_default();
            let what = format!("the configuration has no source {wanted} (it has {})", names.join(", "));
            return Err(WrongUsage(what).into());
        }
        Ok((config, sources))
    }

    fn filter(&self, sources: Vec<String>) -> Filter {
        let (reason, stage, since, until) = (self.reason.clone(), self.stage, self.since, self.until);
        Filter { sources, reason, stage, since, until, positions: self.places.clone() }
    }

    async fn reader(&self, config: &Config, topic: &str) -> Result<Reader> {
        Ok(match &self.from {
            SinkKind::File(file) => Reader::file(file, topic)?,
            _ => {
                Reader::topic(config.broker.as_ref().context("the configuration has no `broker`")?, topic)
                    .await?
            }
        })
    }
}

/// Prints the selected letters of all sources, in the order of their topics.
async fn print_letters(select: &Select, show: fn(&Entry, bool) -> String) -> Result<u8> {
    let (config, sources) = select.load(&select.from)?;
    let journal = Journal::read(&config.settings.state_dir)?;
    let filter = select.filter(sources.iter().map(|(name, _)| name.clone()).collect());
    // Sources may share a topic.
    let mut topics: Vec<_> =
        sources.iter().map(|(_, source)| source.record.dead_letter_topic.as_str()).collect();
    topics.sort_unstable();
    topics.dedup();
    let mut left = select.limit.unwrap_or(usize::MAX);
    let mut stdout = std::io::stdout().lock();
    for topic in topics {
        let mut reader = select.reader(&config, topic).await?;
        while left > 0 {
            let entries = reader.next().await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries.iter().filter(|entry| filter.takes(entry)).take(left) {
                left -= 1;
                let text = show(entry, journal.has(entry)?);
                writeln!(stdout, "{text}").context("cannot write to stdout")?;
            }
        }
    }
    Ok(DONE)
}

fn list_line(entry: &Entry, replayed: bool) -> String {
    let mark = if replayed { "  replayed" } else { "" };
    let place = &entry.position;
    match &entry.letter {
        Err(why) => format!("{place}  {why}"),
        Ok(letter) => {
            let at = letter.received_at.map_or_else(|| "-".into(), |at| at.to_string());
            let topic = letter.topic.as_deref().unwrap_or("-");
            let reason: String = letter.reason.escape_debug().take(MAX_REASON).collect();
            format!("{place}  {at}  {}  {}x  {topic}  {reason}{mark}", letter.stage, letter.attempts)
        }
    }
}

fn json_line(entry: &Entry, replayed: bool) -> String {
    let place = entry.position.to_string();
    match &entry.letter {
        Err(why) => json!({ "place": place, "problem": why }).to_string(),
        Ok(letter) => json!({
            "place": place,
            "received_at": letter.received_at.map(|at| at.to_string()),
            "source": letter.source,
            "stage": letter.stage,
            "attempts": letter.attempts,
            "topic": letter.topic,
            "reason": letter.reason,
            "replayed": replayed,
        })
        .to_string(),
    }
}

/// The letter as it is, and where.
fn json_whole(entry: &Entry, replayed: bool) -> String {
    let letter = serde_json::from_slice::<Value>(&entry.value)
        .unwrap_or_else(|_| String::from_utf8_lossy(&entry.value).into_owned().into());
    json!({ "place": entry.position.to_string(), "replayed": replayed, "letter": letter }).to_string()
}

/// A line for each thing that the letter says; text payloads as text.
fn show_whole(entry: &Entry, replayed: bool) -> String {
    let mut text = format!("{}{}\n", entry.position, if replayed { "  replayed" } else { "" });
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(&entry.value) else {
        let value = String::from_utf8_lossy(&entry.value);
        return format!("{text}  is no dead letter: {}\n", value.escape_debug());
    };
    for (name, value) in &fields {
        let shown = match value {
            Value::String(text) => text.escape_debug().to_string(),
            value => value.to_string(),
        };
        text.push_str(&format!("  {name:15} {shown}\n"));
    }
    if let Some(payload) = entry.letter.as_ref().ok().and_then(dlq::Letter::payload)
        && let Ok(payload) = String::from_utf8(payload)
    {
        text.push_str(&format!("  {:15} {}\n", "payload as text", payload.escape_debug()));
    }
    text
}

async fn replay(arguments: Replay) -> Result<u8> {
    let Replay { select, sink, dry_run } = &arguments;
    let (config, sources) = select.load(sink)?;
    let state_dir = &config.settings.state_dir;
    let journal = Arc::new(if *dry_run { Journal::read(state_dir)? } else { Journal::open(state_dir)? });
    let kind = if *dry_run { SinkKind::Stdout } else { sink.clone() };
    let sink = pipeline::open(&config, kind)?;
    let mut left = select.limit.unwrap_or(usize::MAX);
    let mut outcome = Ok(());
    for (name, source) in sources {
        let mut reader = select.reader(&config, &source.record.dead_letter_topic).await?;
        let filter = select.filter(vec![name.clone()]);
        let (journal, sink, limit, record) = (journal.clone(), sink.clone(), left, !*dry_run);
        let label = name.clone();
        let replayed = pipeline::on_worker(name, source, &config.settings, sink, move |outlet| {
            dlq::replay(&mut reader, &filter, outlet, &journal, record, limit)
        })
        .await?;
        match replayed {
            Ok(report) => {
                left = left.saturating_sub(report.tally.total() as usize);
                for (place, why) in &report.impossible {
                    eprintln!("{label}: {place} cannot be replayed: {why}");
                }
                eprintln!("{label}: {report}");
            }
            Err(error) => {
                outcome = Err(anyhow!(error).context(format!("source {label}")));
                break;
            }
        }
    }
    sink.close().await;
    outcome.map(|()| DONE)
}
