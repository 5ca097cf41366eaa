//! MQTT over WebSocket (MQTT 5.0 section 6): binary frames as a byte stream. A packet may be in several frames and a frame may
//! have several packets.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Error};

use super::transport::Stream;

/// The subprotocol that both sides have to name (MQTT-6.0.0-3, MQTT-6.0.0-4).
const SUBPROTOCOL: &str = "mqtt";
/// The greatest frame and message that is taken: many brokers put one packet into one frame, and this is the greatest packet.
/// One that is greater than `max_packet_size` has to come in before it can be skipped, or it would come again for ever.
const MAX_MESSAGE: usize = 268_435_460;
/// The greatest frame that is sent. Brokers bound what they take.
const MAX_SENT: usize = 16 << 10;

/// A WebSocket to a broker as a stream of bytes. The end of the WebSocket is the end of the stream.
pub(super) struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// Of the last frame, what has not been read.
    rest: Bytes,
    /// A close frame came: nothing else will (RFC 6455, section 5.5.1).
    closed: bool,
}

/// Does the opening handshake on a connection to `authority`, which is `HOST:PORT`.
///
/// # Errors
/// The connection breaks, or what answers is no WebSocket that speaks MQTT.
pub(super) async fn connect<S: Stream>(
    stream: S,
    authority: &str,
    path: &str,
) -> Result<WebSocket<S>, tungstenite::Error> {
    // The scheme only matters to those who connect by it; TLS is under the stream or it is not.
    let uri = Uri::builder().scheme("ws").authority(authority).path_and_query(path).build()?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let (inner, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
    Ok(WebSocket { inner, rest: Bytes::new(), closed: false })
}

impl<S: Stream> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.closed {
            let message = match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(message)) => message,
                // The peer went without a close frame: the end all the same.
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            };
            match message {
                Message::Binary(bytes) => self.rest = bytes,
                Message::Text(_) => {
                    let wrong = "a text frame came, but MQTT is in binary frames only (MQTT-6.0.0-1)";
                    return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, wrong)));
                }
                Message::Close(Some(frame)) if !matches!(frame.code, CloseCode::Normal | CloseCode::Away) => {
                    let reason = format!("the WebSocket was closed: {} (code {})", frame.reason, frame.code);
                    return Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionAborted, reason)));
                }
                Message::Close(_) => {
                    self.closed = true;
                    // The answer to it leaves now or never.
                    let _ = Pin::new(&mut self.inner).poll_flush(cx);
                }
                // A ping is answered by the next read.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..n).unwrap_or_default());
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(io_error)?;
        let (frame, _) = buf.split_at(buf.len().min(MAX_SENT));
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        Pin::new(&mut self.inner).start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(io_error)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
