//! One connection's worth of writing: takes what waits, encodes it, sends it, and does not let go before it is committed or
//! refused.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_protocol::{BatchRecord, MAX_MESSAGE_SIZE, ProtocolError, Request, Response};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::Shared;
use super::answer::{Answer, classify};
use super::flight::Item;
use super::schedule::Batch;
use super::wire::{Connection, WireError};
use crate::sink::Backoff;

/// Greatest key and value of a record together, in bytes: a frame has 10 MiB, and a consumer gets the record in a frame that
/// carries some more about it.
pub(super) const MAX_RECORD: usize = MAX_MESSAGE_SIZE - (4 << 10);

/// Owns one connection.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Its part in the sink's health.
    number: usize,
    connection: Option<Connection>,
    server: usize,
    backoff: Backoff,
    failing: bool,
}

/// Why a request is not committed.
enum Trouble {
    /// There is no connection, so nothing was sent.
    Unconnected(WireError),
    /// It was sent, and nobody knows what became of it.
    Unknown(WireError),
    /// The server says no.
    Refused(Answer),
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, number: usize) -> Self {
        let backoff = shared.backoff();
        Writer { shared, number, connection: None, server: number, backoff, failing: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            let batch = self.next().await;
            self.write(batch).await;
        }
    }

    /// What to write next. A connection that nobody needs for long is closed, before the server does it.
    async fn next(&mut self) -> Batch {
        loop {
            let address = self.connection.as_ref().map(|connection| &*connection.address);
            if let Some(batch) = self.shared.schedule.take(address) {
                return batch;
            }
            if timeout(self.shared.times.idle, self.shared.schedule.wait()).await.is_err() {
                self.connection = None;
            }
        }
    }

    /// Writes a batch, however long it takes; on return each of its records is committed or refused.
    async fn write(&mut self, mut batch: Batch) {
        let (done, items) = batch.open();
        let (items, mut records) = self.encode(items);
        let mut items = items.into_iter();
        let (mut start, mut width) = (0, records.len());
        while let Some(part) =
            records.get(start..(start + width).min(records.len())).filter(|part| !part.is_empty())
        {
            let of_part = items.as_slice().get(..part.len()).unwrap_or_default();
            match self.publish(&mut batch, part, of_part).await {
                Ok(()) => {
                    start += part.len();
                    items.by_ref().take(part.len()).for_each(Item::committed);
                }
                // One of them it is; alone, each of the others is committed.
                Err(_) if part.len() > 1 => width = 1,
                Err(reason) if of_part.iter().any(Item::is_dead_letter) => {
                    let mut letters = of_part.iter().zip(records.iter_mut().skip(start));
                    if letters.any(|(item, record)| shorten(item, record)) {
                        continue;
                    }
                    self.failed(format!("Rivven refuses a dead letter: {reason}"));
                    sleep(self.backoff.delay()).await;
                }
                Err(reason) => {
                    // Nothing is wrong with the server.
                    self.recovered();
                    start += 1;
                    if let Some(item) = items.next() {
                        self.shared.refuse(item, format!("Rivven refuses the record: {reason}"));
                    }
                }
            }
        }
        self.shared.schedule.done(done);
    }

    /// Makes the records, all in one buffer. What is too large for a frame is refused here.
    fn encode(&self, items: Vec<Item>) -> (Vec<Item>, Vec<BatchRecord>) {
        let mut kept = Vec::with_capacity(items.len());
        let mut parts: Vec<(Option<Bytes>, Range<usize>)> = Vec::with_capacity(items.len());
        let mut buffer = Vec::new();
        for item in items {
            let start = buffer.len();
            let record = item.record();
            record.value(&mut buffer);
            let key = record.key().map(|key| Bytes::copy_from_slice(&key));
            let size = buffer.len() - start + key.as_ref().map_or(0, Bytes::len);
            if size > MAX_RECORD {
                buffer.truncate(start);
                let reason = format!("key and value are {size} bytes, and Rivven takes at most {MAX_RECORD}");
                self.shared.refuse(item, reason);
                continue;
            }
            parts.push((key, start..buffer.len()));
            kept.push(item);
        }
        let values = Bytes::from(buffer);
        let records =
            parts.into_iter().map(|(key, range)| BatchRecord { key, value: values.slice(range) }).collect();
        (kept, records)
    }

    /// Sends records until they are committed.
    ///
    /// # Errors
    ///
    /// Why (at least) one of them can never be taken.
    async fn publish(
        &mut self,
        batch: &mut Batch,
        records: &[BatchRecord],
        items: &[Item],
    ) -> Result<(), String> {
        loop {
            let trouble = match self.send(batch, records).await {
                Ok(Answer::Committed) => {
                    self.recovered();
                    return Ok(());
                }
                Ok(Answer::Never(reason)) => {
                    // The server may close after such an answer.
                    self.connection = None;
                    return Err(reason);
                }
                Ok(answer) => Trouble::Refused(answer),
                Err(trouble) => trouble,
            };
            if !matches!(trouble, Trouble::Unconnected(_)) {
                items.iter().for_each(Item::repeated);
            }
            let pause = self.recover(batch, trouble).await;
            sleep(pause).await;
        }
    }

    async fn send(&mut self, batch: &Batch, records: &[BatchRecord]) -> Result<Answer, Trouble> {
        let request = Request::PublishBatch {
            topic: batch.topic.name.clone(),
            partition: Some(batch.number),
            records: records.to_vec(),
            leader_epoch: None,
        };
        // Taken out, so that it is gone when this fails or is cancelled half-way.
        let mut connection = self.connect(batch.leader.as_ref()).await.map_err(Trouble::Unconnected)?;
        let response = match connection.request(&request).await {
            // Found before anything was sent: as if the server had said so, and the batch is split.
            Err(WireError::Protocol(error @ ProtocolError::MessageTooLarge(..))) => {
                self.connection = Some(connection);
                return Ok(Answer::Never(error.to_string()));
            }
            answer => answer.map_err(Trouble::Unknown)?,
        };
        self.connection = Some(connection);
        Ok(classify(response, records.len(), self.shared.times.rate_limited))
    }

    async fn connect(&mut self, leader: Option<&Arc<str>>) -> Result<Connection, WireError> {
        match self.connection.take() {
            Some(connection)
                if connection.is_usable() && leader.is_none_or(|leader| *leader == connection.address) =>
            {
                Ok(connection)
            }
            _ => {
                let server = || self.shared.dial.server(self.server);
                self.shared.dial.open(leader.cloned().unwrap_or_else(server)).await
            }
        }
    }

    /// Does what can be done about it, and says how long to wait before the next try.
    async fn recover(&mut self, batch: &mut Batch, trouble: Trouble) -> Duration {
        let first = !self.failing;
        let (topic, partition) = (&*batch.topic.name, batch.number);
        let what = match &trouble {
            Trouble::Unconnected(error) => format!("cannot connect to Rivven: {error}"),
            Trouble::Unknown(error) => format!("the connection to Rivven failed: {error}"),
            Trouble::Refused(answer) => format!("{topic} partition {partition}: {answer:?}"),
        };
        debug!(writer = self.number, topic, partition, reason = what, "writing again");
        self.failed(what);
        let pause = match trouble {
            Trouble::Unconnected(_) | Trouble::Unknown(_) => {
                // Perhaps the leader is another by now, perhaps another server is up.
                self.set_leader(batch, None);
                self.server = self.server.wrapping_add(1);
                None
            }
            Trouble::Refused(Answer::NotLeader(_)) => {
                let leader = self.leader(batch).await;
                let found = leader.is_some();
                self.set_leader(batch, leader);
                found.then_some(Duration::ZERO)
            }
            Trouble::Refused(Answer::UnknownTopic(_)) => {
                let (name, partitions) = (topic.to_owned(), Some(batch.topic.partitions));
                self.administer(Request::CreateTopic { name, partitions }).await;
                Some(Duration::ZERO)
            }
            Trouble::Refused(Answer::MissingPartition(_)) => {
                // Somebody deleted the topic, and it came back with fewer partitions.
                let (topic, new_partition_count) = (topic.to_owned(), batch.topic.partitions);
                let assignments = Vec::new();
                self.administer(Request::CreatePartitions { topic, new_partition_count, assignments }).await;
                Some(Duration::ZERO)
            }
            Trouble::Refused(Answer::Throttled(pause, _)) => {
                self.connection = None;
                return pause.max(self.backoff.delay());
            }
            Trouble::Refused(_) => {
                // Perhaps the login has expired.
                self.connection = None;
                None
            }
        };
        // What can be put right is tried at once, but only once.
        let delay = self.backoff.delay();
        pause.filter(|_| first).unwrap_or(delay)
    }

    fn set_leader(&self, batch: &mut Batch, leader: Option<Arc<str>>) {
        self.shared.schedule.set_leader(batch.partition, leader.clone());
        batch.leader = leader;
    }

    /// Asks for the address of the partition's leader.
    async fn leader(&mut self, batch: &Batch) -> Option<Arc<str>> {
        let request = Request::GetClusterMetadata { topics: vec![batch.topic.name.clone()] };
        let Response::ClusterMetadata { brokers, topics, .. } = self.ask(request).await? else { return None };
        let topic = topics.iter().find(|topic| topic.name == batch.topic.name)?;
        let leader = topic.partition_leader(batch.number)?;
        let broker = brokers.iter().find(|broker| broker.node_id == leader)?;
        let address = match broker.host.contains(':') {
            true => format!("[{}]:{}", broker.host, broker.port),
            false => broker.address(),
        };
        info!(topic = batch.topic.name, partition = batch.number, leader = address, "another server leads");
        Some(address.into())
    }

    async fn administer(&mut self, request: Request) {
        let answer = self.ask(request).await;
        debug!(writer = self.number, ?answer, "tried to put the topic right");
    }

    async fn ask(&mut self, request: Request) -> Option<Response> {
        let mut connection = self.connect(None).await.ok()?;
        let response = connection.request(&request).await.ok()?;
        self.connection = Some(connection);
        Some(response)
    }

    fn failed(&mut self, reason: String) {
        self.failing = true;
        self.shared.failed(self.number, reason);
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            self.backoff.reset();
            self.shared.recovered(self.number);
        }
    }
}

/// Takes the payload out of a dead letter that was refused, which most likely made it too large; says whether there was any.
/// One that is refused without it, too, gets it back: that was not why, so that it must not be lost.
fn shorten(item: &Item, record: &mut BatchRecord) -> bool {
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    item.record().value(&mut whole);
    item.record().without_payload().value(&mut bare);
    let shorter = bare.len() < whole.len() && record.value.len() == whole.len();
    record.value = if shorter { bare } else { whole }.into();
    shorter
}
