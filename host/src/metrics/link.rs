//! What the driver says of its connection: why it connects again, what is subscribed to, and how old what it owes is.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::message::QoS;

/// Why a source connects again, as a label of metrics; the whole reason is in the log and at `/ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reconnect {
    /// No TCP connection.
    Connect,
    /// No answer in time: to the connection, to CONNECT or to SUBSCRIBE.
    Timeout,
    /// The TLS handshake, or the files that it needs.
    Tls,
    /// The WebSocket handshake.
    WebSocket,
    /// CONNACK refuses the user name or the password.
    Login,
    /// CONNACK refuses for another reason.
    Refused,
    /// SUBACK refuses a filter, or grants less than was asked for.
    Subscription,
    /// The broker sent DISCONNECT.
    Disconnected,
    /// The broker sent DISCONNECT because another client has the session.
    TakenOver,
    /// The broker closes each connection soon; probably another client has the session.
    Flapping,
    /// The broker sent what the specification does not allow.
    Protocol,
    /// The broker closed the connection without a word.
    Closed,
    /// The connection broke.
    Broken,
    /// No answer to a ping.
    Ping,
    /// Anything else.
    Other,
}

impl Reconnect {
    /// All of them.
    pub const ALL: [Reconnect; 15] = [
        Reconnect::Connect,
        Reconnect::Timeout,
        Reconnect::Tls,
        Reconnect::WebSocket,
        Reconnect::Login,
        Reconnect::Refused,
        Reconnect::Subscription,
        Reconnect::Disconnected,
        Reconnect::TakenOver,
        Reconnect::Flapping,
        Reconnect::Protocol,
        Reconnect::Closed,
        Reconnect::Broken,
        Reconnect::Ping,
        Reconnect::Other,
    ];

    /// The value of the label.
    pub fn name(self) -> &'static str {
        match self {
            Reconnect::Connect => "connect",
            Reconnect::Timeout => "timeout",
            Reconnect::Tls => "tls",
            Reconnect::WebSocket => "websocket",
            Reconnect::Login => "login",
            Reconnect::Refused => "refused",
            Reconnect::Subscription => "subscription",
            Reconnect::Disconnected => "disconnected",
            Reconnect::TakenOver => "taken_over",
            Reconnect::Flapping => "flapping",
            Reconnect::Protocol => "protocol",
            Reconnect::Closed => "closed",
            Reconnect::Broken => "broken",
            Reconnect::Ping => "ping",
            Reconnect::Other => "other",
        }
    }
}

/// What the broker answers for a topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscription {
    /// Nothing yet, on the present connection.
    Unanswered,
    /// It is granted with this QoS.
    Granted(QoS),
    /// It is refused, or granted with less than was asked for.
    Refused,
}

/// The state of a source's connection.
#[derive(Debug, Default)]
pub struct Link {
    reconnects: [AtomicU64; Reconnect::ALL.len()],
    /// The configured filters and their state. A handful, touched when a connection comes or goes.
    subscriptions: Mutex<Vec<(String, Subscription)>>,
    window: AtomicU64,
    unacknowledged: AtomicU64,
    in_flight_bytes: AtomicU64,
    /// In nanoseconds since the Unix epoch; 0: nothing is unacknowledged.
    oldest: AtomicU64,
}

/// The state of a source's connection at one moment.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct LinkSnapshot {
    /// Failed attempts and lost connections, by reason.
    pub reconnects: Vec<(&'static str, u64)>,
    /// The configured filters and their state.
    pub subscriptions: Vec<(String, Subscription)>,
    /// Messages that may be in flight.
    pub window: u64,
    /// Messages of the present connection that are not acknowledged: unsettled, or behind one that is.
    pub unacknowledged: u64,
    /// Bytes of the topics and payloads in flight.
    pub in_flight_bytes: u64,
    /// How long the oldest unacknowledged message has been in the host; zero when there is none.
    pub oldest: Duration,
}

impl Link {
    /// A driver starts, with a window of so many messages and these filters.
    pub(crate) fn starts(&self, window: usize, filters: &[String]) {
        self.window.store(window as u64, Relaxed);
        *self.subscriptions() =
            filters.iter().map(|filter| (filter.clone(), Subscription::Unanswered)).collect();
    }

    /// The broker has answered for a filter.
    pub(crate) fn answered(&self, filter: &str, answer: Subscription) {
        if let Some((_, state)) = self.subscriptions().iter_mut().find(|(asked, _)| asked == filter) {
            *state = answer;
        }
    }

    /// Everything is subscribed to: what was not asked for again is in the session, with the QoS of the settings.
    pub(crate) fn subscribed(&self, qos: QoS) {
        for (_, state) in self.subscriptions().iter_mut() {
            if *state == Subscription::Unanswered {
                *state = Subscription::Granted(qos);
            }
        }
    }

    /// The connection has ended. Which filter was refused stays to be seen until the broker is asked again.
    pub(crate) fn ended(&self, why: Option<Reconnect>) {
        if let Some(count) = why.and_then(|why| self.reconnects.get(why as usize)) {
            count.fetch_add(1, Relaxed);
        }
        for (_, state) in self.subscriptions().iter_mut() {
            if *state != Subscription::Refused || why != Some(Reconnect::Subscription) {
                *state = Subscription::Unanswered;
            }
        }
    }

    /// What is owed now: messages, bytes, and when the oldest message came, in nanoseconds since the Unix epoch.
    pub(crate) fn owes(&self, unacknowledged: usize, bytes: usize, oldest: Option<u64>) {
        self.unacknowledged.store(unacknowledged as u64, Relaxed);
        self.in_flight_bytes.store(bytes as u64, Relaxed);
        self.oldest.store(oldest.unwrap_or(0), Relaxed);
    }

    pub(super) fn snapshot(&self) -> LinkSnapshot {
        let since =
            |nanos: u64| SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_nanos(nanos)).ok();
        let oldest = self.oldest.load(Relaxed);
        let counts = self.reconnects.iter().map(|count| count.load(Relaxed));
        LinkSnapshot {
            reconnects: Reconnect::ALL.iter().map(|reason| reason.name()).zip(counts).collect(),
            subscriptions: self.subscriptions().clone(),
            window: self.window.load(Relaxed),
            unacknowledged: self.unacknowledged.load(Relaxed),
            in_flight_bytes: self.in_flight_bytes.load(Relaxed),
            // The clock may have been set back.
            oldest: Some(oldest).filter(|oldest| *oldest > 0).and_then(since).unwrap_or_default(),
        }
    }

    fn subscriptions(&self) -> MutexGuard<'_, Vec<(String, Subscription)>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count_and_name() {
        let link = Link::default();
        for (index, reason) in Reconnect::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            for _ in 0..=index {
                link.ended(Some(reason));
            }
        }
        link.ended(None);
        let counts = link.snapshot().reconnects;
        let mut names: Vec<_> = counts.iter().map(|(name, _)| *name).collect();
        assert_eq!(counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), (1..=15).collect::<Vec<_>>());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reconnect::ALL.len());
    }

    #[test]
    fn a_refusal_stays_until_another_answer_or_another_trouble() {
        use Subscription::{Granted, Refused, Unanswered};
        let link = Link::default();
        link.starts(20, &["a".into(), "b".into()]);
        let states = || link.snapshot().subscriptions.into_iter().map(|(_, state)| state).collect::<Vec<_>>();
        assert_eq!(states(), [Unanswered, Unanswered]);
        link.answered("b", Refused);
        link.answered("a", Granted(QoS::ExactlyOnce));
        link.answered("c", Refused);
        assert_eq!(states(), [Granted(QoS::ExactlyOnce), Refused]);
        link.ended(Some(Reconnect::Subscription));
        assert_eq!(states(), [Unanswered, Refused]);
        link.ended(Some(Reconnect::Connect));
        assert_eq!(states(), [Unanswered, Unanswered]);
        // The session has one of them already.
        link.answered("b", Granted(QoS::ExactlyOnce));
        link.subscribed(QoS::AtLeastOnce);
        assert_eq!(states(), [Granted(QoS::AtLeastOnce), Granted(QoS::ExactlyOnce)]);
        link.ended(None);
        assert_eq!(states(), [Unanswered, Unanswered]);
    }

    #[test]
    fn the_age_is_that_of_the_scrape() {
        let link = Link::default();
        assert_eq!(link.snapshot().oldest, Duration::ZERO);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = |at: Duration| u64::try_from(at.as_nanos()).unwrap_or_default();
        link.owes(1, 10, Some(nanos(now - Duration::from_secs(60))));
        let first = link.snapshot().oldest;
        assert!(first >= Duration::from_secs(60) && first < Duration::from_secs(120), "{first:?}");
        assert!(link.snapshot().oldest > first);
        link.owes(1, 10, Some(nanos(now + Duration::from_secs(60))));
        assert_eq!(link.snapshot().oldest, Duration::ZERO, "the clock was set back");
    }
}
