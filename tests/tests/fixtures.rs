//! The fixtures do what the other tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::certs::Certificates;
use rivven_integration_tests::client::{Client, Message, publish};
use rivven_integration_tests::proxy::{Fate, Kind, Proxy};
use rivven_integration_tests::rivven::Rivven;
use rumqttc::QoS;
use testcontainers::core::client::docker_client_instance;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Published messages reach a subscriber at every QoS, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_delivers() {
    let broker = Broker::setup().line("max_inflight_messages 0").start().await.unwrap();
    let mut subscriber = Client::connect(broker.port(), "subscriber").await.unwrap();
    subscriber.subscribe("plant/#", QoS::ExactlyOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let messages = (0..100).map(|n| Message::new("plant/a", n.to_string()));
        publish(broker.port(), qos, messages).await.unwrap();
        for n in 0..100 {
            let message = subscriber.message(TIMEOUT).await.unwrap();
            assert_eq!((message.qos, &message.payload[..]), (qos, n.to_string().as_bytes()));
        }
    }
}

/// Messages that are retained reach those who subscribe later, also after a restart on the same port.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_keeps_its_state_and_its_port_over_a_restart() {
    let mut broker = Broker::launch().await.unwrap();
    let port = broker.port();
    publish(port, QoS::AtLeastOnce, [Message::new("plant/a", "kept").retained()]).await.unwrap();
    broker.stop().await.unwrap();
    Client::connect(port, "nobody").await.unwrap_err();
    broker.start().await.unwrap();
    let mut subscriber = Client::connect(port, "subscriber").await.unwrap();
    subscriber.subscribe("plant/#", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(subscriber.message(TIMEOUT).await.unwrap().payload, "kept");
}

/// Only the right user gets in, and the TLS listener starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_asks_for_a_password() {
    let certificates = Certificates::generate().unwrap();
    let broker = Broker::setup().password().tls(&certificates).start().await.unwrap();
    Client::connect(broker.port(), "anonymous").await.unwrap_err();
    Client::login(broker.port(), "user").await.unwrap();
}

/// The proxy carries packets both ways, and cuts once: before or behind the packet that it was told.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cuts_at_a_packet() {
    let broker = Broker::launch().await.unwrap();
    let proxy = Proxy::listen(broker.port()).await.unwrap();
    for (fate, arrives) in [(None, true), (Some(Fate::Lost), false), (Some(Fate::Arrives), true)] {
        let mut subscriber = Client::connect(proxy.port(), "subscriber").await.unwrap();
        subscriber.subscribe("plant/#", QoS::AtMostOnce).await.unwrap();
        if let Some(fate) = fate {
            proxy.cut_at(Kind::Publish, fate);
        }
        publish(broker.port(), QoS::AtMostOnce, [Message::new("plant/a", "x"), Message::new("plant/a", "y")])
            .await
            .unwrap();
        assert_eq!(subscriber.message(TIMEOUT).await.is_ok_and(|message| message.payload == "x"), arrives);
        proxy.has_cut(TIMEOUT).await.unwrap();
        assert_eq!(subscriber.message(TIMEOUT).await.is_ok(), fate.is_none());
        if fate.is_none() {
            proxy.cut();
            subscriber.message(TIMEOUT).await.unwrap_err();
        }
    }
}

/// A test that panics leaves no container behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_removes_the_container() {
    let (send, receive) = tokio::sync::oneshot::channel();
    let test = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let broker = Broker::launch().await.unwrap();
            send.send(broker.container_id().map(str::to_owned)).unwrap();
            panic!("on purpose");
        });
    });
    let container = receive.await.unwrap();
    let ended = tokio::task::spawn_blocking(move || test.join()).await.unwrap();
    assert!(ended.is_err(), "the test did not panic");
    // Where no engine answers there is no container to remove.
    let Some(id) = container else { return };
    let docker = docker_client_instance().await.unwrap();
    docker.inspect_container(&id, None).await.expect_err("the container is still there");
}

/// rivvend keeps its records over a restart on the same port, and a frozen one answers again.
#[tokio::test(flavor = "multi_thread")]
async fn rivven_keeps_records_over_a_restart() {
    let mut rivven = Rivven::launch().await.unwrap();
    assert_eq!(rivven.consume_all("nothing").await.unwrap(), []);
    let mut client = rivven.client().await.unwrap();
    client.create_topic("t", Some(2)).await.unwrap();
    for n in 0..4_u8 {
        client.publish_with_key("t", Some(vec![n]), vec![n, 255, 0]).await.unwrap();
    }
    drop(client);
    rivven.freeze().unwrap();
    rivven.thaw().unwrap();
    rivven.stop().await.unwrap();
    rivven.start().await.unwrap();
    let mut values: Vec<_> = rivven.wait_for_records("t", 4, TIMEOUT).await.unwrap();
    values.sort_by(|a, b| a.value.cmp(&b.value));
    let expected: Vec<_> = (0..4_u8).map(|n| (Some(vec![n]), vec![n, 255, 0])).collect();
    assert_eq!(values.into_iter().map(|record| (record.key, record.value)).collect::<Vec<_>>(), expected);
}

/// `cargo test -p rivven-integration-tests --test mqtt_connector` uses what `make test` has compiled: cargo gives a dependency the
/// features that the selected packages ask for, and one that differs compiles wasmtime again, which takes minutes. Where this
/// fails, the dependency that asks for the missing feature has to be among the `dev-dependencies` of this package too.
#[test]
fn the_tests_alone_have_the_features_of_the_workspace() {
    let packages = |selection: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--edges",
                "normal,build,dev",
                "--prefix",
                "none",
                "--format",
                "{p} {f}",
            ])
            .args(selection)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        // One that was shown before is marked.
        text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect::<BTreeSet<_>>()
    };
    let (workspace, alone) = (packages(&["--workspace"]), packages(&["--package", env!("CARGO_PKG_NAME")]));
    assert!(alone.len() > 100);
    assert_eq!(alone.difference(&workspace).collect::<Vec<_>>(), Vec::<&String>::new());
}
