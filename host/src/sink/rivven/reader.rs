//! Reading a topic back: what the sink has written as dead letters.

use std::collections::VecDeque;

use bytes::Bytes;
use rivven_protocol::{Request, Response};

use super::Times;
use super::wire::{Connection, Dial, WireError};
use crate::config;

/// Records asked for at a time. The server bounds an answer by 4 KiB for each of them and one record more, so it stays below
/// what a frame can hold unless records are large; then they are asked for one by one.
const FETCH: u32 = 100;

/// A record as it lies in its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// The partition.
    pub partition: u32,
    /// The offset there.
    pub offset: u64,
    /// The value.
    pub value: Bytes,
}

/// Reads a topic from its beginning to the end that it had when the reader was made.
pub struct TopicReader {
    dial: Dial,
    connection: Option<Connection>,
    server: usize,
    servers: usize,
    topic: String,
    rest: VecDeque<Span>,
}

/// What is left of a partition.
struct Span {
    partition: u32,
    next: u64,
    end: u64,
}

impl TopicReader {
    /// A reader of `topic`; one that finds nothing where there is no such topic.
    ///
    /// # Errors
    ///
    /// What keeps it from reading, for a person.
    pub async fn open(broker: &config::Broker, topic: &str) -> Result<Self, String> {
        let mut reader = TopicReader {
            dial: Dial::new(broker, Times::default()),
            connection: None,
            server: 0,
            servers: broker.bootstrap_servers.len().max(1),
            topic: topic.to_owned(),
            rest: VecDeque::new(),
        };
        let topics = reader.ask(&Request::ListTopics).await?;
        let Response::Topics { topics } = topics else { return Err(unexpected(&topics)) };
        if !topics.iter().any(|name| name == topic) {
            return Ok(reader);
        }
        let metadata = reader.ask(&Request::GetMetadata { topic: topic.to_owned() }).await?;
        let Response::Metadata { partitions, .. } = metadata else { return Err(unexpected(&metadata)) };
        for partition in 0..partitions {
            let bounds = reader.ask(&Request::GetOffsetBounds { topic: topic.to_owned(), partition }).await?;
            let Response::OffsetBounds { earliest, latest } = bounds else { return Err(unexpected(&bounds)) };
            reader.rest.push_back(Span { partition, next: earliest, end: latest });
        }
        Ok(reader)
    }

    /// The next records, partition by partition in the order of their offsets; none at the end.
    ///
    /// # Errors
    ///
    /// What keeps it from reading, for a person. The next call tries again.
    pub async fn next(&mut self) -> Result<Vec<StoredRecord>, String> {
        loop {
            let Some(Span { partition, next, end }) = self.rest.front_mut() else { return Ok(Vec::new()) };
            let (partition, from, end) = (*partition, *next, *end);
            if from >= end {
                self.rest.pop_front();
                continue;
            }
            let messages = match self.fetch(partition, from, FETCH).await {
                Ok(messages) => messages,
                Err(_) => self.fetch(partition, from, 1).await?,
            };
            let last = messages.iter().map(|record| record.offset).max();
            let last =
                last.ok_or_else(|| format!("it withholds partition {partition} from offset {from} on"))?;
            if let Some(span) = self.rest.front_mut() {
                span.next = last.saturating_add(1);
            }
            return Ok(messages.into_iter().filter(|record| record.offset < end).collect());
        }
    }

    async fn fetch(
        &mut self,
        partition: u32,
        offset: u64,
        max_messages: u32,
    ) -> Result<Vec<StoredRecord>, String> {
        let topic = self.topic.clone();
        let (isolation_level, max_wait_ms) = (None, None);
        let request =
            Request::Consume { topic, partition, offset, max_messages, isolation_level, max_wait_ms };
        let response = self.ask(&request).await?;
        let Response::Messages { messages } = response else { return Err(unexpected(&response)) };
        let stored = messages.into_iter().filter(|message| message.offset >= offset);
        Ok(stored
            .map(|message| StoredRecord { partition, offset: message.offset, value: message.value })
            .collect())
    }

    /// Asks each of the servers once.
    async fn ask(&mut self, request: &Request) -> Result<Response, String> {
        let mut result = Err(String::new());
        for _ in 0..self.servers {
            match self.request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => result = Err(error.to_string()),
            }
            self.server = self.server.wrapping_add(1);
        }
        result
    }

    async fn request(&mut self, request: &Request) -> Result<Response, WireError> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_usable() => connection,
            _ => self.dial.open(self.dial.server(self.server)).await?,
        };
        let response = connection.request(request).await?;
        self.connection = Some(connection);
        Ok(response)
    }
}

fn unexpected(response: &Response) -> String {
    match response {
        Response::Error { message } => message.clone(),
        other => format!("unexpected answer: {other:?}"),
    }
}
