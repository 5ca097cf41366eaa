//! The driver over WebSocket.

use futures_util::{SinkExt, StreamExt};
use rumqttc::mqttbytes::v4;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::testing::*;

/// The broker's end of a WebSocket. Packets that come are read from `bytes`.
struct Peer {
    socket: WebSocketStream<TcpStream>,
    bytes: bytes::BytesMut,
}

impl Peer {
    async fn accept(broker: &Broker) -> Self {
        let stream = soon(broker.0.accept()).await.unwrap().0;
        #[allow(clippy::result_large_err, reason = "the callback's signature is not ours")]
        let callback = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/some/path");
            assert_eq!(request.headers()["sec-websocket-protocol"], "mqtt");
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
            Ok(response)
        };
        let socket = soon(accept_hdr_async(stream, callback)).await.unwrap();
        Peer { socket, bytes: bytes::BytesMut::new() }
    }

    async fn welcome_and_grant(broker: &Broker) -> Self {
        let mut peer = Self::accept(broker).await;
        assert!(matches!(peer.packet().await, v4::Packet::Connect(_)));
        peer.send(&[0x20, 2, 0, 0]).await;
        assert!(matches!(peer.packet().await, v4::Packet::Subscribe(_)));
        peer.send(&[0x90, 3, 0, 1, 1]).await;
        peer
    }

    async fn send(&mut self, frame: &[u8]) {
        soon(self.socket.send(Message::binary(frame.to_vec()))).await.unwrap();
    }

    async fn message(&mut self) -> Message {
        soon(self.socket.next()).await.unwrap().unwrap()
    }

    async fn packet(&mut self) -> v4::Packet {
        loop {
            match v4::Packet::read(&mut self.bytes, 1 << 20) {
                Ok(packet) => return packet,
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            match self.message().await {
                Message::Binary(bytes) => self.bytes.extend_from_slice(&bytes),
                other => panic!("{other:?} instead of a binary frame"),
            }
        }
    }
}

fn start_websocket(port: u16) -> Running {
    start_with(port, |settings| settings.url.websocket = Some("/some/path".into()))
}

#[tokio::test]
async fn packets_may_be_cut_and_joined_by_frames() {
    let (broker, port) = Broker::new().await;
    let mut running = start_websocket(port);
    let mut peer = Peer::welcome_and_grant(&broker).await;
    let payload: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let two = [publish(false, "a/b", b"", 1, 1), publish(false, "a/c", &payload, 1, 2)].concat();
    // Each byte of the first packet in a frame of its own, an empty frame, all the rest with a third packet in another.
    let (front, rest) = two.split_at(12);
    for byte in front {
        peer.send(&[*byte]).await;
        peer.send(&[]).await;
    }
    peer.send(&[rest, &publish(false, "a/d", b"third", 1, 3)].concat()).await;
    let mut messages = Vec::new();
    for batch in running.pipeline.batches(3).await {
        messages.extend(batch.messages().map(|m| (m.topic().to_owned(), m.payload().to_vec())));
        running.pipeline.settle(batch);
    }
    let expected = [("a/b", b"".to_vec()), ("a/c", payload), ("a/d", b"third".to_vec())];
    assert!(messages == expected.map(|(topic, payload)| (topic.to_owned(), payload)), "not what was sent");
    for id in 1..=3 {
        assert_eq!(peer.packet().await, v4::Packet::PubAck(v4::PubAck { pkid: id }));
    }

    let stopped = tokio::spawn(stop(running));
    assert_eq!(peer.packet().await, v4::Packet::Disconnect);
    assert!(matches!(peer.message().await, Message::Close(_)));
    drop(peer);
    soon(stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_ping_of_the_websocket_is_answered() {
    let (broker, port) = Broker::new().await;
    let _running = start_websocket(port);
    let mut peer = Peer::welcome_and_grant(&broker).await;
    soon(peer.socket.send(Message::Ping("hello".into()))).await.unwrap();
    assert_eq!(peer.message().await, Message::Pong("hello".into()));
}

#[tokio::test]
async fn an_oversized_packet_is_skipped_also_when_it_is_one_frame() {
    let (broker, port) = Broker::new().await;
    let mut running = start_websocket(port);
    let mut peer = Peer::welcome_and_grant(&broker).await;
    // Greater than what tungstenite takes by itself in one frame.
    let big = publish(false, "a/big", &vec![7; 17 << 20], 1, 1);
    peer.send(&big).await;
    let batch = running.pipeline.batch().await;
    assert_eq!((batch.oversized, batch.message(0).topic()), (Some(big.len()), "a/big"));
    running.pipeline.settle(batch);
    assert_eq!(peer.packet().await, v4::Packet::PubAck(v4::PubAck { pkid: 1 }));
}

#[tokio::test]
async fn why_a_websocket_ended_is_named() {
    let (broker, port) = Broker::new().await;
    let running = start_websocket(port);
    let close = |code| Message::Close(Some(CloseFrame { code, reason: "because".into() }));
    for (message, reason) in [
        (Message::text("\u{20}\u{2}\0\0"), "a text frame came, but MQTT is in binary frames only"),
        (close(CloseCode::Policy), "the WebSocket was closed: because (code 1008)"),
        (close(CloseCode::Normal), "the MQTT broker closed the connection"),
    ] {
        let mut peer = Peer::welcome_and_grant(&broker).await;
        running.ready().await;
        soon(peer.socket.send(message)).await.unwrap();
        running.not_ready_because(reason).await;
    }
    // And without a close frame.
    let peer = Peer::welcome_and_grant(&broker).await;
    running.ready().await;
    drop(peer);
    running.not_ready_because("the MQTT broker closed the connection").await;
}

#[tokio::test]
async fn what_is_no_websocket_for_mqtt_is_named() {
    let (broker, port) = Broker::new().await;
    let running = start_websocket(port);
    let no_such_page = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    let other_protocol = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    for (answer, reason) in
        [(no_such_page, "404 Not Found"), (other_protocol, "200 OK"), ("\u{20}\u{2}\0\0", "failed")]
    {
        let mut peer = broker.accept().await;
        peer.try_send(answer.as_bytes()).await;
        running
            .not_ready_because("are this the port of its WebSocket listener and `/some/path` its path?")
            .await;
        running.not_ready_because(reason).await;
        drop(peer);
    }
}
