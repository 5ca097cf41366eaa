//! The session against a broker that breaks every rule: whatever it sends, in whatever order, and however the host commits,
//! stores and reconnects meanwhile, nothing is acknowledged that is not committed, nothing that came on another connection,
//! nothing out of order, and nothing grows beyond what was sent.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// So few identifiers that they collide all the time.
const IDS: u16 = 6;

#[derive(Debug, Clone)]
enum Act {
    /// A PUBLISH of any QoS under any identifier, whether that is in use or not.
    Publish(u8, u16),
    /// A PUBREL, whatever was sent before.
    Release(u16),
    /// Messages in one read, of which one and all behind it do not enter; so the connection ends.
    Illegal(Vec<(u8, u16)>, Index),
    /// Messages in the host are settled, in one batch, in any order, of whatever connection; then once more.
    Settle(Vec<Index>),
    /// The same, but they are let go of and never settled.
    Abandon(Vec<Index>),
    /// The host settles a number that it was never given.
    SettleUnknown(u64),
    /// The disk begins to write what waits, unless it is writing.
    Write,
    /// It has written.
    Written,
    Reconnect {
        session_present: bool,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let id = 1..=IDS;
    let act = prop_oneof![
        8 => (0u8..3, id.clone()).prop_map(|(qos, id)| Act::Publish(qos, id)),
        4 => id.clone().prop_map(Act::Release),
        1 => (proptest::collection::vec((0u8..3, id), 1..6), any::<Index>())
            .prop_map(|(packets, at)| Act::Illegal(packets, at)),
        6 => proptest::collection::vec(any::<Index>(), 1..5).prop_map(Act::Settle),
        1 => proptest::collection::vec(any::<Index>(), 1..5).prop_map(Act::Abandon),
        1 => (0u64..1_000).prop_map(Act::SettleUnknown),
        3 => Just(Act::Write),
        3 => Just(Act::Written),
        1 => any::<bool>().prop_map(|session_present| Act::Reconnect { session_present }),
    ];
    proptest::collection::vec(act, 0..150)
}

/// A PUBLISH of this connection that no acknowledgement has answered.
#[derive(Debug)]
struct Owed {
    packet_type: u8,
    id: u16,
    /// The message that it brought, or that it repeats; `None`: one of an earlier process.
    message: Option<u64>,
    /// A PUBREL came for it, out of turn: it may be answered or not.
    released: bool,
}

#[derive(Default)]
struct Witness {
    persistent: bool,
    owed: VecDeque<Owed>,
    /// Acknowledgements that may have been the answer to a PUBLISH that was released, or to a later one of the same identifier.
    ambiguous: HashMap<u16, usize>,
    /// PUBRELs of this connection without their PUBCOMP.
    completing: HashMap<u16, usize>,
    /// The message of each QoS 2 identifier that is known.
    known: HashMap<u16, Option<u64>>,
    in_host: Vec<u64>,
    /// What was let go of on this connection and stays until it ends.
    abandoned: Vec<u64>,
    /// Sequence numbers that nothing is owed for.
    at_most_once: HashSet<u64>,
    /// The first sequence number of this connection.
    first: u64,
    /// Something holds back what is behind it until this connection ends.
    stuck: bool,
    settled: HashSet<u64>,
    durable: HashSet<u64>,
    writing: Option<Vec<Change>>,
    /// PUBLISHes and PUBRELs of this connection.
    packets: usize,
    acts: usize,
}

impl Witness {
    fn publish(&mut self, session: &mut Session, qos: u8, id: u16) -> u64 {
        self.packets += 1;
        let sequence = session.next();
        let message = if qos == 2 && session.suppress(id) {
            *self.known.get(&id).expect("a message is suppressed that never came")
        } else {
            let kind = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
            assert_eq!(session.admit(id, kind, 1), sequence);
            self.in_host.push(sequence);
            match qos {
                0 => drop(self.at_most_once.insert(sequence)),
                2 => drop(self.known.insert(id, Some(sequence))),
                _ => {}
            }
            Some(sequence)
        };
        if qos > 0 {
            let packet_type = if qos == 1 { PUBACK } else { PUBREC };
            self.owed.push_back(Owed { packet_type, id, message, released: false });
        }
        sequence
    }

    fn act(&mut self, session: &mut Session, act: Act) {
        self.acts += 1;
        match act {
            Act::Publish(qos, id) => {
                self.publish(session, qos, id);
            }
            Act::Release(id) => {
                self.packets += 1;
                *self.completing.entry(id).or_default() += 1;
                let released = |owed: &&mut Owed| owed.packet_type == PUBREC && owed.id == id;
                self.owed.iter_mut().filter(released).for_each(|owed| owed.released = true);
                session.release(id);
            }
            Act::Illegal(packets, at) => {
                let sequences: Vec<u64> =
                    packets.iter().map(|(qos, id)| self.publish(session, *qos, *id)).collect();
                let from = sequences[at.index(sequences.len())];
                // What was acknowledged while it was read is a duplicate, and stays so.
                self.check(session);
                session.retract(from);
                self.in_host.retain(|sequence| *sequence < from);
                self.at_most_once.retain(|sequence| *sequence < from);
                self.known.retain(|_, message| message.is_none_or(|message| message < from));
                self.reconnect(session, true);
            }
            Act::Settle(picks) => {
                let picked = self.pick(picks);
                self.settle(session, picked);
            }
            Act::Abandon(picks) => self.abandon(session, picks),
            Act::SettleUnknown(number) => {
                let mut sequences = Sequences::default();
                sequences.push(session.next().saturating_add(number));
                session.settle(&sequences);
            }
            Act::Write if self.writing.is_none() => self.writing = Some(std::mem::take(&mut session.changes)),
            Act::Write => {}
            Act::Written => self.written(session),
            Act::Reconnect { session_present } => self.reconnect(session, session_present),
        }
        self.check(session);
    }

    fn pick(&mut self, picks: Vec<Index>) -> Vec<u64> {
        let mut picked = Vec::new();
        for pick in picks {
            if !self.in_host.is_empty() {
                picked.push(self.in_host.swap_remove(pick.index(self.in_host.len())));
            }
        }
        picked
    }

    fn abandon(&mut self, session: &mut Session, picks: Vec<Index>) {
        let mut picked = self.pick(picks);
        picked.sort_unstable();
        let mut sequences = Sequences::default();
        picked.iter().for_each(|sequence| sequences.push(*sequence));
        let (at_once, abandoned): (Vec<u64>, Vec<u64>) = picked
            .into_iter()
            .partition(|sequence| *sequence < self.first || self.at_most_once.contains(sequence));
        assert_eq!(session.abandon(&sequences), at_once.len() as u64);
        assert_eq!(session.abandon(&sequences), 0);
        self.stuck = true;
        self.left(&at_once);
        self.abandoned.extend(abandoned);
    }

    /// They are in the host no more, so what comes again is no repetition of them.
    fn left(&mut self, sequences: &[u64]) {
        self.known.retain(|_, message| message.is_none_or(|message| !sequences.contains(&message)));
    }

    fn settle(&mut self, session: &mut Session, mut picked: Vec<u64>) {
        picked.sort_unstable();
        let mut sequences = Sequences::default();
        picked.iter().for_each(|sequence| sequences.push(*sequence));
        self.settled.extend(picked);
        session.settle(&sequences);
        session.settle(&sequences);
    }

    fn written(&mut self, session: &mut Session) {
        let changes = self.writing.take().unwrap_or_default();
        let received = changes.iter().filter_map(|change| match change {
            Change::Received { sequence, .. } => Some(*sequence),
            _ => None,
        });
        self.durable.extend(received);
        session.stored(&changes);
    }

    fn reconnect(&mut self, session: &mut Session, session_present: bool) {
        let abandoned = std::mem::take(&mut self.abandoned);
        assert_eq!(session.disconnected(), abandoned.len() as u64);
        self.left(&abandoned);
        (self.first, self.stuck) = (session.next(), false);
        assert!(session.out.is_empty(), "what an earlier connection was owed");
        let session_present = session_present && self.persistent;
        session.connected(session_present);
        (self.packets, self.owed) = (0, VecDeque::new());
        self.ambiguous.clear();
        self.completing.clear();
        if !session_present {
            self.known.clear();
        }
    }

    /// Whether the message may be acknowledged.
    fn is_safe(&self, owed: &Owed) -> bool {
        let Some(message) = &owed.message else { return true };
        self.settled.contains(message)
            && (owed.packet_type == PUBACK || !self.persistent || self.durable.contains(message))
    }

    /// Whether an acknowledgement that was taken for another's was its own.
    fn was_answered(&mut self, owed: &Owed) -> bool {
        let count = self.ambiguous.entry(owed.id).or_default();
        let answered = owed.packet_type == PUBREC && *count > 0;
        *count -= usize::from(answered);
        answered && self.is_safe(owed)
    }

    /// Takes what is written, and looks whether it may be, and how much is kept.
    fn check(&mut self, session: &mut Session) {
        let out = std::mem::take(&mut session.out);
        for packet in out.chunks(4) {
            let [packet_type, 2, high, low] = *packet else { panic!("{packet:?}") };
            let id = u16::from_be_bytes([high, low]);
            if packet_type == PUBCOMP {
                let count = self.completing.get_mut(&id).expect("PUBCOMP on a connection without PUBREL");
                *count = count.checked_sub(1).expect("more PUBCOMPs than PUBRELs");
                continue;
            }
            loop {
                let owed = self.owed.pop_front().expect("an acknowledgement for nothing on this connection");
                let matches = (owed.packet_type, owed.id) == (packet_type, id);
                if matches && self.is_safe(&owed) {
                    *self.ambiguous.entry(id).or_default() += usize::from(owed.released);
                    break;
                }
                assert!(
                    owed.released || self.was_answered(&owed),
                    "{packet:?} before it is committed, or before {owed:?}"
                );
            }
        }
        let messages = self.in_host.len() + self.abandoned.len();
        assert_eq!((session.messages(), session.bytes()), (messages, messages));
        assert!(session.unacknowledged() <= self.packets);
        assert!(session.earlier.len() <= self.in_host.len());
        assert!(session.known.len() <= usize::from(IDS));
        let duplicates: usize = session.known.values().map(|known| known.duplicates.len()).sum();
        assert!(duplicates <= session.unacknowledged());
        // One for each packet and each settled message, and one for each connection.
        assert!(session.changes.len() <= self.packets + self.settled.len() + self.acts);
        assert!(self.persistent || session.changes.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_broker_that_breaks_every_rule_does_no_harm(acts in acts(), persistent in any::<bool>()) {
        let mut session = Session::new(persistent, persistent.then_some(1));
        let mut witness = Witness { persistent, ..Witness::default() };
        witness.known.extend(persistent.then_some((1, None)));
        session.connected(persistent);
        for act in acts {
            witness.act(&mut session, act);
        }
        if witness.stuck {
            witness.act(&mut session, Act::Reconnect { session_present: true });
        }
        // The host finishes what it has, and the disk what it is given.
        let rest = std::mem::take(&mut witness.in_host);
        witness.settle(&mut session, rest);
        for _ in 0..2 {
            witness.written(&mut session);
            witness.act(&mut session, Act::Write);
        }
        witness.act(&mut session, Act::Written);
        let mut unanswered = std::mem::take(&mut witness.owed);
        unanswered.retain(|owed| !owed.released && !witness.was_answered(owed));
        prop_assert!(unanswered.is_empty(), "never acknowledged: {unanswered:?}");
        prop_assert!(witness.completing.values().all(|count| *count == 0), "{:?}", witness.completing);
        prop_assert_eq!((session.messages(), session.bytes()), (0, 0));
        prop_assert_eq!((session.unacknowledged(), session.special, session.earlier.len()), (0, 0, 0));
    }
}
