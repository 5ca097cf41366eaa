//! Finds or creates topics, each in its own time: one that Rivven refuses holds back what goes there, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use rivven_protocol::{Request, Response};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::wire::{Connection, WireError};
use crate::sink::Backoff;

/// The resolver's own part in the sink's health. Each topic that it looks for has the next smaller one; the writers' are from 0.
const PART: usize = usize::MAX;

/// Partitions of a topic, at most. Each takes some memory here, and their number is what a server says.
const MAX_PARTITIONS: u32 = 100_000;

/// A topic to find or create.
pub(super) struct Wanted {
    pub(super) topic: String,
    /// How many it gets should it have to be created; `None`: the server's default.
    pub(super) partitions: Option<u32>,
    /// There is no other place for what goes there, so even a topic that Rivven will never take is asked for again.
    pub(super) needed: bool,
}

/// What became of it.
pub(super) struct Resolved {
    pub(super) topic: String,
    /// How many partitions it has, or why Rivven will never take it.
    pub(super) partitions: Result<u32, String>,
}

/// The one task that asks for topics.
pub(super) struct Resolver {
    shared: Arc<Shared>,
    /// What is not there yet, by when to ask and its part in the sink's health. Each has records that wait for it, or is
    /// configured, so these are no more than the records in flight.
    open: BTreeMap<(Instant, usize), Open>,
    last_part: usize,
    connection: Option<Connection>,
    server: usize,
    /// Of the server; that of a topic is its own.
    backoff: Backoff,
}

struct Open {
    wanted: Wanted,
    backoff: Backoff,
}

/// Why a topic has no partitions yet.
enum Unresolved {
    /// Rivven will never take such a topic.
    Never(String),
    /// Perhaps later.
    Refused(String),
    /// There is no answer.
    Unreachable(WireError),
}

impl Resolver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let backoff = shared.backoff();
        Resolver { shared, open: BTreeMap::new(), last_part: PART, connection: None, server: 0, backoff }
    }

    pub(super) async fn run(
        mut self,
        mut wanted: UnboundedReceiver<Wanted>,
        resolved: UnboundedSender<Resolved>,
    ) {
        if wanted.is_empty() {
            self.greet().await;
        }
        loop {
            let next = self.open.first_key_value().map(|((due, _), _)| *due);
            tokio::select! {
                biased;
                wanted = wanted.recv() => match wanted {
                    Some(wanted) => self.add(wanted),
                    None => return,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let Some(((_, part), open)) = self.open.pop_first() else { continue };
                    // The router is gone when the sink is closing.
                    if let Some(done) = self.attempt(part, open).await && resolved.send(done).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn add(&mut self, wanted: Wanted) {
        self.last_part = self.last_part.wrapping_sub(1);
        let backoff = self.shared.backoff();
        self.open.insert((Instant::now(), self.last_part), Open { wanted, backoff });
    }

    /// Asks for a topic. Without a result it is asked for again later.
    async fn attempt(&mut self, part: usize, mut open: Open) -> Option<Resolved> {
        let answer = self.ask(&open.wanted).await;
        let mut pause = None;
        let reason = match answer {
            Ok(partitions) => return Some(self.done(part, open, Ok(partitions))),
            Err(Unresolved::Never(reason)) if !open.wanted.needed => {
                return Some(self.done(part, open, Err(reason)));
            }
            Err(Unresolved::Never(reason) | Unresolved::Refused(reason)) => {
                self.backoff.reset();
                reason
            }
            Err(Unresolved::Unreachable(error)) => {
                pause = Some(self.backoff.delay());
                error.to_string()
            }
        };
        self.failed(part, format!("cannot find or create the topic {}: {reason}", open.wanted.topic));
        let due = Instant::now() + open.backoff.delay();
        self.open.insert((due, part), open);
        if let Some(pause) = pause {
            // Not for each topic anew.
            sleep(pause).await;
        }
        None
    }

    fn done(&mut self, part: usize, open: Open, partitions: Result<u32, String>) -> Resolved {
        self.backoff.reset();
        self.shared.recovered(part);
        Resolved { topic: open.wanted.topic, partitions }
    }

    /// How many partitions a topic has, once it is there.
    async fn ask(&mut self, wanted: &Wanted) -> Result<u32, Unresolved> {
        let Wanted { topic, partitions, .. } = wanted;
        let known = Request::GetMetadata { topic: topic.clone() };
        if let Response::Metadata { partitions: partitions @ 1.., .. } = self.request(&known).await? {
            return believable(partitions);
        }
        let create = Request::CreateTopic { name: topic.clone(), partitions: *partitions };
        match self.request(&create).await? {
            Response::TopicCreated { partitions: 0, .. } => {
                Err(Unresolved::Refused("it has no partitions".into()))
            }
            Response::TopicCreated { partitions, .. } => {
                tracing::info!(topic, partitions, "created the topic");
                believable(partitions)
            }
            Response::Error { message } if message.starts_with("INVALID_TOPIC_NAME") => {
                Err(Unresolved::Never(message))
            }
            Response::Error { message } => {
                // Perhaps the login has expired, perhaps the server closes after such an answer.
                self.connection = None;
                Err(Unresolved::Refused(message))
            }
            other => Err(Unresolved::Refused(format!("unexpected answer: {other:?}"))),
        }
    }

    /// Without topics to create, at least sees whether Rivven is there.
    async fn greet(&mut self) {
        while let Err(Unresolved::Unreachable(error)) = self.request(&Request::Ping).await {
            self.failed(PART, format!("cannot reach Rivven: {error}"));
            sleep(self.backoff.delay()).await;
        }
        self.backoff.reset();
        self.shared.recovered(PART);
    }

    /// Something failed: the next server is asked next.
    fn failed(&mut self, part: usize, reason: String) {
        let server = self.shared.dial.server(self.server);
        self.shared.failed(part, format!("{server}: {reason}"));
        self.server = self.server.wrapping_add(1);
    }

    async fn request(&mut self, request: &Request) -> Result<Response, Unresolved> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_usable() => connection,
            _ => self.shared.dial.open(self.shared.dial.server(self.server)).await?,
        };
        let response = connection.request(request).await?;
        self.connection = Some(connection);
        Ok(response)
    }
}

impl From<WireError> for Unresolved {
    fn from(error: WireError) -> Self {
        Unresolved::Unreachable(error)
    }
}

fn believable(partitions: u32) -> Result<u32, Unresolved> {
    match partitions {
        ..=MAX_PARTITIONS => Ok(partitions),
        _ => Err(Unresolved::Refused(format!(
            "the server says that it has {partitions} partitions, more than {MAX_PARTITIONS}"
        ))),
    }
}
