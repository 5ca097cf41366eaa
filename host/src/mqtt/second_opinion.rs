//! What another codec, which shares no code with rumqttc's or with ours, sees in a packet: mqute-codec.

use bytes::BytesMut;
use mqute_codec::codec::{PacketCodec, RawPacket};
use mqute_codec::protocol::{Flags, v4, v5};

use super::fuzz::Plain;
use super::packet::Incoming;
use crate::config::Version;
use crate::message::QoS;

/// What a packet says, as far as both codecs say it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Publish(Plain),
    ConnAck {
        session_present: bool,
        /// The code; in 3.1.1 and 5.0 those of success are 0.
        code: u8,
        keep_alive: Option<u16>,
        client_id: Option<String>,
        session_expiry: Option<u32>,
        max_packet: Option<u32>,
    },
    SubAck {
        packet_id: u16,
        /// `None` is refused.
        granted: Vec<Option<u8>>,
    },
    UnsubAck {
        packet_id: u16,
    },
    PubRel {
        packet_id: u16,
    },
    PingResp,
    Disconnect {
        code: u8,
    },
}

impl From<Incoming> for Said {
    fn from(incoming: Incoming) -> Self {
        match incoming {
            Incoming::ConnAck(packet) => Said::ConnAck {
                session_present: packet.session_present,
                code: packet.refused.map_or(0, |(code, _)| code),
                keep_alive: packet.keep_alive,
                client_id: packet.client_id,
                session_expiry: packet.session_expiry,
                max_packet: packet.max_packet,
            },
            Incoming::SubAck { packet_id, granted } => Said::SubAck {
                packet_id,
                granted: granted.into_iter().map(|granted| granted.ok().map(|qos: QoS| qos as u8)).collect(),
            },
            Incoming::UnsubAck { packet_id, .. } => Said::UnsubAck { packet_id },
            Incoming::PubRel { packet_id } => Said::PubRel { packet_id },
            Incoming::PingResp => Said::PingResp,
            Incoming::Disconnect { code, .. } => Said::Disconnect { code },
        }
    }
}

/// What it makes of one whole packet; `None` where it refuses it, or where a broker does not send it to a subscriber.
pub(super) fn of(version: Version, frame: &[u8]) -> Option<Said> {
    let raw = PacketCodec::new(None, None).try_decode(&mut BytesMut::from(frame)).ok()?;
    match version {
        Version::V4 => of_v4(raw),
        Version::V5 => of_v5(raw),
    }
}

fn of_v4(raw: RawPacket) -> Option<Said> {
    Some(match v4::Packet::decode(raw).ok()? {
        v4::Packet::Publish(packet) => {
            let id = packet.packet_id().unwrap_or(0);
            Said::Publish(plain(packet.topic(), packet.payload().to_vec(), id, packet.flags()))
        }
        v4::Packet::ConnAck(packet) => Said::ConnAck {
            session_present: packet.session_present(),
            code: packet.code().into(),
            keep_alive: None,
            client_id: None,
            session_expiry: None,
            max_packet: None,
        },
        v4::Packet::SubAck(packet) => {
            let granted = packet.codes().into_iter().map(|code| granted(code.into())).collect();
            Said::SubAck { packet_id: packet.packet_id(), granted }
        }
        v4::Packet::UnsubAck(packet) => Said::UnsubAck { packet_id: packet.packet_id() },
        v4::Packet::PubRel(packet) => Said::PubRel { packet_id: packet.packet_id() },
        v4::Packet::PingResp(_) => Said::PingResp,
        v4::Packet::Disconnect(_) => Said::Disconnect { code: 0 },
        _ => return None,
    })
}

fn of_v5(raw: RawPacket) -> Option<Said> {
    Some(match v5::Packet::decode(raw).ok()? {
        v5::Packet::Publish(packet) => {
            let id = packet.packet_id().unwrap_or(0);
            Said::Publish(plain(packet.topic(), packet.payload().to_vec(), id, packet.flags()))
        }
        v5::Packet::ConnAck(packet) => {
            let properties = packet.properties().unwrap_or_default();
            Said::ConnAck {
                session_present: packet.session_present(),
                code: packet.code().into(),
                keep_alive: properties.server_keep_alive,
                client_id: properties.assigned_client_id,
                session_expiry: properties.session_expiry_interval.map(|expiry| expiry.as_secs() as u32),
                max_packet: properties.maximum_packet_size,
            }
        }
        v5::Packet::SubAck(packet) => {
            let granted = packet.codes().into_iter().map(|code| granted(code.into())).collect();
            Said::SubAck { packet_id: packet.packet_id(), granted }
        }
        v5::Packet::UnsubAck(packet) => Said::UnsubAck { packet_id: packet.packet_id() },
        v5::Packet::PubRel(packet) => Said::PubRel { packet_id: packet.packet_id() },
        v5::Packet::PingResp(_) => Said::PingResp,
        v5::Packet::Disconnect(packet) => Said::Disconnect { code: packet.code().into() },
        _ => return None,
    })
}

fn plain(topic: String, payload: Vec<u8>, packet_id: u16, flags: Flags) -> Plain {
    let flags = u8::from(flags.retain) | (flags.qos as u8) << 1 | u8::from(flags.dup) << 3;
    Plain { topic: topic.into_bytes(), payload, packet_id, flags }
}

fn granted(code: u8) -> Option<u8> {
    (code <= QoS::ExactlyOnce as u8).then_some(code)
}
