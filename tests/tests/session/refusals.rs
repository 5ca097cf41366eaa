//! A broker that says no: to the connection (section 3.2.2.3), or later, with a DISCONNECT (5.0 section 3.14).

use rivven_integration_tests::config;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;
use rumqttc::ConnectReturnCode;

use crate::{start, v5};

/// Section 3.2.2.3.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_named_and_tried_again() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["a/#"]));
    let (mut session, _) = broker.accept().await.unwrap();
    session.connack(false, ConnectReturnCode::NotAuthorized).await.unwrap();
    host.not_ready("refused").await.unwrap();
    drop(session);
    let (_session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

/// Section 3.2.2.3: each code has a meaning, and the next attempt comes all the same.
#[tokio::test(flavor = "multi_thread")]
async fn each_return_code_is_named() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(config::source(&broker.url(), &["a/#"]));
    for (code, says) in [
        (1, "refused the connection: it does not speak this version of MQTT (code 0x01)"),
        (2, "refused the connection: it does not accept the client id (code 0x02)"),
        (3, "refused the connection: the service is unavailable (code 0x03)"),
        (4, "refused the login: the user name or the password is wrong (code 0x04)"),
        (5, "refused the login: not authorised (code 0x05)"),
    ] {
        let (mut session, _) = broker.accept().await.unwrap();
        session.raw(&[0x20, 2, 0, code]).await.unwrap();
        host.not_ready(says).await.unwrap();
        session.closed().await.unwrap();
    }
    let _session = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
}

/// 5.0 sections 3.2.2.2, 3.14.2.1 and 4.12: what the broker says, in its own words where it has some, and where it sends us
/// instead. To go there is for a person to decide: a broker that is not trusted could send us anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_of_5_0_says_is_reported() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(v5(config::source(&broker.url(), &["a/#"])));
    // CONNACK with a reason string, and with a server reference.
    let refusals: [(&[u8], &str); 4] = [
        (
            &[0x20, 8, 0, 0x8a, 5, 0x1f, 0, 2, b'n', b'o'],
            "refused the connection: this client is banned: \"no\" (code 0x8a)",
        ),
        (
            &[0x20, 9, 0, 0x9c, 6, 0x1c, 0, 3, b'b', b':', b'1'],
            "refused the connection: use another server; it names the server \"b:1\" (code 0x9c)",
        ),
        (
            &[0x20, 9, 0, 0x9d, 6, 0x1c, 0, 3, b'b', b':', b'1'],
            "refused the connection: the server has moved; it names the server \"b:1\" (code 0x9d)",
        ),
        (&[0xf0, 2, 0x18, 0], "AUTH from the MQTT broker: it came before CONNACK"),
    ];
    for (answer, says) in refusals {
        let (mut session, _) = Session5::accept(&broker).await.unwrap();
        session.raw(answer).await.unwrap();
        host.not_ready(says).await.unwrap();
        session.closed().await.unwrap();
    }
    // Without a code, with a code alone, with empty properties, with a reason string, with a server reference; and AUTH.
    let ends: [(&[u8], &str); 6] = [
        (&[0xe0, 0], "the MQTT broker disconnected: without a reason (code 0x00)"),
        (&[0xe0, 1, 0x8b], "the MQTT broker disconnected: it is shutting down (code 0x8b)"),
        (&[0xe0, 2, 0x98, 0], "the MQTT broker disconnected: administrative action (code 0x98)"),
        (
            &[0xe0, 7, 0x97, 5, 0x1f, 0, 2, b'n', b'o'],
            "the MQTT broker disconnected: a quota is exceeded: \"no\" (code 0x97)",
        ),
        (
            &[0xe0, 8, 0x9d, 6, 0x1c, 0, 3, b'b', b':', b'1'],
            "the MQTT broker disconnected: the server has moved; it names the server \"b:1\" (code 0x9d)",
        ),
        (&[0xf0, 2, 0x19, 0], "AUTH from the MQTT broker: enhanced authentication is not supported"),
    ];
    for (packet, says) in ends {
        let (mut session, _) = Session5::accept_fresh(&broker).await.unwrap();
        session.raw(packet).await.unwrap();
        host.not_ready(says).await.unwrap();
    }
    let _session = Session5::accept_fresh(&broker).await.unwrap();
    host.ready().await.unwrap();
    let errors = host.metrics().await.unwrap().sum("rivven_mqtt_source_errors_total").unwrap();
    assert_eq!(errors, (refusals.len() + ends.len()) as u64);
}
