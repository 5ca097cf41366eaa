//! The published Rivven server as a program of this workspace, so that no global install is needed. It takes the options
//! of `rivvend`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rivvend::{Cli, ClusterServer};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Longer than the server itself waits for its clients.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&cli.log_level))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Err(error) = cli.validate() {
        bail!("bad options: {error}");
    }

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let server = ClusterServer::new(cli).await.context("cannot start the server")?;
    let shutdown = server.get_shutdown_handle();
    let mut running = tokio::spawn(async move { server.start().await });

    tokio::select! {
        ended = &mut running => return ended?.context("the server failed"),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.shutdown();
    let ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, running).await;
    ended.context("the server does not shut down")??.context("the server failed while shutting down")
}
