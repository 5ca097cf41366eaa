//! From deliveries to records of partitions: finds or creates each topic, and places each record.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use rivven_core::hash::murmur2_partition;
use rivven_protocol::{Request, Response};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Shared;
use super::flight::{Item, items};
use super::schedule::{PartitionId, Routed, Topic};
use super::wire::{Connection, WireError};
use crate::delivery::Delivery;
use crate::sink::Backoff;

/// The router's part in the sink's health; the writers' parts are smaller.
pub(super) const PART: usize = usize::MAX;

/// Records without a key stay with one partition for so many, as in Rivven's own producer.
const STICKY: u32 = 8;

/// The one task that knows topics.
pub(super) struct Router {
    shared: Arc<Shared>,
    /// To be created before anything else.
    known: Vec<(String, Option<u32>)>,
    topics: HashMap<String, Place>,
    connection: Option<Connection>,
    server: usize,
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

/// Why a topic has no partitions yet.
enum Unresolved {
    /// Rivven will never take such a topic.
    Never(String),
    /// Perhaps later.
    Failed(String),
}

impl Router {
    pub(super) fn new(shared: Arc<Shared>, known: Vec<(String, Option<u32>)>) -> Self {
        Router {
            shared,
            known,
            topics: HashMap::new(),
            connection: None,
            server: 0,
            hasher: RandomState::new(),
            keyless: 0,
        }
    }

    pub(super) async fn run(
        mut self,
        mut deliveries: mpsc::Receiver<Delivery>,
        mut refused: mpsc::UnboundedReceiver<Item>,
    ) {
        for (topic, partitions) in std::mem::take(&mut self.known) {
            self.settle(&topic, partitions).await;
        }
        if self.topics.is_empty() {
            self.greet().await;
        }
        self.shared.recovered(PART);
        loop {
            tokio::select! {
                biased;
                Some(letter) = refused.recv() => self.route(vec![letter]).await,
                delivery = deliveries.recv() => match delivery {
                    Some(delivery) => self.route(items(delivery)).await,
                    None => return,
                },
            }
        }
    }

    async fn route(&mut self, items: Vec<Item>) {
        let mut routed = Vec::with_capacity(items.len());
        for item in items {
            let topic = match item.record().topic() {
                Ok(topic) => topic.into_owned(),
                Err(reason) => {
                    self.shared.refuse(item, reason);
                    continue;
                }
            };
            if !self.topics.contains_key(topic.as_str()) {
                // What is placed already need not wait for this topic.
                self.shared.schedule.push(routed.drain(..));
                let partitions = item.delivery().shape.record.partitions;
                if item.is_dead_letter() {
                    self.settle(&topic, partitions).await;
                } else if let Err(reason) = self.resolve(&topic, partitions).await {
                    self.shared.refuse(item, reason);
                    continue;
                }
            }
            if let Some((partition, lane)) = self.place(&topic, &item) {
                routed.push(Routed { partition, lane, item });
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

    /// Finds or creates a topic that nothing can do without, however long it takes.
    async fn settle(&mut self, topic: &str, partitions: Option<u32>) {
        let mut backoff = self.shared.backoff();
        while let Err(reason) = self.resolve(topic, partitions).await {
            self.shared.failed(PART, format!("Rivven refuses the topic {topic}: {reason}"));
            sleep(backoff.delay()).await;
        }
        self.shared.recovered(PART);
    }

    /// Finds or creates a topic; an error only when that can never be.
    async fn resolve(&mut self, topic: &str, partitions: Option<u32>) -> Result<(), String> {
        let mut backoff = self.shared.backoff();
        loop {
            match self.ask(topic, partitions).await {
                Ok(partitions) => {
                    self.shared.recovered(PART);
                    let first = self.shared.schedule.add(Topic { name: topic.to_owned(), partitions });
                    let sticky = fastrand::u32(..partitions);
                    self.topics.insert(topic.to_owned(), Place { first, partitions, sticky, stuck: 0 });
                    return Ok(());
                }
                Err(Unresolved::Never(reason)) => return Err(reason),
                Err(Unresolved::Failed(reason)) => {
                    self.failed(&mut backoff, format!("cannot find or create the topic {topic}: {reason}"))
                        .await;
                }
            }
        }
    }

    /// How many partitions a topic has, once it is there.
    async fn ask(&mut self, topic: &str, partitions: Option<u32>) -> Result<u32, Unresolved> {
        let failed = |error: WireError| Unresolved::Failed(error.to_string());
        let known = Request::GetMetadata { topic: topic.to_owned() };
        if let Response::Metadata { partitions: partitions @ 1.., .. } =
            self.request(&known).await.map_err(failed)?
        {
            return Ok(partitions);
        }
        let create = Request::CreateTopic { name: topic.to_owned(), partitions };
        match self.request(&create).await.map_err(failed)? {
            Response::TopicCreated { partitions: 0, .. } => {
                Err(Unresolved::Failed("it has no partitions".into()))
            }
            Response::TopicCreated { partitions, .. } => {
                tracing::info!(topic, partitions, "created the topic");
                Ok(partitions)
            }
            Response::Error { message } if message.starts_with("INVALID_TOPIC_NAME") => {
                Err(Unresolved::Never(message))
            }
            Response::Error { message } => {
                // Perhaps the login has expired, perhaps the server closes after such an answer.
                self.connection = None;
                Err(Unresolved::Failed(message))
            }
            other => Err(Unresolved::Failed(format!("unexpected answer: {other:?}"))),
        }
    }

    /// Without topics to create, at least sees whether Rivven is there.
    async fn greet(&mut self) {
        let mut backoff = self.shared.backoff();
        while let Err(error) = self.request(&Request::Ping).await {
            self.failed(&mut backoff, format!("cannot reach Rivven: {error}")).await;
        }
    }

    async fn failed(&mut self, backoff: &mut Backoff, reason: String) {
        let server = self.shared.dial.server(self.server);
        self.shared.failed(PART, format!("{server}: {reason}"));
        self.server = self.server.wrapping_add(1);
        sleep(backoff.delay()).await;
    }

    async fn request(&mut self, request: &Request) -> Result<Response, WireError> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_usable() => connection,
            _ => self.shared.dial.open(self.shared.dial.server(self.server)).await?,
        };
        let response = connection.request(request).await?;
        self.connection = Some(connection);
        Ok(response)
    }
}
