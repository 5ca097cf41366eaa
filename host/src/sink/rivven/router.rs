//! From deliveries to records of partitions: places each record, and keeps what goes to a topic that is not there yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use rivven_core::hash::murmur2_partition;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender};

use super::Shared;
use super::flight::{Item, items};
use super::resolver::{Resolved, Wanted};
use super::schedule::{PartitionId, Routed, Topic};
use crate::delivery::Delivery;

/// Records without a key stay with one partition for so many, as in Rivven's own producer.
const STICKY: u32 = 8;

/// The one task that knows topics. It never waits for Rivven: a topic that takes long, or for ever, keeps nobody else's records.
pub(super) struct Router {
    shared: Arc<Shared>,
    topics: HashMap<String, Place>,
    /// What goes to topics that are wanted and not there yet, in order. Bounded as what is in the schedule: by the records in
    /// flight.
    parked: HashMap<String, Vec<Item>>,
    wanted: UnboundedSender<Wanted>,
    hasher: RandomState,
    /// Names the lanes of records without a key: each its own, as they have no order.
    keyless: u64,
}

struct Place {
    first: PartitionId,
    partitions: u32,
    sticky: u32,
    stuck: u32,
}

impl Router {
    /// Asks for the topics that are known at once.
    pub(super) fn new(
        shared: Arc<Shared>,
        known: Vec<(String, Option<u32>)>,
        wanted: UnboundedSender<Wanted>,
    ) -> Self {
        let mut router = Router {
            shared,
            topics: HashMap::new(),
            parked: HashMap::new(),
            wanted,
            hasher: RandomState::new(),
            keyless: 0,
        };
        for (topic, partitions) in known {
            router.parked(topic, partitions, true);
        }
        router
    }

    pub(super) async fn run(
        mut self,
        mut deliveries: Receiver<Delivery>,
        mut refused: UnboundedReceiver<Item>,
        mut resolved: UnboundedReceiver<Resolved>,
    ) {
        loop {
            tokio::select! {
                biased;
                Some(resolved) = resolved.recv() => self.resolved(resolved),
                Some(letter) = refused.recv() => self.route(vec![letter]),
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.route(items(delivery)),
                    None => return,
                },
            }
        }
    }

    fn route(&mut self, items: Vec<Item>) {
        let mut routed = Vec::with_capacity(items.len());
        for item in items {
            let topic = match item.record().topic() {
                Ok(topic) => topic.into_owned(),
                Err(reason) => {
                    self.shared.refuse(item, reason);
                    continue;
                }
            };
            match self.place(&topic, &item) {
                Some((partition, lane)) => routed.push(Routed { partition, lane, item }),
                None => self.park(topic, item),
            }
        }
        self.shared.schedule.push(routed);
    }

    fn place(&mut self, topic: &str, item: &Item) -> Option<(PartitionId, u64)> {
        let place = self.topics.get_mut(topic)?;
        let Some(key) = item.record().key() else {
            self.keyless = self.keyless.wrapping_add(1);
            place.stuck += 1;
            if place.stuck >= STICKY {
                place.stuck = 0;
                place.sticky = (place.sticky + 1) % place.partitions;
            }
            return Some((place.first.offset(place.sticky), self.keyless));
        };
        let partition = murmur2_partition(&key, place.partitions);
        Some((place.first.offset(partition), self.hasher.hash_one(&*key)))
    }

    fn park(&mut self, topic: String, item: Item) {
        let partitions = item.delivery().shape.record.partitions;
        self.parked(topic, partitions, item.is_dead_letter()).push(item);
    }

    /// What waits for a topic; the first asks for it.
    fn parked(&mut self, topic: String, partitions: Option<u32>, needed: bool) -> &mut Vec<Item> {
        match self.parked.entry(topic) {
            Entry::Occupied(waiting) => waiting.into_mut(),
            Entry::Vacant(place) => {
                // The resolver ends only with the sink.
                let _ = self.wanted.send(Wanted { topic: place.key().clone(), partitions, needed });
                place.insert(Vec::new())
            }
        }
    }

    fn resolved(&mut self, Resolved { topic, partitions }: Resolved) {
        let waiting = self.parked.remove(&topic).unwrap_or_default();
        match partitions {
            Ok(partitions) => {
                let first = self.shared.schedule.add(Topic { name: topic.clone(), partitions });
                let sticky = fastrand::u32(..partitions);
                self.topics.insert(topic, Place { first, partitions, sticky, stuck: 0 });
                self.route(waiting);
            }
            Err(reason) => {
                for item in waiting {
                    // There is no other place for a dead letter, so that it asks again.
                    match item.is_dead_letter() {
                        true => self.park(topic.clone(), item),
                        false => self.shared.refuse(item, reason.clone()),
                    }
                }
            }
        }
    }
}
