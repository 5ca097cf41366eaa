//! How long to wait before the next connection attempt.

use std::time::Duration;

use crate::config::Retry;

/// The least delay, so that no draw of the jitter makes a busy loop.
const LEAST: Duration = Duration::from_millis(5);

/// Exponential backoff with full jitter: before each attempt a delay drawn evenly from 0 to a ceiling that grows by the
/// multiplier up to the maximum.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    ceiling: Duration,
    attempts: u32,
}

impl Backoff {
    pub fn new(retry: Retry) -> Self {
        Backoff { retry, ceiling: retry.initial, attempts: 0 }
    }

    /// The connection was accepted and subscribed: attempts are counted from 0 again.
    pub fn connected(&mut self) {
        self.attempts = 0;
    }

    /// The connection also lasted: delays start from the first one again. Separate from [`connected`](Self::connected) because
    /// two clients with one client id connect all the time, and only growing delays keep them from hammering the broker.
    pub fn lasted(&mut self) {
        self.ceiling = self.retry.initial;
    }

    /// Failed attempts in a row, up to now.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// An attempt failed: how long to wait before the next one, or `None` when there may be no more.
    pub fn failed(&mut self) -> Option<Duration> {
        self.attempts = self.attempts.saturating_add(1);
        if self.retry.max_attempts != 0 && self.attempts >= self.retry.max_attempts {
            return None;
        }
        let delay = self.ceiling.mul_f64(fastrand::f64());
        let grown = self.ceiling.as_secs_f64() * self.retry.multiplier;
        self.ceiling = Duration::try_from_secs_f64(grown).unwrap_or(self.retry.max).min(self.retry.max);
        Some(delay.max(LEAST))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn backoff(max_attempts: u32) -> Backoff {
        Backoff::new(Retry {
            initial: Duration::from_millis(100),
            max: Duration::from_millis(500),
            multiplier: 2.0,
            max_attempts,
        })
    }

    #[test]
    fn the_ceiling_grows_to_the_maximum_and_starts_again_only_after_a_lasting_connection() {
        let mut backoff = backoff(0);
        for ceiling in [100, 200, 400, 500, 500] {
            assert_eq!(backoff.ceiling, Duration::from_millis(ceiling));
            let delay = backoff.failed().unwrap();
            assert!(delay >= LEAST && delay <= Duration::from_millis(ceiling));
        }
        backoff.connected();
        assert_eq!((backoff.attempts(), backoff.ceiling), (0, Duration::from_millis(500)));
        backoff.lasted();
        assert_eq!(backoff.ceiling, Duration::from_millis(100));
    }

    #[test]
    fn attempts_are_counted_in_a_row() {
        let mut backoff = backoff(2);
        assert!(backoff.failed().is_some());
        backoff.connected();
        assert!(backoff.failed().is_some());
        assert!(backoff.failed().is_none());
    }
}
