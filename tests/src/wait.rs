//! Waiting for conditions, so that no test sleeps for a guessed time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks `condition` until it gives a value; an error that says `what` was awaited once `timeout` is over.
pub async fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if start.elapsed() >= timeout {
            bail!("waited {timeout:?} in vain: {what}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// As [`wait_until`], for a condition that is true or false.
pub async fn wait_for(what: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    wait_until(what, timeout, async || condition().await.then_some(())).await
}
