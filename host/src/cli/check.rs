//! `check`: whether `run` would work, tried part by part.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::run::parse_sink;
use super::{DONE, FAILED, WRONG, print};
use crate::config::{self, Config, Risk, Source};
use crate::error::chain;
use crate::logging::{self, LogFormat, LogLevel};
use crate::message::QoS;
use crate::pipeline::{self, SinkKind};
use crate::plugin::{Plugin, Sandbox};
use crate::sink::{FileSink, Probe, Unusable};
use crate::source::{CheckStep, MqttSource};

/// Messages that mosquitto sends before it waits for acknowledgements, unless it is configured.
const MOSQUITTO_WINDOW: usize = 20;

/// Try everything that `run` needs, and say what does not work and what to do about it
///
/// Reads the configuration, loads every plugin and calls its init, logs in to every MQTT broker and subscribes (with a client id
/// of its own, so that a running host is not disturbed), connects to Rivven and looks for the destination topics. One line
/// for each, with a tick or a cross; then the settings that are legal and hurt. Nothing is created, written or acknowledged.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  rivven-mqtt check -c iot.yaml
  rivven-mqtt check -c iot.yaml --json | jq '.steps[] | select(.passed | not)'

Exit codes: 0 all well, 1 something cannot be reached or refuses, 2 wrong usage or configuration.")]
pub(super) struct Check {
    /// Configuration file (YAML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Where the records are going to go, as for `run`
    #[arg(long, value_name = "SINK", default_value = "rivven", value_parser = parse_sink)]
    sink: SinkKind,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    step: String,
    passed: bool,
    /// What was tried.
    tried: String,
    /// What was found, where it passed and there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What to do about that, where the reason does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Step {
    fn new(step: impl Into<String>, tried: impl Into<String>, outcome: Result<String, String>) -> Self {
        let passed = outcome.is_ok();
        let (found, reason) = match outcome {
            Ok(found) => (Some(found).filter(|found| !found.is_empty()), None),
            Err(reason) => (None, Some(reason)),
        };
        Step { source: None, step: step.into(), passed, tried: tried.into(), found, reason, advice: None }
    }

    /// With what to do if it failed.
    fn advise(self, advice: &str) -> Self {
        let advice = (!self.passed).then(|| advice.to_owned());
        Step { advice, ..self }
    }

    /// As a step of one source.
    fn of(self, source: &str) -> Self {
        Step { source: Some(source.to_owned()), ..self }
    }
}

impl From<CheckStep> for Step {
    fn from(step: CheckStep) -> Self {
        let CheckStep { name, tried, passed, reason, advice } = step;
        Step { source: None, step: name, passed, tried, found: None, reason, advice }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.passed { "✓ " } else { "✗ " })?;
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        write!(f, "{}: {}", self.step, self.tried)?;
        // One line for each step, whatever a plugin or a server says.
        let said = self.found.iter().chain(&self.reason).flat_map(|text| text.lines());
        let said: Vec<&str> = said.map(str::trim).filter(|line| !line.is_empty()).collect();
        if !said.is_empty() {
            write!(f, ": {}", said.join("; "))?;
        }
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// What was tried so far. As text, each step is printed when it is known.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    ok: bool,
    steps: Vec<Step>,
    warnings: Vec<Risk>,
    #[serde(skip)]
    json: bool,
}

impl Report {
    fn new(arguments: &Check) -> Self {
        let file = arguments.config.display().to_string();
        Report { file, ok: true, steps: Vec::new(), warnings: Vec::new(), json: arguments.json }
    }

    fn add(&mut self, step: Step) -> Result<()> {
        self.ok &= step.passed;
        if !self.json {
            print(format!("{step}\n").as_bytes())?;
        }
        self.steps.push(step);
        Ok(())
    }

    fn warn(&mut self, risk: Risk) -> Result<()> {
        if !self.json {
            print(format!("! {risk}\n").as_bytes())?;
        }
        self.warnings.push(risk);
        Ok(())
    }

    fn end(self) -> Result<u8> {
        if self.json {
            print(format!("{}\n", serde_json::to_string_pretty(&self)?).as_bytes())?;
        }
        Ok(if self.ok { DONE } else { FAILED })
    }
}

pub(super) async fn execute(arguments: &Check) -> Result<u8> {
    // What goes wrong is in the lines of this command.
    let level = std::env::var_os("RUST_LOG").is_none().then_some(LogLevel::Error);
    if let Err(what) = logging::init(LogFormat::Text, level) {
        eprintln!("rivven-mqtt: {what}");
        return Ok(WRONG);
    }
    let mut report = Report::new(arguments);
    let tried = format!("read {}", arguments.config.display());
    let config = match config::load(&arguments.config, arguments.sink == SinkKind::Rivven) {
        Ok(config) => config,
        Err(error) => {
            // As text, its lines go to stderr, as with every command.
            let reason = if arguments.json { error.to_string() } else { "it cannot be used:".to_owned() };
            report.add(Step::new("configuration", tried, Err(reason)))?;
            report.end()?;
            return Err(error.into());
        }
    };
    let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
    report.add(Step::new("configuration", tried, Ok(format!("sources {}", names.join(", ")))))?;
    for (name, source) in &config.sources {
        if !source.plugins.is_empty() {
            report.add(plugins(name, source).await?.of(name))?;
        }
        mqtt(name, source, &mut report).await?;
    }
    match &arguments.sink {
        SinkKind::Rivven => rivven(&config, &mut report).await?,
        SinkKind::File(file) => report.add(output(file))?,
        SinkKind::Stdout | SinkKind::Discard => {}
    }
    for risk in config.risks() {
        report.warn(risk)?;
    }
    report.end()
}

/// Loads the plugins of a source and starts its workers, as `run` does.
async fn plugins(name: &str, source: &Source) -> Result<Step> {
    let paths: Vec<_> = source.plugins.iter().map(|plugin| plugin.path.display().to_string()).collect();
    let (name, source) = (name.to_owned(), source.clone());
    // `state_dir` may belong to whom `run` is run by, and what is in it to a host that runs.
    let load = move || pipeline::try_load(Sandbox::of_user()?, &name, &source);
    let loaded = tokio::task::spawn_blocking(load).await;
    let outcome = match loaded.context("the check of a plugin has panicked")? {
        Ok(loaded) => {
            let sha256: Vec<_> = loaded.plugins.iter().map(Plugin::sha256_hex).collect();
            Ok(format!("sha256 {}", sha256.join(", ")))
        }
        // What to do is in the error.
        Err(error) => Err(chain(&error)),
    };
    let tried = match paths.as_slice() {
        [path] => format!("load {path}, see that its imports are granted, call its init"),
        paths => {
            format!("load {}, see that their imports are granted, call the init of each", paths.join(" and "))
        }
    };
    Ok(Step::new("plugin", tried, outcome))
}

/// Logs in to the MQTT broker and subscribes, as a client of its own.
async fn mqtt(name: &str, source: &Source, report: &mut Report) -> Result<()> {
    let mqtt = &source.mqtt;
    let checked = MqttSource::new(mqtt.clone())?.check().await;
    // The settings have been checked with the file.
    for step in checked.steps.into_iter().filter(|step| step.name != "configuration") {
        report.add(Step::from(step).of(name))?;
    }
    if mqtt.qos > QoS::AtMostOnce && mqtt.max_inflight > MOSQUITTO_WINDOW {
        let what = format!(
            "is {}, but the broker has a limit of its own that no client can ask for: mosquitto's is {MOSQUITTO_WINDOW} messages for \
             the time of one commit, unless its max_inflight_messages says more",
            mqtt.max_inflight
        );
        report.warn(Risk { source: Some(name.to_owned()), key: "config.max_inflight", what })?;
    }
    Ok(())
}

/// Connects to every server, and looks for the topics that are known before the first message.
async fn rivven(config: &Config, report: &mut Report) -> Result<()> {
    let Some(broker) = &config.broker else { return Ok(()) };
    let by = if broker.tls.is_some() { "TCP and TLS" } else { "TCP" };
    let user = broker.auth.as_ref().and_then(|auth| auth.username.as_deref());
    let login = user.map(|user| format!(", login as the user `{user}`")).unwrap_or_default();
    let mut probe = None;
    for server in &broker.bootstrap_servers {
        let tried = format!("{by} to {server}, handshake{login}");
        match Probe::connect(broker, server).await {
            Ok(connected) => {
                report.add(Step::new("rivven", tried, Ok(String::new())))?;
                probe.get_or_insert(connected);
            }
            Err(Unusable { reason, advice }) => {
                report.add(Step::new("rivven", tried, Err(reason)).advise(advice))?;
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (name, source) in &config.sources {
        let record = &source.record;
        if record.topic.fixed().is_none() {
            let found = "depends on the message; a topic that is missing then is created".to_owned();
            report.add(Step::new("topic", record.topic.to_string(), Ok(found)).of(name))?;
        }
        for (topic, partitions) in pipeline::known_topics(source) {
            if seen.insert(topic.clone()) {
                report.add(look_for(probe.as_mut(), &topic, partitions).await.of(name))?;
            }
        }
    }
    Ok(())
}

async fn look_for(probe: Option<&mut Probe>, topic: &str, partitions: Option<u32>) -> Step {
    let Some(probe) = probe else {
        return Step::new("topic", topic, Err("not tried, because no Rivven server could be used".into()));
    };
    let outcome = match (probe.partitions(topic).await, partitions) {
        (Ok(Some(there)), Some(wanted)) if there != wanted => {
            Ok(format!("is there, with {there} partitions: `partitions: {wanted}` does not change that"))
        }
        (Ok(Some(there)), _) => Ok(format!("is there, with {there} partitions")),
        (Ok(None), Some(wanted)) => Ok(format!("is not there: `run` creates it, with {wanted} partitions")),
        (Ok(None), None) => {
            Ok("is not there: `run` creates it, with the server's number of partitions".to_owned())
        }
        (Err(Unusable { reason, advice }), _) => {
            return Step::new("topic", topic, Err(reason)).advise(advice);
        }
    };
    Step::new("topic", topic, outcome)
}

fn output(file: &Path) -> Step {
    let outcome = FileSink::probe(file).map(|()| String::new()).map_err(|error| chain(&error));
    let step = Step::new("output", format!("append to {}", file.display()), outcome);
    step.advise("choose a file that this user may write to and that no other host has")
}
