//! The MQTT broker of the demo: rumqttd, in this process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Starts the broker and returns its port on 127.0.0.1. It has no way to stop: it ends with the process.
pub async fn start() -> Result<u16> {
    let port = super::free_port()?;
    let mut broker = Broker::new(config(port));
    std::thread::Builder::new().name("rumqttd".into()).spawn(move || {
        if let Err(error) = broker.start() {
            eprintln!("the MQTT broker ended: {error}");
        }
    })?;
    let open = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), open).await.context("the MQTT broker did not start within 10 s")?;
    Ok(port)
}

/// Every field that matters: rumqttd's defaults are zeros, with which it accepts nobody.
fn config(port: u16) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: 64 << 10,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "mqtt".into(),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: 100 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("mqtt".to_owned(), server)])),
        ..Config::default()
    }
}
