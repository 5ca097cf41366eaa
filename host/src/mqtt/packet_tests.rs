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
        session_expiry_interval: Some(3),
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: Some(4_711),
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
        session_expiry: Some(3),
        max_packet: Some(4_711),
    };
    assert_eq!(decode(Version::V5, &bytes).unwrap(), Incoming::ConnAck(expected));
}

/// 5.0 sections 3.2.2.2 and 3.14.2.1: what a server may say.
#[test]
fn every_reason_code_has_a_meaning_of_its_own() {
    const CONNACK: [u8; 21] = [
        0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b,
        0x9c, 0x9d, 0x9f, 0x80,
    ];
    const DISCONNECT: [u8; 28] = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
        0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
    let mut meanings = std::collections::HashSet::new();
    for code in CONNACK {
        let incoming = decode(Version::V5, &[0x20, 3, 0, code, 0]).unwrap();
        let Incoming::ConnAck(ConnAck { refused: Some((refused, reason)), .. }) = incoming else {
            panic!("{code:#04x} does not refuse: {incoming:?}")
        };
        assert_eq!(refused, code);
        assert!(meanings.insert(reason.clone()), "{code:#04x} means the same as another: {reason}");
    }
    meanings.clear();
    for code in DISCONNECT {
        // Without properties and with none (MQTT 5.0 section 3.14.2.2.1).
        let forms =
            [&[0xe0, 1, code][..], &[0xe0, 2, code, 0]].map(|form| decode(Version::V5, form).unwrap());
        assert_eq!(forms[0], forms[1]);
        let Incoming::Disconnect { code: said, reason } = &forms[0] else { panic!("{:?}", forms[0]) };
        assert_eq!(*said, code);
        assert_ne!(reason, "unknown reason");
        assert!(meanings.insert(reason.clone()), "{code:#04x} means the same as another: {reason}");
    }
}

/// 5.0 section 4.13: the server is reported, not followed.
#[test]
fn the_server_to_use_instead_is_reported() {
    let reference = [0x1c, 0, 3, b'b', b':', b'1'];
    for code in [0x9c, 0x9d] {
        let connack = [&[0x20, 9, 0, code, 6][..], &reference].concat();
        let Ok(Incoming::ConnAck(ConnAck { refused: Some((_, reason)), .. })) = decode(Version::V5, &connack)
        else {
            panic!("no refusal")
        };
        assert!(reason.ends_with("; it names the server \"b:1\""), "{reason}");
        let advice = MqttError::refused(code, reason).advice().unwrap();
        assert!(advice.starts_with("set broker_url to the server that it names"), "{advice}");
        let disconnect = [&[0xe0, 8, code, 6][..], &reference].concat();
        let Ok(Incoming::Disconnect { code: said, reason }) = decode(Version::V5, &disconnect) else {
            panic!("no DISCONNECT")
        };
        assert_eq!(said, code);
        assert!(reason.ends_with("; it names the server \"b:1\""), "{reason}");
    }
}

/// 3.1.1 section 2.2.2, 5.0 section 2.1.3.
#[test]
fn reserved_flags_and_the_identifier_0_are_malformed() {
    for version in [Version::V4, Version::V5] {
        for (packet, says) in [
            (&[0x60, 2, 0, 1][..], "PUBREL from the MQTT broker: its flags are 0x0, which it may not have"),
            (&[0x6f, 2, 0, 1], "PUBREL from the MQTT broker: its flags are 0xf, which it may not have"),
            (&[0xd1, 0], "PINGRESP from the MQTT broker: its flags are 0x1, which it may not have"),
            (&[0x98, 3, 0, 1, 1], "SUBACK from the MQTT broker: its flags are 0x8, which it may not have"),
            (&[0xd0, 1, 0], "PINGRESP from the MQTT broker: it has a body, which it may not have"),
            (&[0x62, 2, 0, 0], "PUBREL from the MQTT broker: the packet identifier is 0"),
            (&[0x90, 4, 0, 0, 0, 0], "SUBACK from the MQTT broker: the packet identifier is 0"),
        ] {
            let error = decode(version, packet).unwrap_err();
            assert_eq!(error.to_string(), says);
            assert!(matches!(error, MqttError::Malformed { code: MALFORMED, .. }), "{error:?}");
        }
        assert_eq!(decode(version, &[0x62, 2, 1, 2]).unwrap(), Incoming::PubRel { packet_id: 0x102 });
    }
    let error = decode(Version::V4, &[0xb0, 2, 0, 0]).unwrap_err().to_string();
    assert_eq!(error, "UNSUBACK from the MQTT broker: the packet identifier is 0");
    // 5.0 section 3.6.2.1: the reason code is there, or left out.
    assert_eq!(decode(Version::V5, &[0x62, 3, 0, 7, 0x92]).unwrap(), Incoming::PubRel { packet_id: 7 });
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
