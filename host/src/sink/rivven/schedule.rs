//! Which writer writes what next.
//!
//! Records wait in lanes, one for each key of a partition; a lane is with at most one writer at a time, which is what keeps the
//! order of a key. A writer that is free takes whole lanes of one partition, up to its fair share of what waits, so that all
//! connections are busy whatever the keys and partitions are: rivvend writes the records of one request one after the other,
//! and only several connections share its fsync.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::flight::Item;

/// Most records of one request. At a millisecond or more for each, the round trip is lost among these already, and more would
/// only hold back the acknowledgements of all of them and be written twice should the connection fail.
const MAX_RECORDS: usize = 100;
/// Bytes of keys and values of one request, about; a greater record goes alone.
const MAX_BYTES: usize = 1 << 20;

/// A partition's place in the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionId(usize);

impl PartitionId {
    /// The place of partition `number` of the topic whose partition 0 has this place.
    pub(super) fn offset(self, number: u32) -> Self {
        PartitionId(self.0 + number as usize)
    }
}

/// A topic that is known to exist.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) partitions: u32,
}

/// A record, and where it goes.
pub(super) struct Routed {
    pub(super) partition: PartitionId,
    /// The same for equal keys.
    pub(super) lane: u64,
    pub(super) item: Item,
}

/// Records for one request.
pub(super) struct Batch {
    pub(super) partition: PartitionId,
    pub(super) topic: Arc<Topic>,
    pub(super) number: u32,
    pub(super) leader: Option<Arc<str>>,
    pub(super) items: Vec<Item>,
    lanes: Vec<u64>,
}

/// The records that wait.
pub(super) struct Schedule {
    state: Mutex<State>,
    wake: Notify,
    writers: usize,
}

#[derive(Default)]
struct State {
    partitions: Vec<Partition>,
    /// Partitions with a lane that is ready; each once.
    ready: VecDeque<PartitionId>,
    /// Records in lanes that are ready.
    waiting: usize,
}

struct Partition {
    topic: Arc<Topic>,
    number: u32,
    /// Address of the leader, where the server named one.
    leader: Option<Arc<str>>,
    lanes: HashMap<u64, Lane>,
    /// Lanes with records that no writer has.
    ready: VecDeque<u64>,
}

#[derive(Default)]
struct Lane {
    items: VecDeque<Item>,
    busy: bool,
}

impl Schedule {
    /// For so many writers.
    pub(super) fn new(writers: usize) -> Self {
        Schedule { state: Mutex::default(), wake: Notify::new(), writers }
    }

    /// Makes room for a topic; gives the place of its partition 0.
    pub(super) fn add(&self, topic: Topic) -> PartitionId {
        let mut state = self.state();
        let first = PartitionId(state.partitions.len());
        let topic = Arc::new(topic);
        state.partitions.extend((0..topic.partitions).map(|number| Partition {
            topic: topic.clone(),
            number,
            leader: None,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
        }));
        first
    }

    /// Appends records to their lanes.
    pub(super) fn push(&self, records: impl IntoIterator<Item = Routed>) {
        let mut state = self.state();
        for Routed { partition, lane, item } in records {
            state.push(partition, lane, item);
        }
        drop(state);
        self.wake.notify_last();
    }

    /// Forgets everything: the sink is closed. What is dropped here is never settled.
    pub(super) fn clear(&self) {
        let records = std::mem::take(&mut *self.state());
        // Not under the lock.
        drop(records);
    }

    /// Waits until there is something to take.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes records of one partition, if any wait; rather of one whose leader is `address`.
    pub(super) fn take(&self, address: Option<&str>) -> Option<Batch> {
        let mut state = self.state();
        let batch = state.take(address, self.writers);
        let more = !state.ready.is_empty();
        drop(state);
        if more {
            // One push wakes one writer, and each writer the next. The last to sleep, so that few connections stay warm when
            // there is little to do.
            self.wake.notify_last();
        }
        batch
    }

    /// The records of a batch are committed or refused: their lanes are free.
    pub(super) fn done(&self, lanes: Done) {
        let mut state = self.state();
        for lane in lanes.lanes {
            state.free(lanes.partition, lane);
        }
    }

    /// Remembers the leader of a partition.
    pub(super) fn set_leader(&self, partition: PartitionId, leader: Option<Arc<str>>) {
        if let Some(partition) = self.state().partitions.get_mut(partition.0) {
            partition.leader = leader;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of a batch, to give back.
pub(super) struct Done {
    partition: PartitionId,
    lanes: Vec<u64>,
}

impl Batch {
    /// What has to be given back when the records are written, and the records.
    pub(super) fn open(&mut self) -> (Done, Vec<Item>) {
        let lanes = std::mem::take(&mut self.lanes);
        (Done { partition: self.partition, lanes }, std::mem::take(&mut self.items))
    }
}

impl State {
    fn push(&mut self, id: PartitionId, number: u64, item: Item) {
        let Some(partition) = self.partitions.get_mut(id.0) else { return };
        let lane = partition.lanes.entry(number).or_default();
        lane.items.push_back(item);
        if lane.busy {
            return;
        }
        self.waiting += 1;
        if lane.items.len() == 1 {
            if partition.ready.is_empty() {
                self.ready.push_back(id);
            }
            partition.ready.push_back(number);
        }
    }

    fn take(&mut self, address: Option<&str>, writers: usize) -> Option<Batch> {
        let near = |id: &PartitionId| {
            let leader = self.partitions.get(id.0).and_then(|partition| partition.leader.as_deref());
            leader.is_none() || address.is_none() || leader == address
        };
        let at = self.ready.iter().position(near).unwrap_or(0);
        let id = self.ready.remove(at)?;
        let partition = self.partitions.get_mut(id.0)?;
        // A third of what is unanswered waits here and two thirds are with the writers.
        let share = (2 * self.waiting).div_ceil(writers).clamp(1, MAX_RECORDS);
        let (mut items, mut lanes, mut bytes) = (Vec::new(), Vec::new(), 0);
        while items.len() < share && bytes < MAX_BYTES {
            let Some(number) = partition.ready.pop_front() else { break };
            let Some(lane) = partition.lanes.get_mut(&number) else { continue };
            // The whole lane, not the share of it: nobody else may touch what remains.
            let before = items.len();
            while let Some(item) = lane.items.front() {
                let size = item.record().size_hint();
                if items.len() >= MAX_RECORDS || (!items.is_empty() && bytes + size > MAX_BYTES) {
                    break;
                }
                bytes += size;
                items.extend(lane.items.pop_front());
            }
            if items.len() == before {
                partition.ready.push_front(number);
                break;
            }
            self.waiting -= items.len() - before + lane.items.len();
            lane.busy = true;
            lanes.push(number);
        }
        if !partition.ready.is_empty() {
            self.ready.push_back(id);
        }
        let Partition { topic, number, leader, .. } = partition;
        let (topic, leader) = (topic.clone(), leader.clone());
        Some(Batch { partition: id, topic, number: *number, leader, items, lanes })
    }

    fn free(&mut self, id: PartitionId, number: u64) {
        let Some(partition) = self.partitions.get_mut(id.0) else { return };
        let Some(lane) = partition.lanes.get_mut(&number) else { return };
        lane.busy = false;
        if lane.items.is_empty() {
            partition.lanes.remove(&number);
            return;
        }
        self.waiting += lane.items.len();
        if partition.ready.is_empty() {
            self.ready.push_back(id);
        }
        partition.ready.push_back(number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::tests::delivery;
    use crate::sink::rivven::flight::items;

    fn schedule(writers: usize, partitions: u32) -> (Schedule, PartitionId) {
        let schedule = Schedule::new(writers);
        let first = schedule.add(Topic { name: "t".into(), partitions });
        (schedule, first)
    }

    fn records(n: usize) -> Vec<Item> {
        let payloads: Vec<_> = (0..n).map(|i| i.to_string()).collect();
        let messages: Vec<_> = payloads.iter().map(|payload| ("t", payload.as_bytes())).collect();
        items(delivery(&messages).0)
    }

    fn value(item: &Item) -> usize {
        let mut value = Vec::new();
        item.record().value(&mut value);
        std::str::from_utf8(&value).unwrap().parse().unwrap()
    }

    #[test]
    fn what_waits_is_shared_among_the_writers() {
        let (schedule, partition) = schedule(8, 1);
        let lanes = records(64).into_iter().zip(0..);
        schedule.push(lanes.map(|(item, lane)| Routed { partition, lane, item }));
        let mut sizes = Vec::new();
        while let Some(batch) = schedule.take(None) {
            sizes.push(batch.items.len());
        }
        assert_eq!(sizes[..4], [16, 12, 9, 7]);
        assert!(sizes.len() >= 8, "{sizes:?}");
    }

    #[test]
    fn one_lane_is_taken_whole_and_by_one_writer() {
        let (schedule, partition) = schedule(8, 1);
        schedule.push(records(120).into_iter().map(|item| Routed { partition, lane: 1, item }));
        let mut batch = schedule.take(None).unwrap();
        assert_eq!(batch.items.len(), MAX_RECORDS);
        assert!(schedule.take(None).is_none());
        schedule.done(batch.open().0);
        let rest = schedule.take(None).unwrap();
        assert_eq!((rest.items.len(), value(&rest.items[0])), (20, 100));
    }

    #[test]
    fn a_request_stays_under_its_bytes() {
        let (schedule, partition) = schedule(1, 1);
        let big = vec![b'1'; MAX_BYTES / 2];
        let messages = [("t", &b"1"[..]), ("t", &big), ("t", &big), ("t", &big)];
        let (delivery, ..) = delivery(&messages);
        schedule.push(items(delivery).into_iter().zip(0..).map(|(item, lane)| Routed {
            partition,
            lane,
            item,
        }));
        let sizes: Vec<_> = std::iter::from_fn(|| Some(schedule.take(None)?.items.len())).collect();
        assert_eq!(sizes, [2, 1, 1]);
    }

    #[test]
    fn a_writer_prefers_the_leader_that_it_is_connected_to() {
        let (schedule, first) = schedule(1, 2);
        schedule.set_leader(first, Some("a:1".into()));
        schedule.set_leader(first.offset(1), Some("b:1".into()));
        let places = [first, first.offset(1)];
        schedule.push(records(2).into_iter().zip(places).map(|(item, partition)| Routed {
            partition,
            lane: 0,
            item,
        }));
        assert_eq!(schedule.take(Some("b:1")).unwrap().number, 1);
        assert_eq!(schedule.take(Some("b:1")).unwrap().number, 0);
    }

    proptest! {
        /// Whatever is pushed, taken and given back in whatever order: each record comes out once, in the order of its lane,
        /// and no lane is with two writers.
        #[test]
        fn lanes_keep_their_order(steps in proptest::collection::vec((0u64..5, 0u32..3, 0usize..4), 1..200)) {
            let (schedule, first) = schedule(4, 3);
            let mut supply = records(steps.len()).into_iter();
            let mut pushed: HashMap<(u32, u64), VecDeque<usize>> = HashMap::new();
            let mut out: Vec<Batch> = Vec::new();
            let check = |batch: &Batch, out: &[Batch]| {
                for lane in &batch.lanes {
                    let taken = |other: &&Batch| other.number == batch.number && other.lanes.contains(lane);
                    prop_assert!(out.iter().find(taken).is_none());
                }
                Ok(())
            };
            let mut came: Vec<(u32, usize)> = Vec::new();
            for (lane, number, action) in steps {
                let item = supply.next().unwrap();
                pushed.entry((number, lane)).or_default().push_back(value(&item));
                schedule.push([Routed { partition: first.offset(number), lane, item }]);
                if action == 0 && let Some(batch) = schedule.take(None) {
                    check(&batch, &out)?;
                    came.extend(batch.items.iter().map(|item| (batch.number, value(item))));
                    out.push(batch);
                }
                if action == 1 && !out.is_empty() {
                    schedule.done(out.remove(0).open().0);
                }
            }
            loop {
                for mut batch in out.drain(..) {
                    schedule.done(batch.open().0);
                }
                let Some(batch) = schedule.take(None) else { break };
                came.extend(batch.items.iter().map(|item| (batch.number, value(item))));
                out.push(batch);
            }
            for (number, value) in came {
                let lane = pushed.iter_mut().find(|((n, _), lane)| *n == number && lane.front() == Some(&value));
                prop_assert!(lane.is_some(), "record {value} of partition {number} is early, late or double");
                lane.unwrap().1.pop_front();
            }
            prop_assert!(pushed.values().all(VecDeque::is_empty));
        }
    }
}
