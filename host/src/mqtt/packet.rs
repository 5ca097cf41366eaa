//! All packets but PUBLISH and the acknowledgements, through rumqttc's codecs; 3.1.1 and 5.0 look the same from outside.
//!
//! rumqttc takes the end of a packet for the end of what has come, so a packet is framed first and then decoded alone: what is
//! missing then is malformed. It also loses the short forms of DISCONNECT, which are decoded here.

use std::borrow::Cow;

use bytes::BytesMut;
use rumqttc::mqttbytes::{self as v4bytes, v4};
use rumqttc::v5::mqttbytes::{self as v5bytes, v5};

use super::reason;
use crate::config::{Mqtt, Retained, Secret, Version};
use crate::error::MqttError;
use crate::message::QoS;

/// PINGREQ (section 3.12).
pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT, normal: the will is not published (section 3.14).
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Reason code of a DISCONNECT: the session goes on elsewhere.
pub(super) const TAKEN_OVER: u8 = 0x8e;
/// Reason code of a DISCONNECT: a packet that cannot be parsed.
pub(super) const MALFORMED: u8 = 0x81;
/// Reason code of a DISCONNECT: a packet that may not come here.
pub(super) const PROTOCOL_ERROR: u8 = 0x82;

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    ConnAck(ConnAck),
    /// What was granted, or why not, for each filter in turn.
    SubAck {
        packet_id: u16,
        granted: Vec<Result<QoS, String>>,
    },
    /// Why a filter stays subscribed, or nothing.
    UnsubAck {
        packet_id: u16,
        failure: Option<String>,
    },
    PubRel {
        packet_id: u16,
    },
    PingResp,
    Disconnect {
        code: u8,
        reason: String,
    },
}

/// CONNACK (section 3.2).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConnAck {
    pub session_present: bool,
    /// Why the connection is refused: code and meaning.
    pub refused: Option<(u8, String)>,
    /// Seconds; overrides ours. 0 turns keep-alive off.
    pub keep_alive: Option<u16>,
    /// The client id that the broker chose.
    pub client_id: Option<String>,
    /// Seconds that the broker keeps the session, where that is not what was asked for.
    pub session_expiry: Option<u32>,
    /// The broker takes no greater packet, in bytes.
    pub max_packet: Option<u32>,
}

/// Decodes one whole packet that is not a PUBLISH.
pub(super) fn decode(version: Version, packet: &[u8]) -> Result<Incoming, MqttError> {
    let name = name(packet.first().copied().unwrap_or(0));
    let malformed = |reason: String| error(name, reason, MALFORMED);
    // Whatever has a flag set that it must not have, or the other way round, is no packet of MQTT (MQTT-2.2.2-2).
    if let Some(&first) = packet.first().filter(|first| **first & 0xf != flags(**first)) {
        return Err(malformed(format!("its flags are {:#03x}, which it may not have", first & 0xf)));
    }
    match (packet, version) {
        // Section 3.13.1: rumqttc does not look.
        ([0xd0, length, ..], _) if *length != 0 => {
            return Err(malformed("it has a body, which it may not have".into()));
        }
        // 5.0 section 3.14.2.1: without a reason code it is 0x00. 3.1.1 has no DISCONNECT from the broker; some send it.
        ([0xe0, 0], _) => return Ok(disconnect(0, None, None)),
        ([0xe0, 1, code], Version::V5) => return Ok(disconnect(*code, None, None)),
        ([first, ..], Version::V5) if first >> 4 == 15 => {
            return Err(error(name, "enhanced authentication is not supported", PROTOCOL_ERROR));
        }
        // A broker that does not know 5.0 refuses in the form of 3.1.1.
        ([0x20, 2, ..], _) | (_, Version::V4) => {
            let mut bytes = BytesMut::from(packet);
            let packet = v4::Packet::read(&mut bytes, usize::MAX).map_err(|e| malformed(e.to_string()))?;
            decode_v4(packet)
        }
        (_, Version::V5) => {
            let mut bytes = BytesMut::from(packet);
            let packet = v5::Packet::read(&mut bytes, None).map_err(|e| malformed(e.to_string()))?;
            decode_v5(packet)
        }
    }
    .ok_or_else(|| error(name, "a broker may not send it to a subscriber", PROTOCOL_ERROR))
    .and_then(|incoming| match incoming {
        // MQTT-2.3.1-1 of 3.1.1; section 2.2.1 of 5.0.
        Incoming::PubRel { packet_id: 0 }
        | Incoming::SubAck { packet_id: 0, .. }
        | Incoming::UnsubAck { packet_id: 0, .. } => Err(malformed("the packet identifier is 0".into())),
        incoming => Ok(incoming),
    })
}

fn decode_v4(packet: v4::Packet) -> Option<Incoming> {
    Some(match packet {
        v4::Packet::ConnAck(packet) => {
            let code = packet.code as u8;
            Incoming::ConnAck(ConnAck {
                session_present: packet.session_present,
                refused: (code != 0).then(|| (code, reason::return_code(code).to_owned())),
                ..ConnAck::default()
            })
        }
        v4::Packet::SubAck(packet) => Incoming::SubAck {
            packet_id: packet.pkid,
            granted: packet
                .return_codes
                .into_iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(v4bytes::QoS::AtMostOnce) => Ok(QoS::AtMostOnce),
                    v4::SubscribeReasonCode::Success(v4bytes::QoS::AtLeastOnce) => Ok(QoS::AtLeastOnce),
                    v4::SubscribeReasonCode::Success(v4bytes::QoS::ExactlyOnce) => Ok(QoS::ExactlyOnce),
                    v4::SubscribeReasonCode::Failure => {
                        Err("the broker refuses it (0x80): not authorised, or not allowed here".to_owned())
                    }
                })
                .collect(),
        },
        v4::Packet::UnsubAck(packet) => Incoming::UnsubAck { packet_id: packet.pkid, failure: None },
        v4::Packet::PubRel(packet) => Incoming::PubRel { packet_id: packet.pkid },
        v4::Packet::PingResp => Incoming::PingResp,
        _ => return None,
    })
}

fn decode_v5(packet: v5::Packet) -> Option<Incoming> {
    Some(match packet {
        v5::Packet::ConnAck(packet) => {
            let properties = packet.properties.as_ref();
            let text = reason::connect(packet.code);
            let said = properties.and_then(|p| p.reason_string.as_deref());
            let server = properties.and_then(|p| p.server_reference.as_deref());
            let refused = text.map(|(code, text)| (code, reason::redirect(reason::with(text, said), server)));
            Incoming::ConnAck(ConnAck {
                session_present: packet.session_present,
                refused,
                keep_alive: properties.and_then(|p| p.server_keep_alive),
                client_id: properties.and_then(|p| p.assigned_client_identifier.clone()),
                session_expiry: properties.and_then(|p| p.session_expiry_interval),
                max_packet: properties.and_then(|p| p.max_packet_size),
            })
        }
        v5::Packet::SubAck(packet) => {
            let said = packet.properties.as_ref().and_then(|p| p.reason_string.as_deref());
            Incoming::SubAck {
                packet_id: packet.pkid,
                granted: packet
                    .return_codes
                    .iter()
                    .map(|code| match code {
                        v5::SubscribeReasonCode::Success(v5bytes::QoS::AtMostOnce) => Ok(QoS::AtMostOnce),
                        v5::SubscribeReasonCode::Success(v5bytes::QoS::AtLeastOnce) => Ok(QoS::AtLeastOnce),
                        v5::SubscribeReasonCode::Success(v5bytes::QoS::ExactlyOnce) => Ok(QoS::ExactlyOnce),
                        code => Err(reason::with(reason::subscribe(*code), said)),
                    })
                    .collect(),
            }
        }
        v5::Packet::UnsubAck(packet) => {
            use v5::UnsubAckReason::{NoSubscriptionExisted, Success};
            let failure =
                packet.reasons.iter().find(|reason| !matches!(reason, Success | NoSubscriptionExisted));
            Incoming::UnsubAck {
                packet_id: packet.pkid,
                failure: failure.map(|reason| format!("{reason:?}")),
            }
        }
        v5::Packet::PubRel(packet) => Incoming::PubRel { packet_id: packet.pkid },
        v5::Packet::PingResp(_) => Incoming::PingResp,
        v5::Packet::Disconnect(packet) => {
            let (said, server) =
                packet.properties.map_or((None, None), |p| (p.reason_string, p.server_reference));
            disconnect(packet.reason_code as u8, said.as_deref(), server.as_deref())
        }
        _ => return None,
    })
}

fn disconnect(code: u8, said: Option<&str>, server: Option<&str>) -> Incoming {
    let reason = reason::redirect(reason::with(reason::disconnect(code), said), server);
    Incoming::Disconnect { code, reason }
}

/// The lower half of a packet's first byte, which is the same in all packets of its type but PUBLISH (section 2.2.2 of 3.1.1,
/// 2.1.3 of 5.0).
fn flags(first: u8) -> u8 {
    if matches!(first >> 4, 6 | 8 | 10) { 2 } else { 0 }
}

/// A packet that the specification does not allow.
pub(super) fn error(packet: &'static str, reason: impl Into<Cow<'static, str>>, code: u8) -> MqttError {
    MqttError::Malformed { packet, reason: reason.into(), code }
}

/// The name of the packet that begins with `first`.
pub(super) fn name(first: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "a packet of type 0",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES.get(usize::from(first >> 4)).copied().unwrap_or_default()
}

/// CONNECT (section 3.1).
pub(super) fn connect(settings: &Mqtt) -> Result<Vec<u8>, MqttError> {
    let keep_alive = u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let username = settings.auth.as_ref().and_then(|auth| auth.username.clone());
    let password = settings.auth.as_ref().and_then(|auth| auth.password.as_ref()).map(Secret::expose);
    let login = (username.unwrap_or_default(), password.unwrap_or_default().to_owned());
    let login = (!login.0.is_empty() || !login.1.is_empty()).then_some(login);
    let strings = [
        ("client id", settings.client_id.len()),
        ("user name", login.as_ref().map_or(0, |login| login.0.len())),
        ("password", login.as_ref().map_or(0, |login| login.1.len())),
        ("last will topic", settings.last_will.as_ref().map_or(0, |will| will.topic.len())),
        ("last will payload", settings.last_will.as_ref().map_or(0, |will| will.payload.len())),
    ];
    // The codec would cut the length to 16 bits.
    if let Some((what, length)) = strings.into_iter().find(|(_, length)| *length > usize::from(u16::MAX)) {
        return Err(MqttError::Encode {
            what: "CONNECT",
            reason: format!("the {what} has {length} bytes, more than 65535"),
        });
    }
    let mut out = BytesMut::new();
    match settings.version {
        Version::V4 => {
            let mut packet = v4::Connect::new(&settings.client_id);
            packet.keep_alive = keep_alive;
            packet.clean_session = settings.clean_session;
            packet.login = login.map(|(username, password)| v4::Login { username, password });
            packet.last_will = settings.last_will.as_ref().map(|will| {
                v4::LastWill::new(&will.topic, will.payload.clone(), qos_v4(will.qos), will.retain)
            });
            packet.write(&mut out).map_err(|e| encode("CONNECT", e))?;
        }
        Version::V5 => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval =
                (!settings.clean_session).then_some(settings.session_expiry_secs);
            properties.receive_maximum =
                Some(u16::try_from(settings.max_inflight).unwrap_or(u16::MAX).max(1));
            let packet = v5::Connect {
                keep_alive,
                client_id: settings.client_id.clone(),
                clean_start: settings.clean_session,
                properties: Some(properties),
            };
            let login = login.map(|(username, password)| v5::Login { username, password });
            let will = settings.last_will.as_ref().map(|will| {
                v5::LastWill::new(&will.topic, will.payload.clone(), qos_v5(will.qos), will.retain, None)
            });
            packet.write(&will, &login, &mut out).map_err(|e| encode("CONNECT", e))?;
        }
    }
    Ok(out.to_vec())
}

/// SUBSCRIBE (section 3.8).
pub(super) fn subscribe(
    version: Version,
    packet_id: u16,
    filters: &[String],
    qos: QoS,
    retained: Retained,
) -> Result<Vec<u8>, MqttError> {
    let mut out = BytesMut::new();
    match version {
        Version::V4 => {
            let filter = |path: &String| v4::SubscribeFilter::new(path.clone(), qos_v4(qos));
            let mut packet = v4::Subscribe::new_many(filters.iter().map(filter));
            packet.pkid = packet_id;
            packet.write(&mut out).map_err(|e| encode("SUBSCRIBE", e))?;
        }
        Version::V5 => {
            let filter = |path: &String| {
                let retain_forward_rule = match retained {
                    Retained::All => v5::RetainForwardRule::OnEverySubscribe,
                    Retained::NewOnly => v5::RetainForwardRule::OnNewSubscribe,
                    Retained::Skip => v5::RetainForwardRule::Never,
                };
                v5::Filter { retain_forward_rule, ..v5::Filter::new(path, qos_v5(qos)) }
            };
            let mut packet = v5::Subscribe::new_many(filters.iter().map(filter), None);
            packet.pkid = packet_id;
            packet.write(&mut out).map_err(|e| encode("SUBSCRIBE", e))?;
        }
    }
    Ok(out.to_vec())
}

/// UNSUBSCRIBE (section 3.10).
pub(super) fn unsubscribe(
    version: Version,
    packet_id: u16,
    filters: Vec<String>,
) -> Result<Vec<u8>, MqttError> {
    let mut out = BytesMut::new();
    match version {
        Version::V4 => {
            let packet = v4::Unsubscribe { pkid: packet_id, topics: filters };
            packet.write(&mut out).map_err(|e| encode("UNSUBSCRIBE", e))?;
        }
        Version::V5 => {
            let packet = v5::Unsubscribe { pkid: packet_id, filters, properties: None };
            packet.write(&mut out).map_err(|e| encode("UNSUBSCRIBE", e))?;
        }
    }
    Ok(out.to_vec())
}

fn encode(what: &'static str, error: impl std::fmt::Display) -> MqttError {
    MqttError::Encode { what, reason: error.to_string() }
}

fn qos_v4(qos: QoS) -> v4bytes::QoS {
    match qos {
        QoS::AtMostOnce => v4bytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => v4bytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => v4bytes::QoS::ExactlyOnce,
    }
}

fn qos_v5(qos: QoS) -> v5bytes::QoS {
    match qos {
        QoS::AtMostOnce => v5bytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => v5bytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => v5bytes::QoS::ExactlyOnce,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "packet_tests.rs"]
mod tests;
