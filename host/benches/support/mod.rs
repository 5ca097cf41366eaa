//! What the benchmarks share: the machine's description, CPU accounting, statistics, tables, and the messages themselves.
#![allow(dead_code, reason = "each benchmark uses its own part")]

pub mod cpu;
pub mod machine;
pub mod messages;
pub mod stats;
mod table;

use std::path::PathBuf;

pub use table::table;

/// Rounds of every measurement; medians of them are printed.
pub const ROUNDS: usize = 5;

/// The component that `make guests` builds from the package of this name, or what to do about its absence.
pub fn component(name: &str) -> anyhow::Result<PathBuf> {
    guest("wasm32-wasip2", name)
}

/// The same for a core module.
pub fn core_module(name: &str) -> anyhow::Result<PathBuf> {
    guest("wasm32-wasip1", name)
}

fn guest(target: &str, name: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let path = folder.join(target).join("plugin").join(format!("{name}.wasm"));
    anyhow::ensure!(path.exists(), "{} is missing: run `make guests` first", path.display());
    Ok(path)
}

/// The parts of a benchmark to run: those named on the command line, without names all of them. None in a test run, in which
/// cargo passes `--test`.
pub struct Parts(Vec<String>);

impl Parts {
    /// As the command line says.
    pub fn named() -> Self {
        Parts(std::env::args().skip(1).filter(|argument| argument != "--bench").collect())
    }

    /// Whether `part` is to run.
    pub fn include(&self, part: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|named| named == part)
    }

    /// Whether the benchmark is to run at all.
    pub fn any(&self) -> bool {
        !self.0.iter().any(|argument| argument == "--test")
    }
}
