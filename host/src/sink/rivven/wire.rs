//! One connection to a Rivven server: rivven-protocol frames, one request in flight, time-outs of our own.
//!
//! `TCP_QUICKACK` is set before every read: rivvend writes the length and the body of an answer as two small segments without
//! `TCP_NODELAY`, so that a delayed ACK of the first would hold back the second for 40 ms.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rivven_client::Client;
use rivven_protocol::{MAX_MESSAGE_SIZE, PROTOCOL_VERSION, ProtocolError, Request, Response, WireFormat};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Times;
use crate::addresses::first_to_connect;
use crate::config::{self, Credentials, Tls};
use crate::error::TlsError;
use crate::tls;

/// Name in the protocol's handshake.
const CLIENT: &str = concat!("rivven-mqtt/", env!("CARGO_PKG_VERSION"));
/// Greatest answer that is read, in bytes: rivvend's own limit with room.
const MAX_ANSWER: usize = MAX_MESSAGE_SIZE + (64 << 10);

/// What goes wrong below the requests. The outcome of a request that was sent is unknown then.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("{0}")]
    Client(#[from] rivven_client::Error),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    #[error("the server speaks protocol version {0}, this host version {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("the server refuses the login: {0}")]
    Login(String),
    #[error("not the answer of a Rivven server: {0}")]
    Nonsense(String),
}

/// How to connect.
pub(super) struct Dial {
    bootstrap: Vec<Arc<str>>,
    auth: Option<Credentials>,
    tls: Option<Tls>,
    times: Times,
    /// Each open connection has a clone.
    open: Arc<()>,
}

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bootstrap.join(", "))
    }
}

impl Dial {
    pub(super) fn new(broker: &config::Broker, times: Times) -> Self {
        Dial {
            bootstrap: broker.bootstrap_servers.iter().map(|server| server.as_str().into()).collect(),
            auth: broker.auth.clone(),
            tls: broker.tls.clone(),
            times,
            open: Arc::default(),
        }
    }

    /// How many connections are open.
    pub(super) fn connections(&self) -> u64 {
        Arc::strong_count(&self.open) as u64 - 1
    }

    /// The server to try at attempt `n`.
    pub(super) fn server(&self, n: usize) -> Arc<str> {
        let servers = self.bootstrap.len().max(1);
        self.bootstrap.get(n % servers).cloned().unwrap_or_else(|| "localhost:9092".into())
    }

    /// Connects, encrypts, shakes hands and logs in.
    pub(super) async fn open(&self, address: Arc<str>) -> Result<Connection, WireError> {
        let limit = self.times.connect;
        timeout(limit, self.connect(address)).await.map_err(|_| WireError::TimedOut(limit))?
    }

    async fn connect(&self, address: Arc<str>) -> Result<Connection, WireError> {
        let credentials = self.auth.as_ref().map(|auth| {
            let password = auth.password.as_ref().map_or("", |password| password.expose());
            (auth.username.as_deref().unwrap_or_default(), password)
        });
        let limit = self.times.connect;
        let deadline = tokio::time::Instant::now() + limit;
        let addresses: Vec<_> = lookup_host(&*address).await?.collect();
        let Some(tls) = &self.tls else {
            let connect = |one: SocketAddr| async move {
                Client::connect_with_timeout(&one.to_string(), limit).await.map_err(WireError::from)
            };
            let mut client = first_to_connect(&addresses, deadline, connect).await?;
            if let Some((username, password)) = credentials {
                client.authenticate_scram(username, password).await?;
            }
            return Ok(self.connection(address, Stream::Plain(client.into_stream()?)));
        };
        // The client can only hand over plain streams, so here its handshake is repeated.
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let plain = first_to_connect(&addresses, deadline, TcpStream::connect).await?;
        plain.set_nodelay(true)?;
        let stream = tls::connect(tls, host, plain).await?;
        let mut connection = self.connection(address, Stream::Tls(Box::new(stream)));
        connection.handshake().await?;
        if let Some((username, password)) = credentials {
            connection.login(username, password).await?;
        }
        Ok(connection)
    }

    fn connection(&self, address: Arc<str>, stream: Stream) -> Connection {
        let (times, buffer, open) = (self.times, Vec::new(), self.open.clone());
        Connection { address, stream, times, next_id: 1, used: Instant::now(), buffer, _open: open }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that is ready for requests.
pub(super) struct Connection {
    pub(super) address: Arc<str>,
    stream: Stream,
    times: Times,
    next_id: u32,
    used: Instant,
    buffer: Vec<u8>,
    /// Is counted.
    _open: Arc<()>,
}

impl Connection {
    /// Whether it makes sense to send on it: neither idle for so long that the server is about to close it, nor closed already.
    /// So a restart of the server between two requests is no ambiguous outcome.
    pub(super) fn is_usable(&self) -> bool {
        let open = match &self.stream {
            Stream::Plain(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Stream::Tls(_) => true,
        };
        open && self.used.elapsed() < self.times.idle
    }

    /// Sends a request and waits for its answer. After an error the connection must not be used again.
    pub(super) async fn request(&mut self, request: &Request) -> Result<Response, WireError> {
        let limit = self.times.request;
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(1);
        let body = request.to_wire(WireFormat::Postcard, id)?;
        self.buffer.clear();
        self.buffer.extend_from_slice(&(body.len() as u32).to_be_bytes());
        self.buffer.extend_from_slice(&body);
        drop(body);
        let (response, answered) =
            timeout(limit, self.exchange()).await.map_err(|_| WireError::TimedOut(limit))??;
        self.used = Instant::now();
        // What the server refuses before it has read it, it answers without the identifier.
        if answered != id && !matches!(response, Response::Error { .. }) {
            return Err(WireError::Nonsense(format!("request {id} was answered as {answered}")));
        }
        Ok(response)
    }

    async fn exchange(&mut self) -> Result<(Response, u32), WireError> {
        if let Err(error) = self.write().await {
            // A server that refuses a frame for its length says so and closes while we still write.
            return match timeout(self.times.backoff, self.read()).await {
                Ok(Ok(refusal)) => Ok(refusal),
                _ => Err(error.into()),
            };
        }
        self.read().await
    }

    async fn write(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(&self.buffer).await,
            Stream::Tls(stream) => {
                stream.write_all(&self.buffer).await?;
                stream.flush().await
            }
        }
    }

    async fn read(&mut self) -> Result<(Response, u32), WireError> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).await?;
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_ANSWER {
            return Err(WireError::Nonsense(format!("its length is {length}")));
        }
        self.buffer.resize(length, 0);
        self.stream.read_exact(&mut self.buffer).await?;
        let (response, _, id) = Response::from_wire(&self.buffer)?;
        // One great request must not keep its memory for ever.
        self.buffer.clear();
        self.buffer.shrink_to(64 << 10);
        Ok((response, id))
    }

    async fn handshake(&mut self) -> Result<(), WireError> {
        let hello = Request::Handshake { protocol_version: PROTOCOL_VERSION, client_id: CLIENT.into() };
        match self.request(&hello).await? {
            Response::HandshakeResult { compatible: true, .. } => Ok(()),
            Response::HandshakeResult { server_version, .. } => Err(WireError::Version(server_version)),
            other => Err(WireError::Nonsense(format!("{other:?} to a handshake"))),
        }
    }

    /// The password crosses the wire, so this is for encrypted connections only, and tells the server to insist on that.
    async fn login(&mut self, username: &str, password: &str) -> Result<(), WireError> {
        #[allow(deprecated)]
        let login = Request::Authenticate {
            username: username.to_owned(),
            password: password.to_owned(),
            require_tls: true,
        };
        match self.request(&login).await? {
            Response::Authenticated { .. } => Ok(()),
            Response::Error { message } => Err(WireError::Login(message)),
            _ => Err(WireError::Nonsense("it neither accepts nor refuses the login".into())),
        }
    }
}

impl Stream {
    async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => {
                quick_ack(stream);
                stream.read_exact(buffer).await?;
            }
            Stream::Tls(stream) => {
                quick_ack(stream.get_ref().0);
                stream.read_exact(buffer).await?;
            }
        }
        Ok(())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn quick_ack(stream: &TcpStream) {
    // Only a matter of speed, so an error does not matter.
    let _ = SockRef::from(stream).set_tcp_quickack(true);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn quick_ack(_: &TcpStream) {}
