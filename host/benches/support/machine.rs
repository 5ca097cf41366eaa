//! What the figures were taken on.

use std::fs;
use std::process::Command;

/// Prints the machine, the versions and the commit.
pub fn print(benchmark: &str) {
    println!("\n=== {benchmark}: rivven-mqtt {}, commit {}", env!("CARGO_PKG_VERSION"), commit());
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    println!("{cores} cores, {}, Linux {}, {}", processor(), kernel(), first_line("rustc", &["--version"]));
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap_or_default();
    let versions: Vec<_> =
        ["wasmtime", "rumqttc", "rivvend", "tokio"].map(|name| version(&lock, name)).into();
    println!("{}, {}\n", versions.join(", "), mosquitto());
}

fn commit() -> String {
    let hash = first_line("git", &["rev-parse", "--short", "HEAD"]);
    let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_empty() { hash } else { hash + " with uncommitted changes" }
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The version of `name` in the lockfile.
fn version(lock: &str, name: &str) -> String {
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    format!("{name} {}", version.unwrap_or("?"))
}

fn mosquitto() -> String {
    let line = first_line("mosquitto", &["-h"]);
    if line.is_empty() { "no mosquitto".to_owned() } else { line }
}

/// The first line that a command prints; empty when it cannot be run.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
