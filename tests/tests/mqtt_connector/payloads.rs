//! Payloads arrive byte for byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::Message;
use rivven_mqtt::QoS;
use rumqttc::QoS as Wire;
use serde_json::Value;

use crate::support::{config, contents, contents_of, end, publish_to_end, read_to_end, source, subscribed};

pub async fn binary() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let payloads: [&[u8]; 11] = [
        &every_byte,
        &[0xff, 0xfe, 0x00, 0x01],
        b"",
        &[0],
        b"\x89PNG\r\n\x1a\n",
        // UTF-8 that breaks off, is overlong, or is a surrogate.
        &[b'a', 0xe2, 0x82],
        &[0xc0, 0x80],
        &[0xed, 0xa0, 0x80],
        // Text that a lossy conversion would make of the others.
        "\u{fffd}\u{fffd}".as_bytes(),
        "\u{feff}text\u{0}".as_bytes(),
        b"\xff{\"json\":1}",
    ];
    let broker = Broker::launch().await.unwrap();
    let source = source(config(broker.url(), &["plant/#"]));
    subscribed(&source).await;
    let messages = payloads.map(|payload| Message::new("plant/a", payload));
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    let events = read_to_end(&source).await;
    assert_eq!(contents(&events), contents_of(&messages));
    for (event, payload) in events.iter().zip(payloads) {
        let json: Value = serde_json::from_str(&event.to_json()).unwrap();
        let in_json = json["payload"].as_str().unwrap();
        match std::str::from_utf8(payload) {
            Ok(text) => {
                assert_eq!(in_json, text);
                assert_eq!(json.get("payload_encoding"), None);
            }
            Err(_) => {
                assert_eq!(STANDARD.decode(in_json).unwrap(), payload);
                assert_eq!(json["payload_encoding"], "base64");
                event.text().unwrap_err();
            }
        }
    }
    end(source).await;
}

/// Bytes in which no two places look alike.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub async fn large() {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    let broker = Broker::launch().await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut config = config(broker.url(), &["plant/#"]);
        config.qos = qos;
        config.max_packet_size = 2 * MIB;
        let source = source(config);
        subscribed(&source).await;
        // The read buffer has 256 KiB.
        let sizes = [64 * KIB, MIB, 64 * KIB - 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB + 1, 1];
        let messages = sizes.map(|size| Message::new(format!("plant/{size}"), noise(size)));
        let wire = [Wire::AtMostOnce, Wire::AtLeastOnce, Wire::ExactlyOnce][qos as usize];
        publish_to_end(&broker, wire, &messages).await;
        let events = read_to_end(&source).await;
        let lengths: Vec<_> = events.iter().map(|event| event.payload().len()).collect();
        assert_eq!(lengths, sizes, "{qos:?}");
        for (event, message) in events.iter().zip(&messages) {
            assert!(
                event.payload() == message.payload,
                "{} at {qos:?} is not what was published",
                event.topic()
            );
            assert_eq!((event.topic(), event.oversized()), (message.topic.as_str(), None));
        }
        end(source).await;
    }

    // By default 256 KiB are taken. What is greater is skipped, named, and no reason to disconnect.
    let source = source(config(broker.url(), &["plant/#"]));
    subscribed(&source).await;
    let payloads = [noise(64 * KIB), noise(MIB), noise(64 * KIB)];
    let messages = payloads.map(|payload| Message::new("plant/a", payload));
    publish_to_end(&broker, Wire::AtLeastOnce, &messages).await;
    let events = read_to_end(&source).await;
    assert_eq!(events.len(), 3);
    for place in [0, 2] {
        assert!(events[place].payload() == messages[place].payload && events[place].oversized().is_none());
    }
    // A first byte, three of length, two of topic length, the topic, two of packet id, the payload.
    let packet = 1 + 3 + 2 + "plant/a".len() + 2 + MIB;
    assert_eq!(
        (events[1].topic(), events[1].payload(), events[1].oversized()),
        ("plant/a", &[][..], Some(packet))
    );
    assert_eq!(source.metrics().snapshot().connections, 1);
    end(source).await;
}
