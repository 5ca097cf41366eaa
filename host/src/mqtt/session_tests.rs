//! The session against a model of an honest broker.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A new message.
    Publish(u8),
    /// A message that is not acknowledged comes again: on this connection, or, after a resume, on the next.
    Again(usize),
    /// Some messages in the host are settled, in one batch.
    Settle(Vec<usize>),
    /// Some are let go of and never settled.
    Abandon(Vec<usize>),
    /// What waits becomes durable.
    Store,
    /// The broker releases an identifier that it got a PUBREC for.
    Release(usize),
    /// It releases one that nobody knows.
    ReleaseUnknown,
    Reconnect {
        session_present: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..3).prop_map(Step::Publish),
        2 => any::<usize>().prop_map(Step::Again),
        6 => proptest::collection::vec(any::<usize>(), 1..5).prop_map(Step::Settle),
        1 => proptest::collection::vec(any::<usize>(), 1..3).prop_map(Step::Abandon),
        4 => Just(Step::Store),
        3 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::ReleaseUnknown),
        1 => any::<bool>().prop_map(|session_present| Step::Reconnect { session_present }),
    ];
    proptest::collection::vec(step, 0..120)
}

/// A PUBLISH that the broker sent on the present connection and has no acknowledgement for.
#[derive(Debug)]
struct Sent {
    qos: u8,
    id: u16,
    /// The message, by its number.
    message: u64,
}

#[derive(Default)]
struct Model {
    persistent: bool,
    /// Sent on this connection, not acknowledged, in order.
    sent: VecDeque<Sent>,
    next_id: u16,
    next_message: u64,
    /// Sequence numbers in the host.
    in_host: Vec<u64>,
    /// Those that were let go of on this connection, and stay until it ends.
    abandoned: Vec<u64>,
    /// The first sequence number of this connection.
    first: u64,
    /// Something was let go of on this connection, and holds back what is behind it.
    stuck: bool,
    /// QoS and message of each sequence number.
    message_of: HashMap<u64, (u8, u64)>,
    settled: HashSet<u64>,
    durable: HashSet<u64>,
    /// QoS 2 identifiers of the broker's session that it has not released, with their message.
    open: HashMap<u16, u64>,
    /// Those it got a PUBREC for.
    received: Vec<u16>,
    /// Those whose PUBCOMP it waits for.
    completing: Vec<u16>,
    /// QoS 2 messages that were processed.
    entered: HashSet<u64>,
}

impl Model {
    fn publish(&mut self, session: &mut Session, qos: u8, id: u16, message: u64) {
        let suppressed = qos == 2 && session.suppress(id);
        if !suppressed {
            let kind = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][qos as usize];
            let sequence = session.admit(id, kind, 10);
            assert!(!self.message_of.contains_key(&sequence), "sequence number {sequence} used twice");
            self.message_of.insert(sequence, (qos, message));
            self.in_host.push(sequence);
            assert!(qos < 2 || self.entered.insert(message), "message {message} entered twice");
        }
        if qos > 0 {
            self.sent.push_back(Sent { qos, id, message });
        }
    }

    fn step(&mut self, session: &mut Session, step: Step) {
        match step {
            Step::Publish(qos) => {
                self.next_id += 1;
                self.next_message += 1;
                let (id, message) = (self.next_id, self.next_message);
                if qos == 2 {
                    self.open.insert(id, message);
                }
                self.publish(session, qos, id, message);
            }
            Step::Again(index) => {
                let mut open: Vec<_> = self.open.iter().map(|(id, message)| (*id, *message)).collect();
                open.retain(|(id, _)| !self.completing.contains(id) && !self.received.contains(id));
                open.sort_unstable();
                if !open.is_empty() {
                    let (id, message) = open[index % open.len()];
                    self.publish(session, 2, id, message);
                }
            }
            Step::Settle(picks) => {
                let picked = self.pick(picks);
                self.settle(session, picked);
            }
            Step::Abandon(picks) => self.abandon(session, picks),
            Step::Store => self.store(session),
            Step::Release(index) => {
                if !self.received.is_empty() {
                    let id = self.received.remove(index % self.received.len());
                    self.completing.push(id);
                    session.release(id);
                }
            }
            Step::ReleaseUnknown => {
                self.completing.push(60_000);
                session.release(60_000);
            }
            Step::Reconnect { session_present } => self.reconnect(session, session_present),
        }
        self.check(session);
    }

    /// Takes some out of the host, in their order.
    fn pick(&mut self, picks: Vec<usize>) -> Vec<u64> {
        let mut picked = Vec::new();
        for pick in picks {
            if !self.in_host.is_empty() {
                picked.push(self.in_host.remove(pick % self.in_host.len()));
            }
        }
        picked.sort_unstable();
        picked
    }

    fn settle(&mut self, session: &mut Session, picked: Vec<u64>) {
        let mut sequences = Sequences::default();
        for sequence in picked {
            sequences.push(sequence);
            self.settled.insert(self.message_of[&sequence].1);
        }
        session.settle(&sequences);
    }

    fn abandon(&mut self, session: &mut Session, picks: Vec<usize>) {
        let mut sequences = Sequences::default();
        let mut left = 0;
        for sequence in self.pick(picks) {
            sequences.push(sequence);
            let (qos, _) = self.message_of[&sequence];
            self.stuck |= qos > 0;
            if qos == 0 || sequence < self.first {
                self.left(sequence);
                left += 1;
            } else {
                self.abandoned.push(sequence);
            }
        }
        assert_eq!(session.abandon(&sequences), left);
    }

    /// It is in the host no more, so it may come again.
    fn left(&mut self, sequence: u64) {
        self.entered.remove(&self.message_of[&sequence].1);
    }

    fn store(&mut self, session: &mut Session) {
        let changes = std::mem::take(&mut session.changes);
        for change in &changes {
            if let Change::Received { sequence, .. } = change {
                self.durable.insert(self.message_of[sequence].1);
            }
        }
        session.stored(&changes);
    }

    fn reconnect(&mut self, session: &mut Session, session_present: bool) {
        let abandoned = std::mem::take(&mut self.abandoned);
        assert_eq!(session.disconnected(), abandoned.len() as u64);
        abandoned.into_iter().for_each(|sequence| self.left(sequence));
        assert!(session.out.is_empty());
        (self.first, self.stuck) = (session.next(), false);
        let session_present = session_present && self.persistent;
        session.connected(session_present);
        let unacknowledged = std::mem::take(&mut self.sent);
        if !session_present {
            self.open.clear();
            self.received.clear();
            self.completing.clear();
            return;
        }
        // Everything unacknowledged comes again, in its order, each once (MQTT-4.4.0-1, MQTT-4.6.0-1).
        let mut again = HashSet::new();
        for Sent { qos, id, message } in unacknowledged {
            let open = self.open.get(&id) == Some(&message);
            let past_publish = self.received.contains(&id) || self.completing.contains(&id);
            if (qos == 1 || open && !past_publish) && again.insert(message) {
                self.publish(session, qos, id, message);
            }
        }
        for id in self.completing.clone() {
            session.release(id);
        }
    }

    /// Takes what the client writes, as a broker that trusts nothing.
    fn check(&mut self, session: &mut Session) {
        let out = std::mem::take(&mut session.out);
        for packet in out.chunks(4) {
            let [packet_type, 2, high, low] = *packet else { panic!("{packet:?}") };
            let id = u16::from_be_bytes([high, low]);
            if packet_type == PUBCOMP {
                let place = self.completing.iter().position(|completing| *completing == id);
                self.completing.remove(place.expect("PUBCOMP for nothing"));
                assert!(!self.completing.contains(&id) || id == 60_000);
                self.open.remove(&id);
                continue;
            }
            // Receive order, and nothing of an earlier connection.
            let sent = self.sent.pop_front().expect("an acknowledgement that is owed to nothing");
            assert_eq!(id, sent.id);
            assert_eq!(packet_type, if sent.qos == 1 { PUBACK } else { PUBREC });
            assert!(self.settled.contains(&sent.message), "acknowledged before the commit");
            if sent.qos == 2 {
                assert!(
                    !self.persistent || self.durable.contains(&sent.message),
                    "PUBREC before it is durable"
                );
                if !self.received.contains(&id) && !self.completing.contains(&id) {
                    self.received.push(id);
                }
            }
        }
        let messages = self.in_host.len() + self.abandoned.len();
        assert_eq!((session.messages(), session.bytes()), (messages, messages * 10));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_honest_broker_gets_what_it_is_owed(steps in steps(), persistent in any::<bool>()) {
        let mut session = Session::new(persistent, []);
        let mut model = Model { persistent, ..Model::default() };
        session.connected(false);
        for step in steps {
            model.step(&mut session, step);
        }
        // A new connection mends what was let go of.
        if model.stuck {
            model.step(&mut session, Step::Reconnect { session_present: true });
        }
        // At the end all is settled and stored, and all that is owed has left.
        let mut rest = std::mem::take(&mut model.in_host);
        rest.sort_unstable();
        model.settle(&mut session, rest);
        model.check(&mut session);
        model.store(&mut session);
        model.check(&mut session);
        prop_assert!(model.sent.is_empty(), "still owed: {:?}", model.sent);
        prop_assert!(model.completing.is_empty(), "no PUBCOMP for {:?}", model.completing);
        prop_assert_eq!(session.unacknowledged(), 0);
    }
}

#[test]
fn identifiers_of_an_earlier_process_are_known_until_they_are_released() {
    let mut session = Session::new(true, [5]);
    session.connected(true);
    assert!(session.suppress(5));
    assert_eq!(session.out, acknowledgement(PUBREC, 5));
    session.out.clear();
    session.release(5);
    assert!(session.out.is_empty(), "PUBCOMP before the release is durable");
    let changes = std::mem::take(&mut session.changes);
    session.stored(&changes);
    assert_eq!(session.out, acknowledgement(PUBCOMP, 5));
    assert!(!session.suppress(5));
}

#[test]
fn without_a_session_on_the_broker_nothing_is_known() {
    let mut session = Session::new(true, [5]);
    session.connected(false);
    assert_eq!(session.changes, [Change::Clear]);
    assert!(!session.suppress(5));
}

/// `abandoned` before the connection is lost, or after it.
fn lost(session: &mut Session, abandoned: &Sequences, before: bool) {
    let mut left = 0;
    if before {
        left += session.abandon(abandoned);
        assert_eq!((left, session.messages()), (0, 2), "it is owed an acknowledgement still");
    }
    left += session.disconnected();
    if !before {
        left += session.abandon(abandoned);
    }
    assert_eq!((left, session.messages(), session.bytes()), (1, 1, 1));
    session.connected(true);
}

#[test]
fn what_was_let_go_of_comes_again_and_is_processed_and_what_is_in_the_host_is_not() {
    for before in [true, false] {
        let mut session = Session::new(false, []);
        session.connected(false);
        let mut abandoned = Sequences::default();
        abandoned.push(session.admit(1, QoS::ExactlyOnce, 1));
        session.admit(2, QoS::ExactlyOnce, 1);
        lost(&mut session, &abandoned, before);
        assert!(!session.suppress(1) && session.suppress(2));
    }
}

#[test]
fn what_is_let_go_of_when_it_has_come_again_is_mended_by_the_next_connection() {
    let mut session = Session::new(false, []);
    session.connected(false);
    let mut abandoned = Sequences::default();
    abandoned.push(session.admit(1, QoS::ExactlyOnce, 1));
    session.disconnected();
    session.connected(true);
    assert!(session.suppress(1));
    let mut behind = Sequences::default();
    behind.push(session.admit(2, QoS::AtLeastOnce, 1));
    assert_eq!(session.abandon(&abandoned), 1);
    session.settle(&behind);
    assert!(session.out.is_empty(), "out of order");
    session.disconnected();
    session.connected(true);
    assert!(!session.suppress(1));
    assert_eq!((session.messages(), session.unacknowledged()), (0, 0));
}

#[test]
fn nothing_is_acknowledged_for_what_was_let_go_of() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut session = Session::new(false, []);
        session.connected(false);
        let (mut abandoned, mut behind) = (Sequences::default(), Sequences::default());
        abandoned.push(session.admit(1, qos, 1));
        // Nobody waits for an acknowledgement of this one.
        abandoned.push(session.admit(0, QoS::AtMostOnce, 1));
        behind.push(session.admit(2, QoS::AtLeastOnce, 1));
        assert_eq!(session.abandon(&abandoned), 1);
        session.settle(&behind);
        assert_eq!((session.messages(), session.unacknowledged(), session.out.len()), (1, 3, 0));
        // Once more changes nothing.
        assert_eq!(session.abandon(&abandoned), 0);
        assert_eq!(session.disconnected(), 1);
        assert_eq!((session.messages(), session.bytes()), (0, 0));
    }
}
