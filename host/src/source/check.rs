//! What a trial connection found.

use std::fmt;

use serde::Serialize;

use crate::config::Mqtt;
use crate::error::{MqttError, chain};
use crate::mqtt::probe;

/// The steps of [`MqttSource::check`](super::MqttSource::check), in order: `broker_connectivity`, `mqtt_authentication`,
/// `subscription <filter>` for each topic filter, `configuration`. All of them are there, also those that could not be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The steps.
    pub steps: Vec<CheckStep>,
}

/// One step of a [`CheckReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckStep {
    /// Which it is.
    pub name: String,
    /// What was tried, with which address or name.
    pub tried: String,
    /// Whether it succeeded.
    pub passed: bool,
    /// Why it failed.
    pub reason: Option<String>,
    /// What to do about it, where the reason does not say it.
    pub advice: Option<String>,
}

impl CheckStep {
    fn new(name: impl Into<String>, tried: impl Into<String>, outcome: Option<&MqttError>) -> Self {
        CheckStep {
            name: name.into(),
            tried: tried.into(),
            passed: outcome.is_none(),
            reason: outcome.map(|error| chain(error)),
            advice: outcome.and_then(MqttError::advice).map(str::to_owned),
        }
    }

    fn not_tried(name: impl Into<String>, after: &str) -> Self {
        CheckStep {
            name: name.into(),
            tried: "nothing".into(),
            passed: false,
            reason: Some(format!("not tried, because {after} failed")),
            advice: None,
        }
    }
}

impl CheckReport {
    /// Whether every step has passed.
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|step| step.passed)
    }

    /// The step with this name.
    pub fn step(&self, name: &str) -> Option<&CheckStep> {
        self.steps.iter().find(|step| step.name == name)
    }

    pub(super) async fn of(mqtt: &Mqtt) -> Self {
        let mut steps = Vec::new();
        trial(mqtt, &mut steps).await;
        let validated = mqtt.validate();
        let tried = "ranges, names, files and combinations of the settings";
        steps.push(CheckStep::new("configuration", tried, validated.as_ref().err()));
        CheckReport { steps }
    }
}

const CONNECTIVITY: &str = "broker_connectivity";
const AUTHENTICATION: &str = "mqtt_authentication";

async fn trial(mqtt: &Mqtt, steps: &mut Vec<CheckStep>) {
    let subscription = |filter: &String| format!("subscription {filter}");
    let without = |steps: &mut Vec<CheckStep>, filters: &[String], after: &str| {
        steps.extend(filters.iter().map(|filter| CheckStep::not_tried(subscription(filter), after)));
    };
    let opened = probe::Probe::open(mqtt).await;
    steps.push(CheckStep::new(
        CONNECTIVITY,
        format!("{} to {}", probe::layers(mqtt), mqtt.url),
        opened.as_ref().err(),
    ));
    let Ok(mut probe) = opened else {
        steps.push(CheckStep::not_tried(AUTHENTICATION, CONNECTIVITY));
        return without(steps, &mqtt.topics, CONNECTIVITY);
    };
    let user = match mqtt.auth.as_ref().and_then(|auth| auth.username.as_deref()) {
        Some(username) => format!("the user `{username}`"),
        None if mqtt.auth.is_some() => "a password without a user".to_owned(),
        None => "no user".to_owned(),
    };
    let tried = format!("CONNECT as {user} with the client id `{}`", probe.client_id());
    let login = probe.login().await;
    steps.push(CheckStep::new(AUTHENTICATION, tried, login.as_ref().err()));
    if login.is_err() {
        return without(steps, &mqtt.topics, AUTHENTICATION);
    }
    for (index, filter) in mqtt.topics.iter().enumerate() {
        let (tried, granted) = probe.subscribe(filter).await;
        let tried = format!("SUBSCRIBE to `{tried}` at QoS {}", mqtt.qos as u8);
        steps.push(CheckStep::new(subscription(filter), tried, granted.as_ref().err()));
        // A refusal leaves the connection as it is; after anything else there is none.
        if granted.is_err_and(|error| !matches!(error, MqttError::Subscription { .. })) {
            return without(steps, mqtt.topics.get(index + 1..).unwrap_or_default(), &subscription(filter));
        }
    }
    probe.goodbye().await;
}

impl fmt::Display for CheckReport {
    /// A line for each step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for CheckStep {
    /// `name: passed (what was tried)`, or with the reason and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.passed { "passed" } else { "failed" };
        write!(f, "{}: {outcome} ({})", self.name, self.tried)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}
