//! What arrives, how fast, and in how much memory: mosquitto, the host as a process, and rivvend, against writers that go to
//! the same rivvend directly and against a bare subscriber of the same mosquitto.
//!
//! `cargo bench --bench delivery -- throughput latency memory start` runs the named parts; without a name all of them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod host;
mod latency;
mod memory;
mod mosquitto;
mod mqtt;
mod process;
mod rivvend;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod tail;
mod throughput;

use anyhow::Result;

fn main() -> Result<()> {
    let parts = support::Parts::named();
    if rivvend::become_rivvend()? || !parts.any() {
        return Ok(());
    }
    support::machine::print("delivery");
    if parts.include("throughput") {
        throughput::run()?;
    }
    if parts.include("latency") {
        latency::run()?;
    }
    if parts.include("memory") {
        memory::run()?;
    }
    if parts.include("start") {
        start::run()?;
    }
    Ok(())
}
