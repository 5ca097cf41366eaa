//! What a plugin says: `rivven:connect/log`, stdout and stderr, as lines in the host's log and within a budget.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::component::{ComponentType, Lift};

/// The longest line, in bytes; the rest is cut.
const MAX_LINE: usize = 4_096;

/// How important a line is; the WIT's `level`.
#[expect(dead_code, reason = "most levels are made by a plugin only")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    /// For whoever debugs the plugin.
    #[component(name = "trace")]
    Trace,
    /// For whoever debugs the plugin.
    #[component(name = "debug")]
    Debug,
    /// For the operator.
    #[component(name = "info")]
    Info,
    /// The operator may have to act.
    #[component(name = "warn")]
    Warn,
    /// The operator has to act.
    #[component(name = "error")]
    Error,
}

/// The log of the plugin of one source; all its workers share the budget.
#[derive(Debug)]
pub struct PluginLog {
    source: String,
    plugin: Arc<str>,
    budget: Mutex<Budget>,
    dropped: AtomicU64,
}

impl PluginLog {
    /// Lines are marked with `source` and `plugin`; more than `lines_per_second` are dropped and counted.
    pub fn new(source: impl Into<String>, plugin: impl Into<Arc<str>>, lines_per_second: u32) -> Self {
        let budget = Mutex::new(Budget::new(lines_per_second, Instant::now()));
        PluginLog { source: source.into(), plugin: plugin.into(), budget, dropped: AtomicU64::new(0) }
    }

    /// Lines that were over the budget.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// The most lines that came in one second, those over the budget included.
    pub fn busiest(&self) -> u64 {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).busiest
    }

    /// Writes one line, if the budget allows it.
    pub(super) fn write(&self, level: Level, text: &str) {
        let taken = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        let Some(missed) = taken else {
            self.dropped.fetch_add(1, Relaxed);
            return;
        };
        let (source, plugin) = (self.source.as_str(), &*self.plugin);
        if missed > 0 {
            tracing::warn!(target: "plugin", source, plugin, lines = missed, "log lines of the plugin were dropped");
        }
        let line = clean(text);
        match level {
            Level::Trace => tracing::trace!(target: "plugin", source, plugin, "{line}"),
            Level::Debug => tracing::debug!(target: "plugin", source, plugin, "{line}"),
            Level::Info => tracing::info!(target: "plugin", source, plugin, "{line}"),
            Level::Warn => tracing::warn!(target: "plugin", source, plugin, "{line}"),
            Level::Error => tracing::error!(target: "plugin", source, plugin, "{line}"),
        }
    }
}

/// A token bucket of one second.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    tokens: f64,
    refilled: Instant,
    missed: u64,
    second: Instant,
    in_second: u64,
    busiest: u64,
}

impl Budget {
    fn new(per_second: u32, now: Instant) -> Self {
        let (per_second, tokens) = (per_second.into(), per_second.into());
        Budget { per_second, tokens, refilled: now, missed: 0, second: now, in_second: 0, busiest: 0 }
    }

    /// Takes a token: then how many were refused since the last one was taken. `None` when there is none.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.in_second) = (now, 0);
        }
        self.in_second += 1;
        self.busiest = self.busiest.max(self.in_second);
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.per_second);
        self.refilled = now;
        if self.tokens < 1.0 {
            self.missed += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.missed))
    }
}

/// Cuts `text` to one line that cannot be taken for anything else: control characters are escaped.
fn clean(text: &str) -> Cow<'_, str> {
    let cut = text.floor_char_boundary(MAX_LINE);
    let line = &text[..cut];
    if cut == text.len() && !line.contains(char::is_control) {
        return Cow::Borrowed(line);
    }
    let mut clean = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    if cut < text.len() {
        // Writing to a string cannot fail.
        let _ = write!(clean, "… ({} bytes more)", text.len() - cut);
    }
    Cow::Owned(clean)
}

/// Standard output or standard error of an instance: split into lines, each written to the log. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct LineSplitter(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    log: Arc<PluginLog>,
    level: Level,
    /// The line that has no end yet; what is over [`MAX_LINE`] is counted, not kept.
    line: Vec<u8>,
    cut: usize,
    /// The first lines that were completed since [`LineSplitter::begin`]: a panic message, for the fault's reason.
    said: String,
}

/// How much of what was said is kept for the reason of a fault, in bytes.
const MAX_SAID: usize = 512;

impl LineSplitter {
    pub fn new(log: Arc<PluginLog>, level: Level) -> Self {
        let lines = Lines { log, level, line: Vec::new(), cut: 0, said: String::new() };
        LineSplitter(Arc::new(Mutex::new(lines)))
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self, bytes: &[u8]) {
        let mut lines = self.lines();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    lines.push(end);
                    lines.finish();
                }
                None => lines.push(part),
            }
        }
    }

    /// A call begins: forgets what was said before.
    pub fn begin(&self) {
        self.lines().said.clear();
    }

    /// The instance has ended: what was said since [`begin`](Self::begin), on one line.
    pub fn end(&self) -> String {
        let mut lines = self.lines();
        if !lines.line.is_empty() {
            lines.finish();
        }
        std::mem::take(&mut lines.said)
    }
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.line.len());
        let kept = bytes.get(..room).unwrap_or(bytes);
        self.line.extend_from_slice(kept);
        self.cut += bytes.len() - kept.len();
    }

    fn finish(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end();
        if !text.is_empty() {
            let mut line = clean(text);
            if self.cut > 0 {
                let _ = write!(line.to_mut(), "… ({} bytes more)", self.cut);
            }
            self.log.write(self.level, &line);
            let room = MAX_SAID.saturating_sub(self.said.len());
            if room > 0 {
                if !self.said.is_empty() {
                    self.said.push(' ');
                }
                let kept = line.get(..line.floor_char_boundary(room)).unwrap_or_default();
                self.said.push_str(kept);
            }
        }
        self.line.clear();
        self.cut = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_refills_and_counts_what_it_refused() {
        let start = Instant::now();
        let mut budget = Budget::new(2, start);
        assert_eq!((budget.take(start), budget.take(start)), (Some(0), Some(0)));
        assert_eq!((budget.take(start), budget.take(start)), (None, None));
        assert_eq!(budget.take(start + Duration::from_millis(500)), Some(2));
        assert_eq!(budget.take(start + Duration::from_millis(501)), None);
        let later = start + Duration::from_secs(60);
        assert_eq!((budget.take(later), budget.take(later), budget.take(later)), (Some(1), Some(0), None));
        // Six in the first second, three in the last.
        assert_eq!(budget.busiest, 6);
    }

    #[test]
    fn lines_over_the_budget_are_counted() {
        let log = PluginLog::new("test", "test", 3);
        for _ in 0..10 {
            log.write(Level::Info, "hello");
        }
        // A second may have passed on a slow machine; never has more than one line of the first four been dropped then.
        assert!((1..=7).contains(&log.dropped()), "{}", log.dropped());
        let silent = PluginLog::new("test", "test", 0);
        silent.write(Level::Error, "hello");
        assert_eq!(silent.dropped(), 1);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(clean("plain é"), "plain é");
        assert_eq!(
            clean("a\nERROR forged\r\t\u{1b}[31m\0\u{9b}"),
            "a\\nERROR forged\\r\\t\\u{1b}[31m\\u{0}\\u{9b}"
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(clean(&"a".repeat(MAX_LINE)).len(), MAX_LINE);
        let long = "é".repeat(MAX_LINE);
        let cut = clean(&long);
        assert_eq!(*cut, format!("{}… (4096 bytes more)", "é".repeat(MAX_LINE / 2)));
    }

    #[test]
    fn output_is_split_into_lines_whatever_the_pieces() {
        let log = Arc::new(PluginLog::new("test", "test", 1_000));
        let output = LineSplitter::new(log.clone(), Level::Warn);
        for piece in ["thread pani", "cked at 3:4:\nno", " such device\n\n", "tail"] {
            output.write(piece.as_bytes());
        }
        assert_eq!(output.end(), "thread panicked at 3:4: no such device tail");
        output.write(b"old\n");
        output.begin();
        output.write(b"new\n");
        assert_eq!(output.end(), "new");
    }

    #[test]
    fn endless_output_takes_no_memory() {
        let log = Arc::new(PluginLog::new("test", "test", 1_000));
        let output = LineSplitter::new(log, Level::Info);
        for _ in 0..1_000 {
            output.write(&[b'x'; 4_096]);
        }
        assert!(output.lines().line.capacity() <= 2 * MAX_LINE);
        output.write(b"\nnext\n");
        let lines = output.lines();
        assert_eq!((lines.line.len(), lines.cut, lines.said.len()), (0, 0, MAX_SAID));
    }
}
