//! The byte stream to the broker: TCP, or TLS over it.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use crate::config::Mqtt;
use crate::error::MqttError;
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
pub(super) fn layers(settings: &Mqtt) -> &'static str {
    if settings.tls.is_some() { "TCP and TLS" } else { "TCP" }
}

/// Connects to the broker's first address that answers, and does the TLS handshake where it is asked for.
pub(super) async fn connect(settings: &Mqtt) -> Result<Box<dyn Stream>, MqttError> {
    let broker = || settings.url.to_string();
    let stream = tcp(settings).await.map_err(|source| MqttError::Connect { broker: broker(), source })?;
    let Some(tls_settings) = settings.tls.clone() else { return Ok(Box::new(stream)) };
    let name = tls::server_name(&tls_settings, &settings.url.host)?;
    // Reads files.
    let connector = tokio::task::spawn_blocking(move || tls::connector(&tls_settings))
        .await
        .map_err(io::Error::other)??;
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|source| MqttError::Handshake { broker: broker(), source })?;
    Ok(Box::new(stream))
}

async fn tcp(settings: &Mqtt) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((settings.url.host.as_str(), settings.url.port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Acknowledgements are small and must not wait for one another.
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(PROBE_AFTER)
                    .with_interval(PROBE_EVERY)
                    .with_retries(PROBES);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
