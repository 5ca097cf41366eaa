//! Two clients with one client id (section 3.1.4, 5.0 section 3.1.4.4): the broker lets the last one in and throws out the other.

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::config;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::scripted5::Session5;

use crate::{start, v5};

/// 5.0 section 3.14.2.1: 0x8E says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_taken_over_is_named_and_backed_off() {
    const TIMES: u64 = 6;
    let broker = Scripted::listen().await.unwrap();
    let mut source = v5(config::source(&broker.url(), &["a/#"]));
    source["config"]["client_id"] = "mine".into();
    source["config"]["retry_multiplier"] = 3.0.into();
    let host = start(source);
    for _ in 0..TIMES {
        let (mut session, _) = Session5::accept_fresh(&broker).await.unwrap();
        session.raw(&[0xe0, 1, 0x8e]).await.unwrap();
        host.not_ready("another client connected with the client id `mine` and took the session over")
            .await
            .unwrap();
    }
    let metrics = host.metrics().await.unwrap();
    for count in ["errors", "connections", "disconnections"] {
        assert_eq!(metrics.sum(&format!("rivven_mqtt_source_{count}_total")).unwrap(), TIMES, "{count}");
    }
    // Though each connection came up, delays are drawn from a range that grows: 20, 60, 180, then 200 ms.
    let log = host.log();
    let delays = log.split(" next_attempt_in_ms=").skip(1);
    let delays: Vec<u64> =
        delays.map(|rest| rest.split([' ', '\n']).next().unwrap().parse().unwrap()).collect();
    assert!(delays.len() as u64 >= TIMES - 1 && delays[0] <= 20, "{delays:?}");
    assert!(delays.iter().all(|delay| *delay <= 200), "{delays:?}");
}

/// 3.1.1 has no word for it, and mosquitto does not use the one of 5.0. Two hosts, one client id, a real broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_throws_each_other_out_is_named_on_both_versions() {
    let broker = Broker::launch().await.unwrap();
    for version in ["3.1.1", "5.0"] {
        let mut source = config::source(&broker.url(), &["a/#"]);
        source["config"]["client_id"] = "twin".into();
        source["config"]["mqtt_version"] = version.into();
        let twins = [start(source.clone()), start(source)];
        for twin in &twins {
            twin.not_ready("does another client use the client id `twin`?").await.unwrap();
        }
    }
}
