//! Batches in smaller ones, and what is counted of them.

use crate::message::{Batch, Outcome, Tally};

/// Each message as a batch of its own.
pub(super) fn singles(batch: &Batch) -> impl DoubleEndedIterator<Item = Box<Batch>> + use<> {
    pieces(batch, 1)
}

/// The same messages in batches of at most `size`.
pub(super) fn pieces(batch: &Batch, size: usize) -> impl DoubleEndedIterator<Item = Box<Batch>> + use<> {
    let mut pieces: Vec<Box<Batch>> = Vec::new();
    for (index, sequence) in batch.sequences.iter().enumerate() {
        if index % size.max(1) == 0 {
            pieces.push(Box::default());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push_from(batch, index);
            piece.sequences.push(sequence);
        }
    }
    pieces.into_iter()
}

/// What becomes of the messages when all records are committed; held ones are in flight still.
pub(super) fn tally(batch: &Batch, outcome: &Outcome) -> Tally {
    if outcome.verdicts.is_empty() {
        return Tally { committed: batch.len() as u64, ..Default::default() };
    }
    let mut counts = [0u64; 5];
    for verdict in &outcome.verdicts {
        counts[*verdict as usize] += 1;
    }
    let [passed, dropped, emitting, rejected, _held] = counts;
    // A message that emits nothing is dropped by another name.
    let of = &outcome.outputs.of;
    let with_outputs =
        of.iter().zip(of.iter().skip(1)).filter(|(a, b)| a != b).count() + usize::from(!of.is_empty());
    let with_outputs = with_outputs as u64;
    Tally {
        committed: passed + with_outputs,
        dropped: dropped + emitting.saturating_sub(with_outputs),
        dead_lettered: rejected,
    }
}
