//! From CONNACK to the last SUBACK: what to subscribe to, and whether it was granted. Pure; bytes to write come back.

use super::packet::{self, ConnAck, PROTOCOL_ERROR};
use super::store::Subscribed;
use crate::config::{Mqtt, Retained, Version};
use crate::error::MqttError;
use crate::message::QoS;
use crate::metrics::{Link, Subscription};

const SUBSCRIBE_ID: u16 = 1;
const UNSUBSCRIBE_ID: u16 = 2;

/// How far the connection has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// CONNECT is sent.
    Connecting,
    /// SUBSCRIBE is sent, and UNSUBSCRIBE where filters are stale. The broker may send messages already.
    Subscribing {
        /// The filters whose SUBACK is awaited.
        asked: Vec<String>,
        /// The filters whose UNSUBACK is awaited.
        stale: Vec<String>,
    },
    /// Every filter is granted, or the session goes on.
    Up,
}

impl Phase {
    /// What the connection waits for, for an error.
    pub fn waiting_for(&self) -> &'static str {
        match self {
            Phase::Connecting => "CONNACK",
            Phase::Subscribing { asked, .. } if !asked.is_empty() => "SUBACK",
            Phase::Subscribing { .. } => "UNSUBACK",
            Phase::Up => "nothing",
        }
    }
}

/// What a good CONNACK asks for: the next phase and what to write. `known` is what is subscribed to in the session, as far as
/// is known; with no session, or without certainty, everything is subscribed to (again), since a subscription that is replaced
/// loses nothing (3.1.1 section 3.8.4). Only where retained messages are not to come again, and the broker cannot be told so, is
/// what the session has left alone.
pub(super) fn accepted(
    connack: &ConnAck,
    settings: &Mqtt,
    known: Option<&Subscribed>,
) -> Result<(Phase, Vec<u8>), MqttError> {
    if let Some((code, reason)) = &connack.refused {
        return Err(MqttError::refused(*code, reason.clone()));
    }
    if connack.session_present && settings.clean_session {
        let reason = "it speaks of a session, but a clean one was asked for (MQTT-3.2.2-1)";
        return Err(packet::error("CONNACK", reason, PROTOCOL_ERROR));
    }
    let wanted = wanted(settings);
    let known = known.filter(|_| connack.session_present);
    if known == Some(&wanted) {
        return Ok((Phase::Up, Vec::new()));
    }
    let keep = settings.retained == Retained::NewOnly && settings.version == Version::V4;
    let kept = known.filter(|known| keep && known.qos == wanted.qos);
    let has = |filter: &String| kept.is_some_and(|kept| kept.filters.contains(filter));
    let asked: Vec<String> = wanted.filters.iter().filter(|filter| !has(filter)).cloned().collect();
    let stale: Vec<String> = known
        .into_iter()
        .flat_map(|known| &known.filters)
        .filter(|filter| !wanted.filters.contains(filter))
        .cloned()
        .collect();
    let mut out = Vec::new();
    if !asked.is_empty() {
        let subscribe =
            packet::subscribe(settings.version, SUBSCRIBE_ID, &asked, wanted.qos, settings.retained)?;
        out.extend(taken(connack, "SUBSCRIBE", &asked, subscribe)?);
    }
    if !stale.is_empty() {
        let unsubscribe = packet::unsubscribe(settings.version, UNSUBSCRIBE_ID, stale.clone())?;
        out.extend(taken(connack, "UNSUBSCRIBE", &stale, unsubscribe)?);
    }
    let mut phase = Phase::Subscribing { asked, stale };
    advance(&mut phase);
    Ok((phase, out))
}

/// The packet, unless it is greater than the broker takes (5.0 section 3.2.2.3.6).
fn taken(connack: &ConnAck, name: &str, filters: &[String], packet: Vec<u8>) -> Result<Vec<u8>, MqttError> {
    match connack.max_packet {
        Some(max) if packet.len() > max as usize => {
            let reason = format!(
                "{name} has {} bytes, and the broker takes packets of at most {max}; use fewer or shorter filters",
                packet.len()
            );
            Err(MqttError::Subscription { filter: filters.join(", "), reason })
        }
        _ => Ok(packet),
    }
}

/// What the configuration asks for.
pub(super) fn wanted(settings: &Mqtt) -> Subscribed {
    Subscribed { qos: settings.qos, filters: settings.topics.clone() }
}

/// SUBACK: each filter must be granted, with the QoS that was asked for.
pub(super) fn suback(
    phase: &mut Phase,
    settings: &Mqtt,
    packet_id: u16,
    answers: &[Result<QoS, String>],
) -> Result<(), MqttError> {
    let asked = match phase {
        Phase::Subscribing { asked, .. } if !asked.is_empty() => asked,
        _ => return Err(packet::error("SUBACK", "nothing was asked for", PROTOCOL_ERROR)),
    };
    if packet_id != SUBSCRIBE_ID {
        return Err(packet::error(
            "SUBACK",
            format!("unknown packet identifier {packet_id}"),
            PROTOCOL_ERROR,
        ));
    }
    if answers.len() != asked.len() {
        let reason = format!("{} codes for {} filters", answers.len(), asked.len());
        return Err(packet::error("SUBACK", reason, PROTOCOL_ERROR));
    }
    for (filter, answer) in asked.iter().zip(answers) {
        granted(filter, settings.qos, answer)?;
    }
    asked.clear();
    advance(phase);
    Ok(())
}

/// Whether a filter is granted with the QoS that was asked for.
pub(super) fn granted(filter: &str, wanted: QoS, answer: &Result<QoS, String>) -> Result<(), MqttError> {
    let reason = match answer {
        Ok(qos) if *qos >= wanted => return Ok(()),
        Ok(qos) => format!("the broker grants only QoS {}, not {}", *qos as u8, wanted as u8),
        Err(reason) => reason.clone(),
    };
    Err(MqttError::Subscription { filter: filter.to_owned(), reason })
}

/// The answers of a SUBACK as the metrics show them: less than was asked for is as good as refused.
pub(super) fn show(phase: &Phase, wanted: QoS, answers: &[Result<QoS, String>], link: &Link) {
    let Phase::Subscribing { asked, .. } = phase else { return };
    for (filter, answer) in asked.iter().zip(answers) {
        link.answered(
            filter,
            match answer {
                Ok(qos) if *qos >= wanted => Subscription::Granted(*qos),
                _ => Subscription::Refused,
            },
        );
    }
}

/// UNSUBACK of the stale filters.
pub(super) fn unsuback(phase: &mut Phase, packet_id: u16, failure: Option<String>) -> Result<(), MqttError> {
    let Phase::Subscribing { stale, .. } = phase else {
        return Err(packet::error("UNSUBACK", "nothing was asked for", PROTOCOL_ERROR));
    };
    if packet_id != UNSUBSCRIBE_ID || stale.is_empty() {
        return Err(packet::error(
            "UNSUBACK",
            format!("unknown packet identifier {packet_id}"),
            PROTOCOL_ERROR,
        ));
    }
    if let Some(reason) = failure {
        let reason = format!("it is configured no more, and the broker does not end it: {reason}");
        return Err(MqttError::Subscription { filter: stale.join(", "), reason });
    }
    stale.clear();
    advance(phase);
    Ok(())
}

fn advance(phase: &mut Phase) {
    if matches!(phase, Phase::Subscribing { asked, stale } if asked.is_empty() && stale.is_empty()) {
        *phase = Phase::Up;
    }
}
