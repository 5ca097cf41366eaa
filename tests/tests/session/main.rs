//! The session with an MQTT broker, by the specification, against one that does what no real broker does on demand. Each test
//! names the sections that it is about, of MQTT 3.1.1 unless it says 5.0. Rules of a packet, and those that need a hand on what is
//! in flight, are tested in `host/src/mqtt`; what a key of the configuration does, in `tests/keys`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod limits;
mod qos2;
mod redelivery;
mod refusals;
mod subscriptions;
mod takeover;
mod v5;

use std::time::Duration;

use nix::sys::signal::Signal;
use rivven_integration_tests::config::{self, TOPIC};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::jsonl::Line;
use rivven_integration_tests::rivven::Rivven;
use rivven_integration_tests::scripted::Scripted;
use rumqttc::{Packet, QoS};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough for a packet that must not come to show.
const A_WHILE: Duration = Duration::from_millis(300);
/// The file that the hosts here write their records to.
const OUT: &str = "out.jsonl";

/// A host that writes to [`OUT`].
fn start(source: Value) -> Host {
    Host::start_with(&config::without_rivven(source), &["--sink", &format!("file:{OUT}")]).unwrap()
}

/// A host whose messages stay in flight until `Rivven` is started.
fn stalled(source: Value) -> (Host, Rivven) {
    let rivven = Rivven::reserve().unwrap();
    (Host::start(&config::with_source(&rivven, source)).unwrap(), rivven)
}

fn persistent_source(broker: &Scripted, qos: &str) -> Value {
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::persistent(&mut source, "resumes");
    source["config"]["qos"] = qos.into();
    source
}

fn v5(mut source: Value) -> Value {
    source["config"]["mqtt_version"] = "5.0".into();
    source
}

/// Sections 3.1, 3.8 and 3.14.
#[tokio::test(flavor = "multi_thread")]
async fn connects_subscribes_and_says_goodbye() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#", "b/+"]);
    source["config"]["client_id"] = "polite".into();
    source["config"]["keep_alive_secs"] = 7.into();
    let mut host = start(source);
    let (mut session, connect, subscribe) = broker.accept_fresh().await.unwrap();
    assert_eq!((connect.client_id.as_str(), connect.keep_alive, connect.clean_session), ("polite", 7, true));
    let filters: Vec<_> = subscribe.filters.iter().map(|filter| (filter.path.as_str(), filter.qos)).collect();
    assert_eq!(filters, [("a/#", QoS::AtLeastOnce), ("b/+", QoS::AtLeastOnce)]);
    host.ready().await.unwrap();

    session.publish(QoS::AtLeastOnce, 1, "a/1", b"x").await.unwrap();
    session.puback(1).await.unwrap();
    // Acknowledged means written.
    assert_eq!(host.lines(OUT).unwrap(), [Line::new(TOPIC, "a/1", "x")]);
    let (status, _) = tokio::join!(host.terminate(), async {
        session.disconnect().await.unwrap();
        session.closed().await.unwrap();
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

/// Sections 4.3.2 and 3.14: what a broker has not read when the connection is reset it sends again.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_broker_is_waited_for_at_the_goodbye() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(persistent_source(&broker, "at_least_once"));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    session.publish_many(QoS::AtLeastOnce, 3, "a/1", b"x").await.unwrap();
    host.wait_for_ledger("three are committed", TIMEOUT, |ledger| ledger.committed == 3).await.unwrap();
    host.signal(Signal::SIGTERM).unwrap();
    host.wait_for_log("shutting down", TIMEOUT).await.unwrap();
    // It has something to send for longer than a silent one is waited for, and reads only then.
    let mut turn = tokio::time::interval(A_WHILE);
    for id in 10..20 {
        turn.tick().await;
        session.publish(QoS::AtLeastOnce, id, "a/1", b"y").await.unwrap();
    }
    for id in 1..=3 {
        session.puback(id).await.unwrap();
    }
    // What still came before the host has stopped reading is acknowledged too.
    while session.receive().await.unwrap() != Packet::Disconnect {}
    session.closed().await.unwrap();
    drop(session);
    assert_eq!(host.ended().await.unwrap().code(), Some(0));
}

/// Sections 4.3.2 and 3.14: the goodbye comes after the acknowledgements.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_told_to_stop_acknowledges_what_it_has_and_says_goodbye() {
    let broker = Scripted::listen().await.unwrap();
    let mut source = config::source(&broker.url(), &["a/#"]);
    config::plugin(&mut source, &guests::example("transform").unwrap(), json!({ "topic": "celsius" }));
    source["on_reject"] = "stop".into();
    let mut host = start(source);
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    host.ready().await.unwrap();
    session.publish(QoS::AtLeastOnce, 1, "a/1", br#"{"device":"d","fahrenheit":212}"#).await.unwrap();
    session.puback(1).await.unwrap();
    session.publish(QoS::AtLeastOnce, 2, "a/1", b"no JSON").await.unwrap();
    session.disconnect().await.unwrap();
    session.closed().await.unwrap();
    let status = host.ended().await.unwrap();
    assert_eq!(status.code(), Some(1), "{}", host.log());
    assert!(host.log().contains("cannot go on"), "{}", host.log());
}
