//! When to connect again.

use std::time::{Duration, Instant};

use rivven_integration_tests::config;
use rivven_integration_tests::host;
use rivven_integration_tests::scripted::Scripted;
use rivven_integration_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::{TIMEOUT, logged, start, with};

/// What a busy machine may add to a delay.
const SLACK: Duration = Duration::from_secs(2);

/// The delays between attempts at a broker that hangs up: as the host announces them, in milliseconds, after they were held
/// against what passed between the connects.
async fn delays(keys: Value, count: usize) -> Vec<u64> {
    let broker = Scripted::listen().await.unwrap();
    let host = start(with(&broker.url(), keys));
    let mut connects = Vec::new();
    for _ in 0..=count {
        connects.push(Instant::now());
        drop(broker.stream().await.unwrap());
        if let Some(last) = connects.last_mut() {
            *last = Instant::now();
        }
    }
    let mut announced = logged(&host, "next_attempt_in_ms");
    announced.truncate(count);
    let measured = connects.windows(2).map(|pair| pair[1] - pair[0]);
    for (announced, measured) in announced.iter().zip(measured) {
        let announced = Duration::from_millis(*announced);
        // The test may have seen the first connect late by what the machine was busy with.
        assert!(measured < announced + SLACK, "{measured:?} instead of {announced:?}");
    }
    let total = connects[count] - connects[0];
    let least: u64 = announced.iter().sum();
    assert!(total + Duration::from_millis(50) >= Duration::from_millis(least), "{total:?} for {announced:?}");
    assert_eq!(announced.len(), count);
    announced
}

// With full jitter a delay is drawn evenly from 0 to a ceiling. That none of 16 is in the upper half of its range has the
// probability 2^-16.

#[tokio::test(flavor = "multi_thread")]
async fn key_retry_initial_ms() {
    let keys = json!({ "retry_initial_ms": 300, "retry_max_ms": 1_000, "retry_multiplier": 1.0 });
    let delays = delays(keys, 16).await;
    assert!(delays.iter().all(|delay| *delay <= 300), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay > 150), "{delays:?}");
    // It is jitter and no fixed delay.
    assert!(delays.iter().any(|delay| *delay < 150), "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_retry_max_ms() {
    let keys = json!({ "retry_initial_ms": 100, "retry_max_ms": 200, "retry_multiplier": 10.0 });
    let delays = delays(keys, 17).await;
    assert!(delays[0] <= 100 && delays.iter().all(|delay| *delay <= 200), "{delays:?}");
    assert!(delays[1..].iter().any(|delay| *delay > 100), "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_retry_multiplier() {
    let keys = json!({ "retry_initial_ms": 10, "retry_max_ms": 10_000, "retry_multiplier": 1.5 });
    let delays = delays(keys, 12).await;
    let ceilings = (0..).map(|n| 10.0 * 1.5f64.powi(n));
    // No delay is shorter than 5 ms.
    assert!(
        delays.iter().zip(ceilings).all(|(delay, ceiling)| *delay as f64 <= ceiling.max(5.0)),
        "{delays:?}"
    );
    // The last six have ceilings from 114 to 865 ms.
    assert!(delays[6..].iter().any(|delay| *delay > 50), "{delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_max_reconnect_attempts() {
    let broker = Scripted::listen().await.unwrap();
    let mut host = start(with(&broker.url(), json!({ "max_reconnect_attempts": 3 })));
    for _ in 0..3 {
        drop(broker.accept().await.unwrap());
    }
    assert_eq!(host.ended().await.unwrap().code(), Some(1), "{}", host.log());
    let log = host.log();
    let last = "gave up after 3 connection attempts in a row: the MQTT broker closed the connection";
    assert!(log.contains(last), "{log}");
    assert!(broker.nobody_connects(Duration::from_millis(300)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_reconnect_delay_ms() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::without_rivven(with("mqtt://localhost", json!({ "reconnect_delay_ms": 5_000 })));
    std::fs::write(folder.path().join("config.yaml"), serde_json::to_string(&config).unwrap()).unwrap();
    let output = host::run(&["run", "-c", "config.yaml", "--sink", "discard"], folder.path()).await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("sources.iot.config.reconnect_delay_ms: ") && error.contains("retry_initial_ms"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn key_empty_poll_delay_ms() {
    let broker = Scripted::listen().await.unwrap();
    let host = start(with(&broker.url(), json!({ "empty_poll_delay_ms": 60_000 })));
    let (mut session, ..) = broker.accept_fresh().await.unwrap();
    // It adds nothing to a message: a hundred, each sent when the one before is acknowledged.
    let started = Instant::now();
    for id in 1..=100 {
        session.publish(rumqttc::QoS::AtLeastOnce, id, "a/1", b"x").await.unwrap();
        session.puback(id).await.unwrap();
    }
    assert!(started.elapsed() < TIMEOUT, "{:?}", started.elapsed());
    wait_for("all are settled", TIMEOUT, async || {
        host.ledger().await.is_ok_and(|ledger| ledger.committed == 100)
    })
    .await
    .unwrap();
}
