//! What is seen while the demo runs: bars on a terminal, a line a second elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How far a stage is, and when it was that far.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// What it does.
    pub name: &'static str,
    /// Messages so far.
    pub count: u64,
    started: Option<Instant>,
    last: Option<Instant>,
}

impl Stage {
    /// A stage that has not begun.
    pub fn new(name: &'static str) -> Self {
        Stage { name, count: 0, started: None, last: None }
    }

    fn update(&mut self, count: u64) {
        if count > self.count {
            let now = Instant::now();
            self.started.get_or_insert(now);
            self.last = Some(now);
            self.count = count;
        }
    }

    /// Messages a second between the first and the last that were seen.
    pub fn rate(&self) -> f64 {
        let (Some(started), Some(last)) = (self.started, self.last) else { return 0.0 };
        self.count as f64 / (last - started).max(Duration::from_millis(1)).as_secs_f64()
    }
}

/// The stages, and what shows them.
pub struct Progress {
    stages: Vec<Stage>,
    bars: Option<Vec<ProgressBar>>,
    printed: Instant,
}

impl Progress {
    /// Shows `stages`, each of which will reach `total` unless its name says otherwise.
    pub fn new(stages: &[&'static str], total: u64) -> Result<Self> {
        let bars = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(
                "  {prefix:<22} {bar:40.cyan/blue} {human_pos:>7} {per_sec:>12}",
            )?;
            let all = MultiProgress::new();
            let bar = |name: &&'static str| {
                all.add(ProgressBar::new(total)).with_style(style.clone()).with_prefix(*name)
            };
            Some(stages.iter().map(bar).collect())
        } else {
            None
        };
        Ok(Progress {
            stages: stages.iter().map(|name| Stage::new(name)).collect(),
            bars,
            printed: Instant::now(),
        })
    }

    /// Takes the newest counts, one for each stage.
    pub fn update(&mut self, counts: &[u64]) {
        for (stage, &count) in self.stages.iter_mut().zip(counts) {
            stage.update(count);
        }
        match &self.bars {
            Some(bars) => bars.iter().zip(counts).for_each(|(bar, &count)| bar.set_position(count)),
            None if self.printed.elapsed() >= Duration::from_secs(1) => self.print(),
            None => {}
        }
    }

    /// The last picture stays; the stages are given back.
    pub fn finish(mut self) -> Vec<Stage> {
        match self.bars.take() {
            Some(bars) => bars.iter().for_each(|bar| bar.abandon()),
            None => self.print(),
        }
        self.stages
    }

    fn print(&mut self) {
        let counts: Vec<String> =
            self.stages.iter().map(|stage| format!("{} {}", stage.name, stage.count)).collect();
        println!("  {}", counts.join(", "));
        self.printed = Instant::now();
    }
}
