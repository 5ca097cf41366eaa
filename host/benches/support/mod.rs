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

/// `cargo bench` passes `--bench`; with `--test` (a test run) there is nothing to do.
pub fn wanted() -> bool {
    !std::env::args().any(|argument| argument == "--test")
}
