//! When to ping, and when the broker counts as lost (3.1.1 section 3.1.2.10, 5.0 section 3.1.2.10). Pure: times in, what is due out.
//!
//! The specification asks for a ping where nothing was sent for an interval. We ping as well where nothing came for one: what is
//! written to a broker that is gone does not come back, and postponed the ping that shows it.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::MqttError;

/// After a ping this many bytes show that the broker is there though its answer is behind a great packet. Fewer do not, unless a
/// packet ends among them: a peer that sends a byte now and then would hold the connection for ever.
const ALIVE: usize = 1_024;

/// So far away that it never is: where no time is due.
const NEVER: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(super) struct KeepAlive {
    /// `None`: no pings.
    interval: Option<Duration>,
    last_write: Instant,
    /// When the broker last showed that it is there.
    heard: Instant,
    /// The ping that is not answered: when it was sent, and the bytes that came since.
    pinged: Option<(Instant, usize)>,
}

impl KeepAlive {
    /// The connection begins now.
    pub fn new(interval: Duration, now: Instant) -> Self {
        KeepAlive { interval: Some(interval), last_write: now, heard: now, pinged: None }
    }

    /// The broker's word in the CONNACK of 5.0 (section 3.2.2.3.14); 0 turns pings off.
    pub fn overrule(&mut self, seconds: u16) {
        self.interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    }

    /// For the log; 0 is none.
    pub fn seconds(&self) -> u64 {
        self.interval.map_or(0, |interval| interval.as_secs())
    }

    /// Something was written.
    pub fn written(&mut self, now: Instant) {
        self.last_write = now;
    }

    /// Bytes came; `whole`: a packet ended among them.
    pub fn came(&mut self, bytes: usize, whole: bool, now: Instant) {
        let since = self.pinged.as_mut().map(|(_, since)| {
            *since += bytes;
            *since
        });
        if whole || since.is_some_and(|since| since >= ALIVE) {
            self.pinged = None;
            self.heard = now;
        }
    }

    /// Whether a ping is due, and when to ask again. `excused`: nothing is read at present, so no answer can be seen.
    pub fn due(&mut self, now: Instant, excused: bool) -> Result<(bool, Instant), MqttError> {
        let Some(interval) = self.interval else { return Ok((false, now + NEVER)) };
        let patience = interval / 2;
        if let Some((sent, _)) = &mut self.pinged {
            if excused {
                *sent = now;
            } else if now >= *sent + patience {
                return Err(MqttError::NoPingResponse { after: patience });
            }
        }
        let silent = |it: &Self| (!excused && it.pinged.is_none()).then_some(it.heard + interval);
        let ping = now >= self.last_write + interval || silent(self).is_some_and(|at| now >= at);
        if ping {
            self.last_write = now;
            self.pinged.get_or_insert((now, 0));
        }
        let others = [silent(self), self.pinged.map(|(sent, _)| sent + patience)];
        let next = others.into_iter().flatten().fold(self.last_write + interval, Instant::min);
        Ok((ping, next))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pinged() -> (KeepAlive, Instant) {
        let start = Instant::now();
        let mut alive = KeepAlive::new(10 * SECOND, start);
        assert_eq!(alive.due(start + 9 * SECOND, false).unwrap(), (false, start + 10 * SECOND));
        assert_eq!(alive.due(start + 10 * SECOND, false).unwrap(), (true, start + 15 * SECOND));
        (alive, start + 10 * SECOND)
    }

    #[test]
    fn a_packet_or_many_bytes_answer_a_ping_and_a_trickle_does_not() {
        let (mut alive, sent) = pinged();
        alive.came(2, true, sent + SECOND);
        assert_eq!(alive.due(sent + 6 * SECOND, false).unwrap(), (false, sent + 10 * SECOND));

        let (mut alive, sent) = pinged();
        alive.came(1_000, false, sent);
        alive.came(24, false, sent);
        alive.due(sent + 5 * SECOND, false).unwrap();

        let (mut alive, sent) = pinged();
        (0..100).for_each(|_| alive.came(1, false, sent));
        alive.due(sent + 4 * SECOND, false).unwrap();
        let lost = alive.due(sent + 5 * SECOND, false).unwrap_err();
        assert!(matches!(lost, MqttError::NoPingResponse { after } if after == 5 * SECOND), "{lost}");
    }

    #[test]
    fn who_does_not_read_expects_no_answer_and_pings_on() {
        let (mut alive, sent) = pinged();
        for n in 1..5 {
            let (ping, _) = alive.due(sent + n * 10 * SECOND, true).unwrap();
            assert!(ping);
        }
        // Reading again, the broker has as long as ever.
        assert!(!alive.due(sent + 44 * SECOND, false).unwrap().0);
        alive.due(sent + 45 * SECOND, false).unwrap_err();
    }

    #[test]
    fn what_is_written_to_a_broker_that_is_gone_does_not_postpone_the_ping() {
        let start = Instant::now();
        let mut alive = KeepAlive::new(10 * SECOND, start);
        alive.came(100, true, start + 2 * SECOND);
        (3..12).for_each(|n| alive.written(start + n * SECOND));
        assert_eq!(alive.due(start + 11 * SECOND, false).unwrap(), (false, start + 12 * SECOND));
        assert_eq!(alive.due(start + 12 * SECOND, false).unwrap(), (true, start + 17 * SECOND));
        alive.written(start + 16 * SECOND);
        assert!(alive.due(start + 17 * SECOND, false).is_err(), "after 1.5 keep-alives of silence");

        // Who does not read has not heard anything either.
        let mut alive = KeepAlive::new(10 * SECOND, start);
        alive.written(start + 9 * SECOND);
        assert_eq!(alive.due(start + 11 * SECOND, true).unwrap(), (false, start + 19 * SECOND));
    }

    #[test]
    fn the_broker_has_the_last_word() {
        let (mut alive, sent) = pinged();
        alive.came(2, true, sent);
        alive.overrule(3);
        assert_eq!(alive.seconds(), 3);
        assert!(alive.due(sent + 3 * SECOND, false).unwrap().0);
        alive.overrule(0);
        assert!(!alive.due(sent + 10_000 * SECOND, false).unwrap().0);
    }
}
