//! The numbers by which a source knows its messages again.

use std::ops::Range;

/// Receive sequence numbers of a source, as ascending runs. A number is given to every message that enters the host, starts
/// at 0 when the host starts and is never used twice, so it also tells connections apart: an acknowledgement whose number
/// is older than a connection never leaves on it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sequences(Vec<Range<u64>>);

impl Sequences {
    /// Appends a number that is greater than all before it.
    #[inline]
    pub fn push(&mut self, sequence: u64) {
        match self.0.last_mut() {
            Some(run) if run.end == sequence => run.end += 1,
            _ => self.0.push(sequence..sequence + 1),
        }
    }

    /// The runs, ascending and apart.
    pub fn runs(&self) -> &[Range<u64>] {
        &self.0
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().cloned().flatten()
    }

    /// How many numbers there are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|run| run.end - run.start).sum()
    }

    /// Whether there is no number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number at place `index`, from 0.
    pub fn get(&self, index: u64) -> Option<u64> {
        let mut before = 0;
        self.0.iter().find_map(|run| {
            let number = run.start + (index - before);
            before += run.end - run.start;
            (number < run.end).then_some(number)
        })
    }

    /// Forgets the numbers, keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets the numbers from `from` on.
    pub fn truncate(&mut self, from: u64) {
        self.0.retain(|run| run.start < from);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_join_neighbours() {
        let mut sequences = Sequences::default();
        for n in [4, 5, 6, 9, 11, 12] {
            sequences.push(n);
        }
        assert_eq!(sequences.runs(), [4..7, 9..10, 11..13]);
        assert_eq!(sequences.iter().collect::<Vec<_>>(), [4, 5, 6, 9, 11, 12]);
        assert_eq!(sequences.len(), 6);
        let at: Vec<_> = (0..7).map(|index| sequences.get(index)).collect();
        assert_eq!(at, [Some(4), Some(5), Some(6), Some(9), Some(11), Some(12), None]);
        sequences.truncate(12);
        assert_eq!(sequences.runs(), [4..7, 9..10, 11..12]);
        sequences.truncate(5);
        assert_eq!(sequences.iter().collect::<Vec<_>>(), [4]);
    }
}
