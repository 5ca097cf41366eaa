//! The byte stream to the broker: TCP, TLS over it where that is asked for, and WebSocket over either.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::websocket;
use crate::addresses::first_to_connect;
use crate::config::Mqtt;
use crate::error::{MqttError, TlsError};
use crate::tls;

/// How long a connection is silent before the system probes it, between its probes, and how many it sends: a peer that is gone
/// is noticed even while reading is paused.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// What MQTT is spoken over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What [`connect`] waits for, for an error.
pub(crate) fn layers(settings: &Mqtt) -> &'static str {
    match (settings.tls.is_some(), settings.url.websocket.is_some()) {
        (false, false) => "TCP",
        (true, false) => "TCP and TLS",
        (false, true) => "TCP and WebSocket",
        (true, true) => "TCP, TLS and WebSocket",
    }
}

/// Connects to the broker's first address that answers, and does the handshakes of TLS and WebSocket where they are asked for. The
/// caller gives up at the `deadline`; until then each address has its share of the time.
pub(super) async fn connect(settings: &Mqtt, deadline: Instant) -> Result<Box<dyn Stream>, MqttError> {
    let broker = || settings.url.to_string();
    let stream =
        tcp(settings, deadline).await.map_err(|source| MqttError::Connect { broker: broker(), source })?;
    let stream: Box<dyn Stream> = match &settings.tls {
        None => Box::new(stream),
        Some(tls_settings) => {
            let connected = tls::connect(tls_settings, &settings.url.host, stream).await;
            Box::new(connected.map_err(|error| handshake_error(broker(), error))?)
        }
    };
    let Some(path) = &settings.url.websocket else { return Ok(stream) };
    let websocket = websocket::connect(stream, &broker(), path).await.map_err(|source| {
        MqttError::WebSocket { broker: broker(), path: path.clone(), source: Box::new(source) }
    })?;
    Ok(Box::new(websocket))
}

/// Settings that cannot be used are a problem of their own, not of the handshake.
fn handshake_error(broker: String, error: TlsError) -> MqttError {
    match error {
        error @ (TlsError::File { .. }
        | TlsError::NoRoots { .. }
        | TlsError::ServerName { .. }
        | TlsError::Settings(_)) => error.into(),
        source => MqttError::Handshake { broker, source },
    }
}

/// Names the certificate problem behind a connection by TLS that broke after its handshake. One that ended without a farewell of
/// TLS has ended as one without TLS does: that no packet was cut is for MQTT to see.
pub(super) fn explain(error: MqttError, settings: &Mqtt) -> MqttError {
    let (MqttError::Io(source), Some(tls_settings)) = (&error, &settings.tls) else { return error };
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return MqttError::Closed;
    }
    match tls::explain(source, tls_settings) {
        Some(source) => MqttError::Handshake { broker: settings.url.to_string(), source },
        None => error,
    }
}

/// Writes the `last` bytes and closes without loss: a socket that is closed with unread bytes resets the connection, and then the
/// broker may not see what was written. A broker that is busy sends what it has before it reads that, so it is waited for until
/// nothing has come from it for as long as `silence`.
pub(super) async fn close(stream: &mut dyn Stream, last: &[u8], silence: Duration) -> io::Result<()> {
    let write = async {
        stream.write_all(last).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    timeout(silence, write).await??;
    let mut rest = [0; 4096];
    while timeout(silence, stream.read(&mut rest)).await?? > 0 {}
    Ok(())
}

async fn tcp(settings: &Mqtt, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((settings.url.host.as_str(), settings.url.port)).await?.collect();
    let stream = first_to_connect(&addresses, deadline, TcpStream::connect).await?;
    // Acknowledgements are small and must not wait for one another.
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}
