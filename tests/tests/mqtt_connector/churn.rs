//! Many connections, one after the other.

use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::publish;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;

use crate::support::{
    TIMEOUT, config, end, let_go, logged, numbers, persistent, read, source_with_state, subscribed,
};

const CONNECTS: usize = 50;
/// Set to the broker's port in the process of its own that this test has: other tests open descriptors and threads too.
const ALONE: &str = "RIVVEN_MQTT_CHURN_BROKER_PORT";

pub async fn connection_churn() {
    if let Ok(port) = std::env::var(ALONE) {
        return churn(port.parse().unwrap()).await;
    }
    let broker = Broker::launch().await.unwrap();
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "test_mqtt_connection_churn", "--nocapture"])
        .env(ALONE, broker.port().to_string())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(4 * TIMEOUT, child).await.expect("the churn does not end").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    // The first one makes the session.
    logged(&broker, "as churn (p2, c0, k60)", CONNECTS + 1).await;
    logged(&broker, "Received DISCONNECT from churn\n", CONNECTS + 1).await;
    logged(&broker, "Received DISCONNECT from churn-check-", CONNECTS / 10).await;
}

/// What a process has of the system, and the runtime of the test has of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    tasks: usize,
}

impl Holdings {
    fn now() -> Self {
        let entries = |folder| std::fs::read_dir(folder).unwrap().count();
        Holdings {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        }
    }
}

async fn churn(port: u16) {
    let state = tempfile::tempdir().unwrap();
    let source = || {
        let url = format!("mqtt://127.0.0.1:{port}");
        source_with_state(persistent(config(url, &["plant/#"]), "churn"), &state)
    };
    let first = source();
    subscribed(&first).await;
    end(first).await;
    let before = Holdings::now();
    for n in 0..CONNECTS {
        publish(port, QoS::AtLeastOnce, numbers("plant/a", n..n + 1)).await.unwrap();
        let source = source();
        if n % 10 == 0 {
            let report = source.check().await;
            assert!(report.passed(), "{report}");
        }
        assert_eq!(read(&source).await.text().unwrap(), n.to_string());
        // Asking once more acknowledges it, or the next source would read it too.
        assert!(source.read_batch().await.unwrap().unwrap().is_empty());
        match n % 2 {
            0 => end(source).await,
            // Without a word, which is a disconnect too.
            _ => {
                let settled = async || source.ledger().settled.committed == 1;
                wait_for("the acknowledgement is taken", TIMEOUT, settled).await.unwrap();
                let_go(source).await;
            }
        }
    }
    let mut now = Holdings::now();
    let as_before = async || {
        now = Holdings::now();
        now.descriptors <= before.descriptors && now.threads <= before.threads && now.tasks <= before.tasks
    };
    let waited = wait_for("everything is given back", Duration::from_secs(10), as_before).await;
    assert!(waited.is_ok(), "before {before:?}, after {CONNECTS} connections {now:?}");
}
