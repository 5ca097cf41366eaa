//! What is owed to the broker: acknowledgements in receive order, QoS 2 identifiers, and the window of what is in the host. A
//! pure state machine: packets and settled sequence numbers in, bytes to write and changes to make durable out.
//!
//! Each message gets a receive sequence number and a slot in a ring. PUBACK and PUBREC leave as the contiguous settled prefix
//! of the ring, so in receive order (MQTT-4.6.0-2, MQTT-4.6.0-3). The ring holds the present connection only; what came on an
//! earlier one is still counted when it is settled, and never acknowledged on this one.

mod abandoned;

use std::collections::{HashMap, VecDeque};

use super::store::Change;
use crate::message::{QoS, Sequences};

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

/// PUBACK, PUBREC and PUBCOMP with success are the same four bytes in 3.1.1 (section 3.4.2) and 5.0 (section 3.4.2.1).
#[inline]
fn acknowledgement(packet_type: u8, packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [packet_type, 2, high, low]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
    /// A QoS 2 message that came again and is not processed again: it is no message here, but is owed a PUBREC.
    Duplicate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the host.
    InFlight,
    /// Nobody will settle it, and it leaves the host when the connection ends.
    Abandoned,
    /// Settled, but its identifier is not durable yet.
    Settled,
    /// May be acknowledged.
    Done,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    bytes: u32,
    /// 0 when nothing is owed for it.
    packet_id: u16,
    kind: Kind,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Being processed.
    InFlight,
    /// Committed, being made durable.
    Storing,
    /// Committed and durable: a PUBREC may leave, and does again for each duplicate.
    Stored,
    /// Released by PUBREL; being removed from the store.
    Releasing,
}

/// What is known of a QoS 2 packet identifier, from its first PUBLISH to its PUBREL.
#[derive(Debug)]
struct Known {
    /// Of the message that is processed.
    sequence: u64,
    stage: Stage,
    /// Sequence numbers of the duplicates on this connection that wait for it.
    duplicates: Vec<u64>,
}

/// The session with the broker.
#[derive(Debug)]
pub(super) struct Session {
    /// Due to be written on the present connection.
    pub out: Vec<u8>,
    /// Due to be made durable, in this order. Empty for ever in a clean session.
    pub changes: Vec<Change>,
    /// Identifiers survive the connection and the process.
    persistent: bool,
    connected: bool,
    /// Counts connections.
    connection: u64,
    ring: VecDeque<Slot>,
    /// Sequence number of the first slot of the ring.
    front: u64,
    /// Slots of the ring that are not plain QoS 0 or 1.
    special: usize,
    /// What came on earlier connections and is still in the host.
    earlier: HashMap<u64, Slot>,
    known: HashMap<u16, Known>,
    messages: usize,
    bytes: usize,
}

impl Session {
    /// A session that knows the identifiers in `stored` from an earlier process. A persistent one has its
    /// [`changes`](Self::changes) stored.
    pub fn new(persistent: bool, stored: impl IntoIterator<Item = u16>) -> Self {
        let known = |id| (id, Known { sequence: u64::MAX, stage: Stage::Stored, duplicates: Vec::new() });
        Session {
            out: Vec::new(),
            changes: Vec::new(),
            persistent,
            connected: false,
            connection: 0,
            ring: VecDeque::new(),
            front: 0,
            special: 0,
            earlier: HashMap::new(),
            known: stored.into_iter().map(known).collect(),
            messages: 0,
            bytes: 0,
        }
    }

    /// Messages that are in the host: received and not settled.
    #[inline]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Bytes of these messages.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Slots of the ring: messages and duplicates that are not acknowledged yet.
    #[inline]
    pub fn unacknowledged(&self) -> usize {
        self.ring.len()
    }

    /// The sequence number that the next message gets.
    #[inline]
    pub fn next(&self) -> u64 {
        self.front + self.ring.len() as u64
    }

    /// All below it is acknowledged, or came on an earlier connection.
    #[inline]
    pub fn front(&self) -> u64 {
        self.front
    }

    /// Whether something is still in the host that came on an earlier connection.
    #[inline]
    pub fn has_earlier(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// A CONNACK accepted the connection. Without a session on the broker's side all identifiers start afresh (3.1.1 section
    /// 3.1.2.4).
    pub fn connected(&mut self, session_present: bool) {
        self.connection += 1;
        self.connected = true;
        if !session_present {
            self.known.clear();
            self.change(Change::Clear);
        }
    }

    /// The connection is gone: what it owed is owed no more. Messages in the host stay there, but for those that were
    /// [abandoned](Self::abandon): how many these were.
    pub fn disconnected(&mut self) -> u64 {
        let (front, next) = (self.front, self.next());
        let mut left = 0;
        for (sequence, slot) in (front..).zip(std::mem::take(&mut self.ring)) {
            match slot.state {
                State::InFlight => {
                    self.earlier.insert(sequence, slot);
                }
                State::Abandoned => {
                    self.forget(slot, sequence);
                    left += 1;
                }
                State::Settled | State::Done => {}
            }
        }
        (self.front, self.special, self.connected) = (next, 0, false);
        self.known.values_mut().for_each(|known| known.duplicates.clear());
        self.out.clear();
        left
    }

    /// A message enters the host; its sequence number.
    #[inline(always)]
    pub fn admit(&mut self, packet_id: u16, qos: QoS, bytes: usize) -> u64 {
        let sequence = self.next();
        let kind = match qos {
            QoS::AtMostOnce => Kind::AtMostOnce,
            QoS::AtLeastOnce => Kind::AtLeastOnce,
            QoS::ExactlyOnce => self.know(packet_id, sequence),
        };
        self.ring.push_back(Slot { bytes: bytes as u32, packet_id, kind, state: State::InFlight });
        self.messages += 1;
        self.bytes += bytes;
        sequence
    }

    #[inline(never)]
    fn know(&mut self, packet_id: u16, sequence: u64) -> Kind {
        self.special += 1;
        self.known.insert(packet_id, Known { sequence, stage: Stage::InFlight, duplicates: Vec::new() });
        Kind::ExactlyOnce
    }

    /// Whether a QoS 2 PUBLISH with this identifier has come before and was not released (MQTT-4.3.3-2). Then it is not to be
    /// processed; its PUBREC leaves in its turn, when the message is committed.
    pub fn suppress(&mut self, packet_id: u16) -> bool {
        let sequence = self.next();
        let state = match self.known.get_mut(&packet_id) {
            None | Some(Known { stage: Stage::Releasing, .. }) => return false,
            Some(Known { stage: Stage::Stored, .. }) => State::Done,
            Some(known) => {
                known.duplicates.push(sequence);
                State::Settled
            }
        };
        self.special += 1;
        self.ring.push_back(Slot { bytes: 0, packet_id, kind: Kind::Duplicate, state });
        self.leave();
        true
    }

    /// Messages from sequence number `from` on do not enter the host after all; the connection is about to be closed.
    pub fn retract(&mut self, from: u64) {
        while self.next() > from.max(self.front) {
            let Some(slot) = self.ring.pop_back() else { return };
            match slot.kind {
                Kind::Duplicate => self.special -= 1,
                Kind::ExactlyOnce => {
                    self.special -= 1;
                    let sequence = self.next();
                    if self.known.get(&slot.packet_id).is_some_and(|known| known.sequence == sequence) {
                        self.known.remove(&slot.packet_id);
                    }
                    self.uncount(slot);
                }
                _ => self.uncount(slot),
            }
        }
    }

    fn uncount(&mut self, slot: Slot) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(slot.bytes as usize);
    }

    /// These messages are settled: every record made of them is committed, or they were dropped on purpose.
    pub fn settle(&mut self, sequences: &Sequences) {
        for run in sequences.runs() {
            let mut run = run.clone();
            while run.start < run.end.min(self.front) {
                self.settle_earlier(run.start);
                run.start += 1;
            }
            run.end = run.end.min(self.next());
            if run.start == self.front && self.special == 0 {
                self.settle_front(run.end.saturating_sub(run.start) as usize);
            } else {
                run.for_each(|sequence| self.settle_one(sequence));
            }
        }
        self.leave();
    }

    /// The common case: the first `n` slots, all of them QoS 0 or 1.
    fn settle_front(&mut self, n: usize) {
        self.out.reserve(4 * n);
        let (mut messages, mut bytes) = (0, 0);
        for slot in self.ring.drain(..n) {
            if slot.state != State::Done {
                messages += 1;
                bytes += slot.bytes as usize;
            }
            if slot.kind == Kind::AtLeastOnce {
                self.out.extend_from_slice(&acknowledgement(PUBACK, slot.packet_id));
            }
        }
        self.front += n as u64;
        self.messages -= messages;
        self.bytes -= bytes;
    }

    fn settle_one(&mut self, sequence: u64) {
        let Some(slot) = self.slot(sequence).copied() else { return };
        if !matches!(slot.state, State::InFlight | State::Abandoned) {
            return;
        }
        self.uncount(slot);
        let state = match slot.kind {
            Kind::ExactlyOnce => self.commit(slot.packet_id, sequence),
            _ => State::Done,
        };
        if let Some(slot) = self.slot(sequence) {
            slot.state = state;
        }
    }

    fn settle_earlier(&mut self, sequence: u64) {
        let Some(slot) = self.earlier.remove(&sequence) else { return };
        self.uncount(slot);
        if slot.kind == Kind::ExactlyOnce {
            self.commit(slot.packet_id, sequence);
        }
    }

    /// A QoS 2 message is committed; what that makes of its slot.
    fn commit(&mut self, packet_id: u16, sequence: u64) -> State {
        let Some(known) = self.known.get_mut(&packet_id) else { return State::Done };
        // The identifier may name another message by now.
        if known.sequence != sequence || known.stage != Stage::InFlight {
            return State::Done;
        }
        if self.persistent {
            known.stage = Stage::Storing;
            self.changes.push(Change::Received { packet_id, sequence });
            return State::Settled;
        }
        known.stage = Stage::Stored;
        for duplicate in std::mem::take(&mut known.duplicates) {
            self.done(duplicate);
        }
        State::Done
    }

    /// PUBREL: the broker will not send this identifier for the same message again (3.1.1 section 4.3.3). It is always answered
    /// with PUBCOMP, also when the identifier is unknown, as it is when the last PUBCOMP was lost.
    pub fn release(&mut self, packet_id: u16) {
        let connection = self.connection;
        match self.known.get_mut(&packet_id) {
            None => return self.out.extend_from_slice(&acknowledgement(PUBCOMP, packet_id)),
            Some(known) => {
                let before = std::mem::replace(&mut known.stage, Stage::Releasing);
                if matches!(before, Stage::InFlight | Stage::Storing) {
                    // Not allowed before our PUBREC. The broker has finished with it, so nothing else is owed.
                    let sequence = known.sequence;
                    for duplicate in std::mem::take(&mut known.duplicates) {
                        self.silence(duplicate);
                    }
                    self.silence(sequence);
                }
            }
        }
        if self.persistent {
            self.change(Change::Released { packet_id, connection });
        } else {
            self.known.remove(&packet_id);
            self.out.extend_from_slice(&acknowledgement(PUBCOMP, packet_id));
        }
        self.leave();
    }

    fn silence(&mut self, sequence: u64) {
        let Some(slot) = self.slot(sequence) else { return };
        slot.packet_id = 0;
        if slot.state == State::Settled {
            slot.state = State::Done;
        }
    }

    /// These changes are durable.
    pub fn stored(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Received { packet_id, sequence } => {
                    let Some(known) = self.known.get_mut(&packet_id) else { continue };
                    if known.sequence != sequence || known.stage != Stage::Storing {
                        continue;
                    }
                    known.stage = Stage::Stored;
                    for duplicate in std::mem::take(&mut known.duplicates) {
                        self.done(duplicate);
                    }
                    self.done(sequence);
                }
                Change::Released { packet_id, connection } => {
                    if self.known.get(&packet_id).is_some_and(|known| known.stage == Stage::Releasing) {
                        self.known.remove(&packet_id);
                    }
                    if self.connected && connection == self.connection {
                        self.out.extend_from_slice(&acknowledgement(PUBCOMP, packet_id));
                    }
                }
                Change::Clear | Change::Subscribed(_) => {}
            }
        }
        self.leave();
    }

    /// Has a change made durable, in a persistent session.
    pub fn change(&mut self, change: Change) {
        if self.persistent {
            self.changes.push(change);
        }
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Slot> {
        self.ring.get_mut(usize::try_from(sequence.checked_sub(self.front)?).ok()?)
    }

    fn done(&mut self, sequence: u64) {
        if let Some(slot) = self.slot(sequence) {
            slot.state = State::Done;
        }
    }

    /// Acknowledges the prefix of the ring that is done.
    fn leave(&mut self) {
        while let Some(slot) = self.ring.front().filter(|slot| slot.state == State::Done) {
            let (packet_type, special) = match slot.kind {
                Kind::AtMostOnce => (0, 0),
                Kind::AtLeastOnce => (PUBACK, 0),
                Kind::ExactlyOnce | Kind::Duplicate => (PUBREC, 1),
            };
            if packet_type != 0 && slot.packet_id != 0 {
                self.out.extend_from_slice(&acknowledgement(packet_type, slot.packet_id));
            }
            self.special -= special;
            self.ring.pop_front();
            self.front += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "session_tests.rs"]
mod tests;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "session_rogue_tests.rs"]
mod rogue_tests;
