//! What the codes of CONNACK, SUBACK and DISCONNECT mean, for a person.

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, SubscribeReasonCode};

use crate::error::MqttError;
use crate::metrics::Reconnect;

/// Under which reason a connection that failed is counted.
pub(super) fn reconnect(error: &MqttError) -> Reconnect {
    match error {
        MqttError::Connect { .. } => Reconnect::Connect,
        MqttError::Timeout { .. } => Reconnect::Timeout,
        MqttError::Handshake { .. } | MqttError::Tls(_) => Reconnect::Tls,
        MqttError::WebSocket { .. } => Reconnect::WebSocket,
        MqttError::BadCredentials { .. } => Reconnect::Login,
        MqttError::Refused { .. } => Reconnect::Refused,
        MqttError::Subscription { .. } => Reconnect::Subscription,
        MqttError::Disconnected { .. } => Reconnect::Disconnected,
        MqttError::TakenOver { .. } => Reconnect::TakenOver,
        MqttError::Flapping { .. } => Reconnect::Flapping,
        MqttError::Malformed { .. } => Reconnect::Protocol,
        MqttError::Closed => Reconnect::Closed,
        MqttError::Io(_) => Reconnect::Broken,
        MqttError::NoPingResponse { .. } => Reconnect::Ping,
        _ => Reconnect::Other,
    }
}

/// Return code of a CONNACK of 3.1.1 (section 3.2.2.3).
pub(super) fn return_code(code: u8) -> &'static str {
    match code {
        0 => "accepted",
        1 => "it does not speak this version of MQTT",
        2 => "it does not accept the client id",
        3 => "the service is unavailable",
        4 => "the user name or the password is wrong",
        5 => "not authorised",
        _ => "for an unknown reason",
    }
}

/// Reason code of a CONNACK of 5.0 (section 3.2.2.2) and what it means; `None` is success.
pub(super) fn connect(code: ConnectReturnCode) -> Option<(u8, &'static str)> {
    use ConnectReturnCode as Code;
    Some(match code {
        Code::Success => return None,
        Code::UnspecifiedError => (0x80, "without a reason"),
        Code::MalformedPacket => (0x81, "it cannot parse our CONNECT"),
        Code::ProtocolError => (0x82, "our CONNECT is not as it expects"),
        Code::ImplementationSpecificError => (0x83, "it does not accept our CONNECT"),
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
            (0x84, "it does not speak this version of MQTT")
        }
        Code::BadClientId | Code::ClientIdentifierNotValid => (0x85, "it does not accept the client id"),
        Code::BadUserNamePassword => (0x86, "the user name or the password is wrong"),
        Code::NotAuthorized => (0x87, "not authorised"),
        Code::ServiceUnavailable | Code::ServerUnavailable => (0x88, "the service is unavailable"),
        Code::ServerBusy => (0x89, "it is busy"),
        Code::Banned => (0x8a, "this client is banned"),
        Code::BadAuthenticationMethod => (0x8c, "it requires another authentication method"),
        Code::TopicNameInvalid => (0x90, "the topic of the last will is not accepted"),
        Code::PacketTooLarge => (0x95, "our CONNECT is too large"),
        Code::QuotaExceeded => (0x97, "a quota is exceeded"),
        Code::PayloadFormatInvalid => (0x99, "the payload of the last will is not as it says"),
        Code::RetainNotSupported => {
            (0x9a, "it does not retain messages, so the last will may not be retained")
        }
        Code::QoSNotSupported => (0x9b, "it does not support the QoS of the last will"),
        Code::UseAnotherServer => (0x9c, "use another server"),
        Code::ServerMoved => (0x9d, "the server has moved"),
        Code::ConnectionRateExceeded => (0x9f, "connections come too fast"),
    })
}

/// Reason code of a SUBACK of 5.0 (section 3.9.3).
pub(super) fn subscribe(code: SubscribeReasonCode) -> &'static str {
    use SubscribeReasonCode as Code;
    match code {
        Code::Success(_) => "granted",
        Code::Failure | Code::Unspecified => "the broker refuses it without a reason (0x80)",
        Code::ImplementationSpecific => "the broker does not accept it (0x83)",
        Code::NotAuthorized => "not authorised (0x87)",
        Code::TopicFilterInvalid => "the filter is not allowed for this client (0x8f)",
        Code::PkidInUse => "the packet identifier is in use (0x91)",
        Code::QuotaExceeded => "a quota is exceeded (0x97)",
        Code::SharedSubscriptionsNotSupported => "the broker has no shared subscriptions (0x9e)",
        Code::SubscriptionIdNotSupported => "the broker has no subscription identifiers (0xa1)",
        Code::WildcardSubscriptionsNotSupported => "the broker has no wildcard subscriptions (0xa2)",
    }
}

/// Reason code of a DISCONNECT of 5.0 (section 3.14.2.1).
pub(super) fn disconnect(code: u8) -> &'static str {
    match code {
        0x00 => "without a reason",
        0x80 => "unspecified error",
        0x81 => "it cannot parse a packet of ours",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x87 => "not authorised",
        0x89 => "it is busy",
        0x8b => "it is shutting down",
        0x8d => "keep-alive timeout",
        0x8e => "session taken over",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "a quota is exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "the server has moved",
        0x9e => "shared subscriptions not supported",
        0x9f => "connections come too fast",
        0xa0 => "maximum connect time",
        0xa1 => "subscription identifiers not supported",
        0xa2 => "wildcard subscriptions not supported",
        _ => "unknown reason",
    }
}

/// The reason, and the server that the broker names instead of itself (5.0 section 4.13).
pub(super) fn redirect(reason: String, server: Option<&str>) -> String {
    match server {
        Some(server) if !server.is_empty() => format!("{reason}; it names the server {server:?}"),
        _ => reason,
    }
}

/// The meaning, and the broker's own words where it has some.
pub(super) fn with(meaning: &str, said: Option<&str>) -> String {
    match said {
        Some(said) if !said.is_empty() => format!("{meaning}: {said:?}"),
        _ => meaning.to_owned(),
    }
}
