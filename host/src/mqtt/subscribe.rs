//! From CONNACK to the last SUBACK: what to subscribe to, and whether it was granted. Pure; bytes to write come back.

use super::packet::{self, ConnAck, PROTOCOL_ERROR};
use super::store::Subscribed;
use crate::config::Mqtt;
use crate::error::MqttError;
use crate::message::QoS;

const SUBSCRIBE_ID: u16 = 1;
const UNSUBSCRIBE_ID: u16 = 2;

/// How far the connection has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// CONNECT is sent.
    Connecting,
    /// SUBSCRIBE is sent, and UNSUBSCRIBE where filters are stale. The broker may send messages already.
    Subscribing {
        subscribed: bool,
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
            Phase::Subscribing { subscribed: false, .. } => "SUBACK",
            Phase::Subscribing { .. } => "UNSUBACK",
            Phase::Up => "nothing",
        }
    }
}

/// What a good CONNACK asks for: the next phase and what to write. `known` is what is subscribed to in the session, as far as
/// is known; with no session, or without certainty, everything is subscribed to (again), since a subscription that is replaced
/// loses nothing (3.1.1 section 3.8.4).
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
    let mut out = packet::subscribe(settings.version, SUBSCRIBE_ID, &wanted.filters, wanted.qos)?;
    let stale: Vec<String> = known
        .into_iter()
        .flat_map(|known| &known.filters)
        .filter(|filter| !wanted.filters.contains(filter))
        .cloned()
        .collect();
    if !stale.is_empty() {
        out.extend(packet::unsubscribe(settings.version, UNSUBSCRIBE_ID, stale.clone())?);
    }
    Ok((Phase::Subscribing { subscribed: false, stale }, out))
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
    let Phase::Subscribing { subscribed: subscribed @ false, .. } = phase else {
        return Err(packet::error("SUBACK", "nothing was asked for", PROTOCOL_ERROR));
    };
    if packet_id != SUBSCRIBE_ID {
        return Err(packet::error(
            "SUBACK",
            format!("unknown packet identifier {packet_id}"),
            PROTOCOL_ERROR,
        ));
    }
    if answers.len() != settings.topics.len() {
        let reason = format!("{} codes for {} filters", answers.len(), settings.topics.len());
        return Err(packet::error("SUBACK", reason, PROTOCOL_ERROR));
    }
    for (filter, answer) in settings.topics.iter().zip(answers) {
        granted(filter, settings.qos, answer)?;
    }
    *subscribed = true;
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
    if matches!(phase, Phase::Subscribing { subscribed: true, stale } if stale.is_empty()) {
        *phase = Phase::Up;
    }
}
