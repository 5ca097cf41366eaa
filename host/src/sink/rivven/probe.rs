//! Asking Rivven without writing to it, for `rivven-mqtt check`.

use rivven_protocol::{Request, Response};

use super::Times;
use super::answer::{Answer, classify};
use super::wire::{Connection, Dial, WireError};
use crate::config;

/// Why a server cannot be used, or does not tell about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// What happened.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// A connection to one server, made as the writers make theirs.
pub struct Probe(Connection);

impl Probe {
    /// Connects to `server`, with TLS and login where `broker` says so, and sees that it serves requests.
    ///
    /// # Errors
    /// What the first step that fails says; an attempt is given up after 10 seconds.
    pub async fn connect(broker: &config::Broker, server: &str) -> Result<Self, Unusable> {
        let dial = Dial::new(broker, Times::default());
        let mut connection = dial.open(server.into()).await.map_err(Unusable::from)?;
        match connection.request(&Request::Ping).await? {
            Response::Pong => Ok(Probe(connection)),
            other => Err(unexpected(other)),
        }
    }

    /// How many partitions `topic` has; `None` where there is no such topic.
    ///
    /// # Errors
    /// The connection broke, or the server does not tell: this client may not see the topic.
    pub async fn partitions(&mut self, topic: &str) -> Result<Option<u32>, Unusable> {
        let request = Request::GetMetadata { topic: topic.to_owned() };
        match self.0.request(&request).await? {
            Response::Metadata { partitions: 0, .. } => Ok(None),
            Response::Metadata { partitions, .. } => Ok(Some(partitions)),
            other => match classify(other.clone(), 0, Times::default().rate_limited) {
                Answer::UnknownTopic(_) => Ok(None),
                _ => Err(unexpected(other)),
            },
        }
    }
}

fn unexpected(response: Response) -> Unusable {
    match response {
        Response::Error { message } => {
            let advice = match message.starts_with("AUTH") {
                true => "set `broker.auth` to a user who may use the topics",
                false => "the server's log says more",
            };
            Unusable { reason: message, advice }
        }
        other => WireError::Nonsense(format!("{other:?}")).into(),
    }
}

impl From<WireError> for Unusable {
    fn from(error: WireError) -> Self {
        let advice = match &error {
            WireError::Tls(_) => "correct the files and the name under `broker.tls`",
            WireError::Login(_) => LOGIN,
            WireError::Client(rivven_client::Error::AuthenticationFailed(_)) => LOGIN,
            WireError::Version(_) | WireError::Protocol(_) => {
                "this host speaks the protocol of Rivven 0.0.22: use a server of that version"
            }
            WireError::Nonsense(_) => "is something else listening there? correct `broker.bootstrap_servers`",
            WireError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                "is the server's TLS on, its certificate from `broker.tls.ca_cert`, and its name that of the address?"
            }
            WireError::Io(_) | WireError::TimedOut(_) | WireError::Client(_) => {
                "start Rivven, or correct `broker.bootstrap_servers` (RIVVEN_BOOTSTRAP_SERVERS where the file has no `broker`)"
            }
        };
        Unusable { reason: error.to_string(), advice }
    }
}

const LOGIN: &str = "correct `broker.auth`";
