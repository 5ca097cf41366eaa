//! Settings that are legal and hurt.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::{Config, Mqtt, Plugin, Tls};
use crate::message::QoS;
use crate::state_dir;

/// So many unacknowledged messages and more do not limit the rate: with fewer, it is the window divided by the time of a commit.
const WIDE_WINDOW: usize = 100;

/// A setting that is legal, and what it costs. `Display` is for a person, `Serialize` for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Risk {
    /// The source that it is about, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Path of the key: in the source, or in the file.
    pub key: &'static str,
    /// What it costs, and what to set instead.
    pub what: String,
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl Config {
    /// Settings that are legal and lose messages, protection or speed. Looks at the file system, and connects to nothing.
    pub fn risks(&self) -> Vec<Risk> {
        let mut risks = Vec::new();
        for (name, source) in &self.sources {
            let found = source.mqtt.risks().into_iter().chain(source.plugins.iter().filter_map(unpinned));
            risks.extend(found.map(|risk| Risk { source: Some(name.clone()), ..risk }));
        }
        if let Some(tls) = self.broker.as_ref().and_then(|broker| broker.tls.as_ref()) {
            let keys = TlsKeys { skip: "broker.tls.insecure_skip_verify", key: "broker.tls.client_key" };
            risks.extend(tls_risks(tls, &keys, "Rivven"));
        }
        if is_lost_with_power(&self.settings.state_dir) {
            let what = format!(
                "{} is in memory: what has to survive a restart is gone when the machine restarts; choose a folder on a disk",
                self.settings.state_dir.display()
            );
            risks.push(risk("settings.state_dir", what));
        }
        if let Some((file, mode)) = self.password_file.as_deref().and_then(open_to_others) {
            let what = format!(
                "stands in {0}, which is open to others than its owner (mode {mode:03o}): chmod 600 {0}, or write \
                 ${{VARIABLE}} there",
                file.display()
            );
            risks.push(risk("password", what));
        }
        if let Some((folder, mode)) = open_to_others(&self.settings.state_dir) {
            let what = format!(
                "{0} is open to others than its owner (mode {mode:03o}): chmod 700 {0}",
                folder.display()
            );
            risks.push(risk("settings.state_dir", what));
        }
        risks
    }
}

impl Mqtt {
    /// Settings of this client that are legal and lose messages, protection or speed.
    pub fn risks(&self) -> Vec<Risk> {
        let mut risks = Vec::new();
        if self.clean_session && self.qos > QoS::AtMostOnce {
            risks.push(risk(
                "config.clean_session",
                "is true: what is published while the connection is down, and what is unacknowledged when it breaks, is lost \
                 whatever the QoS; set clean_session: false and a client_id to keep it",
            ));
        }
        if self.qos > QoS::AtMostOnce && self.max_inflight < WIDE_WINDOW {
            let what = format!(
                "is {0}: no more than {0} messages in the time of one commit (some 10 ms) get through; {WIDE_WINDOW} or more do \
                 not slow it down",
                self.max_inflight
            );
            risks.push(risk("config.max_inflight", what));
        }
        if let Some(tls) = &self.tls {
            let keys = TlsKeys { skip: "config.tls.insecure_skip_verify", key: "config.tls.client_key" };
            risks.extend(tls_risks(tls, &keys, "the MQTT broker"));
        }
        risks
    }
}

fn risk(key: &'static str, what: impl Into<String>) -> Risk {
    Risk { source: None, key, what: what.into() }
}

fn unpinned(plugin: &Plugin) -> Option<Risk> {
    let what = "is missing: whatever is at `path` when the host starts is run; `rivven-mqtt plugin inspect` shows the value";
    plugin.sha256.is_none().then(|| risk("plugin.sha256", what))
}

struct TlsKeys {
    skip: &'static str,
    key: &'static str,
}

fn tls_risks(tls: &Tls, keys: &TlsKeys, server: &str) -> Vec<Risk> {
    let mut risks = Vec::new();
    if tls.insecure_skip_verify {
        let what = format!("is true: any server is taken for {server}; set ca_cert instead");
        risks.push(risk(keys.skip, what));
    }
    if let Some((path, mode)) = tls.client_key.as_deref().and_then(open_to_others) {
        let what =
            format!("{0} is open to others than its owner (mode {mode:03o}): chmod 600 {0}", path.display());
        risks.push(risk(keys.key, what));
    }
    risks
}

/// The path and its mode, if it is there and open to others than its owner.
fn open_to_others(path: &Path) -> Option<(&Path, u32)> {
    Some((path, state_dir::open_to_others(&std::fs::metadata(path).ok()?)?))
}

/// Whether a folder, or the nearest one above it that is there, lies in a file system in memory.
#[cfg(target_os = "linux")]
fn is_lost_with_power(folder: &Path) -> bool {
    /// `linux/magic.h`.
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    let mut above =
        folder.ancestors().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let there = above.find(|folder| folder.exists());
    let kind = there.and_then(|folder| rustix::fs::statfs(folder).ok()).map(|found| found.f_type as u32);
    matches!(kind, Some(TMPFS | RAMFS))
}

#[cfg(not(target_os = "linux"))]
fn is_lost_with_power(_: &Path) -> bool {
    false
}
