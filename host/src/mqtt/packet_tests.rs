use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, ConnectReturnCode};

use super::super::testing::settings;
use super::*;
use crate::config::{Credentials, LastWill};

#[test]
fn every_form_of_disconnect_is_named() {
    for (packet, code, reason) in [
        (&[0xe0, 0][..], 0, "without a reason"),
        (&[0xe0, 1, 0x8e], 0x8e, "session taken over"),
        (&[0xe0, 2, 0x8b, 0], 0x8b, "it is shutting down"),
        (&[0xe0, 7, 0x98, 5, 0x1f, 0, 2, b'h', b'i'], 0x98, "administrative action: \"hi\""),
    ] {
        let expected = Incoming::Disconnect { code, reason: reason.to_owned() };
        assert_eq!(decode(Version::V5, packet).unwrap(), expected);
    }
    assert!(matches!(decode(Version::V4, &[0xe0, 0]), Ok(Incoming::Disconnect { code: 0, .. })));
}

#[test]
fn a_broker_of_3_1_1_refuses_5_0_in_its_own_form() {
    let Ok(Incoming::ConnAck(connack)) = decode(Version::V5, &[0x20, 2, 0, 1]) else { panic!("no CONNACK") };
    assert_eq!(connack.refused, Some((1, "it does not speak this version of MQTT".to_owned())));
}

#[test]
fn refusals_are_told_apart() {
    let reasons: std::collections::HashSet<String> = (1..=5)
        .map(|code| match decode(Version::V4, &[0x20, 2, 0, code]) {
            Ok(Incoming::ConnAck(ConnAck { refused: Some((c, reason)), .. })) if c == code => reason,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons.len(), 5);
    let mut bytes = BytesMut::new();
    let properties = ConnAckProperties {
        reason_string: Some("go away".into()),
        server_keep_alive: Some(17),
        assigned_client_identifier: Some("you".into()),
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        topic_alias_max: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    let packet =
        v5::ConnAck { session_present: true, code: ConnectReturnCode::Banned, properties: Some(properties) };
    packet.write(&mut bytes).unwrap();
    let expected = ConnAck {
        session_present: true,
        refused: Some((0x8a, "this client is banned: \"go away\"".to_owned())),
        keep_alive: Some(17),
        client_id: Some("you".into()),
    };
    assert_eq!(decode(Version::V5, &bytes).unwrap(), Incoming::ConnAck(expected));
}

#[test]
fn packets_that_may_not_come_are_named() {
    for (version, packet, says) in [
        (Version::V5, &[0xf0, 0][..], "AUTH from the MQTT broker: enhanced authentication is not supported"),
        (Version::V4, &[0xc0, 0], "PINGREQ from the MQTT broker: a broker may not send it to a subscriber"),
        (
            Version::V5,
            &[0x40, 2, 0, 1],
            "PUBACK from the MQTT broker: a broker may not send it to a subscriber",
        ),
        (Version::V4, &[0x90, 2, 0, 1], "SUBACK from the MQTT broker: Malformed packet"),
        (Version::V5, &[0x90, 2, 0, 1], "SUBACK from the MQTT broker: "),
    ] {
        let error = decode(version, packet).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 1..300), v5 in any::<bool>()) {
        let _ = decode(if v5 { Version::V5 } else { Version::V4 }, &bytes);
        // The same with a length that is right.
        let mut packet = vec![bytes[0], (bytes.len() - 1).min(127) as u8];
        packet.extend_from_slice(&bytes[1..bytes.len().min(128)]);
        let _ = decode(if v5 { Version::V5 } else { Version::V4 }, &packet);
    }
}

#[test]
fn connect_says_what_is_configured() {
    let mut settings = settings(1);
    settings.clean_session = false;
    settings.session_expiry_secs = 77;
    settings.max_inflight = 100_000;
    settings.auth =
        Some(Credentials { username: Some("user".into()), password: Some(Secret::new("password")) });
    settings.last_will =
        Some(LastWill { topic: "will".into(), payload: vec![0xff], qos: QoS::ExactlyOnce, retain: true });

    let mut bytes = BytesMut::from(connect(&settings).unwrap().as_slice());
    let v4::Packet::Connect(packet) = v4::Packet::read(&mut bytes, 1 << 16).unwrap() else {
        panic!("no CONNECT")
    };
    assert_eq!((packet.client_id.as_str(), packet.clean_session, packet.keep_alive), ("me", false, 60));
    assert_eq!(packet.login, Some(v4::Login::new("user", "password")));
    assert_eq!(
        packet.last_will,
        Some(v4::LastWill::new("will", vec![0xff], v4bytes::QoS::ExactlyOnce, true))
    );

    settings.version = Version::V5;
    let mut bytes = BytesMut::from(connect(&settings).unwrap().as_slice());
    let v5::Packet::Connect(packet, will, login) = v5::Packet::read(&mut bytes, None).unwrap() else {
        panic!("no CONNECT")
    };
    let properties = packet.properties.unwrap();
    assert_eq!((packet.client_id.as_str(), packet.clean_start), ("me", false));
    assert_eq!((properties.session_expiry_interval, properties.receive_maximum), (Some(77), Some(65_535)));
    assert_eq!((properties.max_packet_size, properties.topic_alias_max), (None, None));
    assert_eq!(will.unwrap().topic, "will");
    assert_eq!(login, Some(v5::Login { username: "user".into(), password: "password".into() }));

    settings.client_id = "x".repeat(70_000);
    assert_eq!(
        connect(&settings).unwrap_err().to_string(),
        "CONNECT cannot be encoded: the client id has 70000 bytes, more than 65535"
    );
}
