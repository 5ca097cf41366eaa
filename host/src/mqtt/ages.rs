//! How old the oldest unacknowledged message is: one entry for each read, so that nothing is spent on single messages.

use std::collections::VecDeque;

/// When the messages came of which something is unacknowledged. Times are nanoseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// The first sequence number of a read, and when that was. Each but the first has a number that is unacknowledged, so that
    /// there are no more of them than of those.
    reads: VecDeque<(u64, u64)>,
    /// What comes next has this number.
    next: u64,
    /// When the oldest came of what earlier connections have left in the host. Which of them are settled is not looked at until
    /// all are: then nothing is left.
    earlier: Option<u64>,
}

impl Ages {
    /// What is new below the sequence number `next` came `at`.
    pub fn came(&mut self, next: u64, at: u64) {
        if next > self.next {
            self.reads.push_back((self.next, at));
            self.next = next;
        }
    }

    /// All below `front` is acknowledged; whether earlier connections have `left` anything.
    pub fn acknowledged(&mut self, front: u64, left: bool) {
        if front >= self.next {
            self.reads.clear();
        }
        while self.reads.get(1).is_some_and(|(first, _)| *first <= front) {
            self.reads.pop_front();
        }
        self.earlier = self.earlier.filter(|_| left);
    }

    /// The connection is gone; whether it, or one before it, has `left` anything in the host.
    pub fn disconnected(&mut self, left: bool) {
        self.earlier = self.oldest().filter(|_| left);
        self.reads.clear();
    }

    /// When the oldest message came that is unacknowledged, or in the host though its connection is gone.
    pub fn oldest(&self) -> Option<u64> {
        self.earlier.or(self.reads.front().map(|(_, at)| *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_that_of_the_first_read_that_is_not_done() {
        let mut ages = Ages::default();
        assert_eq!(ages.oldest(), None);
        ages.came(3, 10);
        ages.came(3, 11);
        ages.came(5, 12);
        ages.came(6, 13);
        assert_eq!(ages.oldest(), Some(10));
        ages.acknowledged(2, false);
        assert_eq!(ages.oldest(), Some(10));
        ages.acknowledged(3, false);
        assert_eq!((ages.oldest(), ages.reads.len()), (Some(12), 2));
        ages.acknowledged(5, false);
        assert_eq!(ages.oldest(), Some(13));
        ages.acknowledged(6, false);
        assert_eq!((ages.oldest(), ages.reads.len()), (None, 0));
        ages.came(7, 20);
        assert_eq!(ages.oldest(), Some(20));
    }

    #[test]
    fn what_an_earlier_connection_left_is_older_than_all_that_comes() {
        let mut ages = Ages::default();
        ages.came(2, 10);
        ages.disconnected(true);
        ages.came(4, 20);
        ages.acknowledged(3, true);
        assert_eq!(ages.oldest(), Some(10));
        ages.disconnected(true);
        assert_eq!(ages.oldest(), Some(10));
        ages.came(5, 30);
        ages.acknowledged(4, false);
        assert_eq!(ages.oldest(), Some(30));
        ages.disconnected(false);
        assert_eq!(ages.oldest(), None);
    }
}
