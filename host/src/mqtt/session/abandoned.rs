//! Messages that somebody let go of without settling them: nothing is acknowledged for them, and they must not stay for ever.

use super::{Kind, Session, Slot, Stage, State};
use crate::message::Sequences;

impl Session {
    /// These messages will never be settled. On this connection they are owed an acknowledgement still, which holds back those
    /// behind it; with its end they leave the host, and the broker may send them again. What came on an earlier connection, and
    /// what was sent at most once, leaves at once. How many have left.
    pub fn abandon(&mut self, sequences: &Sequences) -> u64 {
        let left = sequences.iter().filter(|sequence| self.abandon_one(*sequence)).count();
        self.leave();
        left as u64
    }

    fn abandon_one(&mut self, sequence: u64) -> bool {
        if let Some(slot) = self.earlier.remove(&sequence) {
            self.forget(slot, sequence);
            return true;
        }
        let Some(slot) = self.slot(sequence).filter(|slot| slot.state == State::InFlight) else {
            return false;
        };
        let at_once = slot.kind == Kind::AtMostOnce;
        slot.state = if at_once { State::Done } else { State::Abandoned };
        let slot = *slot;
        if at_once {
            self.uncount(slot);
        }
        at_once
    }

    /// An abandoned message leaves the host. When it comes again it is processed again, QoS 2 included.
    pub(super) fn forget(&mut self, slot: Slot, sequence: u64) {
        self.uncount(slot);
        let is_it = |known: &super::Known| known.sequence == sequence && known.stage == Stage::InFlight;
        if slot.kind == Kind::ExactlyOnce && self.known.get(&slot.packet_id).is_some_and(is_it) {
            self.known.remove(&slot.packet_id);
        }
    }
}
