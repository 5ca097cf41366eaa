//! A mosquitto of our own, with a queue and a window that are large enough not to be what is measured.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, free_port};

/// Messages that mosquitto sends before the first is acknowledged; the host takes as many.
pub const WINDOW: usize = 10_000;

/// A running mosquitto.
pub struct Mosquitto {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// Its process.
    pub process: Process,
}

impl Mosquitto {
    /// Starts mosquitto with its files in `directory`.
    pub fn start(directory: &Path) -> Result<Self> {
        let port = free_port()?;
        let config = directory.join("mosquitto.conf");
        // Started by root it would become the user `mosquitto`, who may not read our folder.
        std::fs::write(
            &config,
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nset_tcp_nodelay true\n\
                 max_queued_messages 10000000\nmax_queued_bytes 0\nmax_inflight_messages {WINDOW}\n"
            ),
        )?;
        let mut process =
            Process::start("mosquitto", Command::new(program()?).arg("-c").arg(&config), directory)?;
        process.wait_for("open port", Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        })?;
        Ok(Mosquitto { port, process })
    }
}

fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut programs = folders.map(|folder| folder.join("mosquitto"));
    programs
        .find(|program| program.exists())
        .context("mosquitto is not installed: `apt-get install mosquitto`")
}
