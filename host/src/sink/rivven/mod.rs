//! Records to Rivven topics, over connections of our own.
//!
//! One [`router`] task turns deliveries into records of partitions, and one [`resolver`] task finds or creates the topics that
//! the router asks for; the [`schedule`] keeps the records in lanes, one for each key; N [`writer`] tasks, each with one
//! connection and one request in flight, take from it whenever they have an answer. So order per key holds, every connection is
//! busy while there is work, and nothing lingers. A delivery is settled by whoever commits the last of its records ([`flight`]).

mod answer;
mod flight;
mod probe;
mod reader;
mod resolver;
mod router;
mod schedule;
mod wire;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

#[cfg(any(test, fuzzing))]
pub(crate) use self::answer::fuzz;
pub use self::probe::{Probe, Unusable};
pub use self::reader::{StoredRecord, TopicReader};

use self::flight::{Item, Refusal};
use self::resolver::Resolver;
use self::router::Router;
use self::schedule::Schedule;
use self::wire::Dial;
use self::writer::Writer;
use super::{Backoff, Health, Sink, SinkSample};
use crate::config::{self, BadMessage};
use crate::delivery::Delivery;
use crate::error::SinkError;
use crate::status::Status;
use crate::tls;

/// Deliveries that may wait for the router. Their bytes are bounded by the permits that they carry.
const QUEUE: usize = 16;

/// How long things may take; tests make them short.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// Name look-up, connection, TLS, handshake and authentication together.
    connect: Duration,
    /// One request and its answer.
    request: Duration,
    /// A connection that was idle for longer is not used again: rivvend closes after 120 s.
    idle: Duration,
    /// Before the second try.
    backoff: Duration,
    /// Before any other try, at most.
    backoff_max: Duration,
    /// After an answer that says that we ask too often; rivvend closes the connection after one second then.
    rate_limited: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            rate_limited: Duration::from_secs(1),
        }
    }
}

/// What router, resolver and writers share.
struct Shared {
    dial: Dial,
    times: Times,
    schedule: Schedule,
    health: Health,
    /// Dead letters of records that were refused, on their way to the router. Bounded by the records in flight.
    refused: mpsc::UnboundedSender<Item>,
}

impl Shared {
    fn backoff(&self) -> Backoff {
        Backoff::new(self.times.backoff, self.times.backoff_max)
    }

    /// `part` failed: readiness says so, and the first failure is logged where the others are noise.
    fn failed(&self, part: usize, reason: String) {
        if self.health.failed(part, reason.clone()) {
            warn!(%reason, "cannot write to Rivven; trying again, nothing is acknowledged meanwhile");
        }
    }

    fn recovered(&self, part: usize) {
        if self.health.recovered(part) {
            info!("writing to Rivven works");
        }
    }

    /// A record can never be taken, because of `reason`: it goes the way that `on_fault` names.
    fn refuse(&self, item: Item, reason: String) {
        let shape = &item.delivery().shape;
        let source = shape.from.source.as_str();
        match shape.on_fault {
            BadMessage::Stop => {
                warn!(source, %reason, "a record cannot be written; the source stops");
                let _ = shape.stop.send(reason);
                // Dropped, so that its delivery is never settled.
            }
            BadMessage::Drop => {
                warn!(source, %reason, "dropped a record that cannot be written");
                item.dropped();
            }
            BadMessage::DeadLetter => match item.refuse(reason) {
                Refusal::DeadLetter(letter) => {
                    // The router is gone when the sink is closing; then the delivery is never settled.
                    let _ = self.refused.send(letter);
                }
                Refusal::Known(item) => item.dropped(),
            },
        }
    }
}

/// Writes records to Rivven.
pub struct RivvenSink {
    deliveries: mpsc::Sender<Delivery>,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl RivvenSink {
    /// Starts the sink's tasks on the current runtime. `topics` are known destinations and the partitions that they get should
    /// they have to be created (`None`: the server's default); they are created whether or not a record comes.
    ///
    /// A cluster that cannot be reached is no error: the sink is not ready and tries again.
    ///
    /// # Errors
    ///
    /// The TLS files cannot be used.
    pub fn start(
        broker: &config::Broker,
        topics: impl IntoIterator<Item = (String, Option<u32>)>,
    ) -> Result<Self, SinkError> {
        Self::start_with(broker, topics.into_iter().collect(), Times::default())
    }

    fn start_with(
        broker: &config::Broker,
        topics: Vec<(String, Option<u32>)>,
        times: Times,
    ) -> Result<Self, SinkError> {
        if let Some(tls) = &broker.tls {
            tls::connector(tls)?;
        }
        let connections = broker.connections.max(1);
        let (refused, refusals) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            dial: Dial::new(broker, times),
            times,
            schedule: Schedule::new(connections),
            health: Health::default(),
            refused,
        });
        shared.health.starting(format!("not yet connected to Rivven at {}", shared.dial));
        let (deliveries, queue) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let (wanted, questions) = mpsc::unbounded_channel();
        let (resolved, answers) = mpsc::unbounded_channel();
        let router = Router::new(shared.clone(), topics, wanted);
        tasks.spawn(router.run(queue, refusals, answers));
        tasks.spawn(Resolver::new(shared.clone()).run(questions, resolved));
        for number in 0..connections {
            tasks.spawn(Writer::new(shared.clone(), number).run());
        }
        Ok(RivvenSink { deliveries, shared, tasks: Mutex::new(tasks) })
    }
}

impl Sink for RivvenSink {
    fn deliver(&self, delivery: Delivery) -> Result<(), SinkError> {
        if delivery.records().next().is_none() {
            delivery.settle();
            return Ok(());
        }
        self.deliveries.blocking_send(delivery).map_err(|_| SinkError::Closed)
    }

    fn attach(&self, status: Status) {
        self.shared.health.attach(status);
    }

    fn sample(&self) -> SinkSample {
        SinkSample { connections: self.shared.dial.connections(), ..self.shared.health.sample() }
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        // Ended wherever they wait: what is not committed by then is not settled.
        Box::pin(async move {
            tasks.shutdown().await;
            // Whoever waits for the room that these records take gets it, and then the error.
            self.shared.schedule.clear();
        })
    }
}

#[cfg(test)]
mod tests;
