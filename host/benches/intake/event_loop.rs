//! The baseline: rumqttc's own `EventLoop` with automatic acknowledgements, doing nothing with the messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use tokio::runtime::Runtime;

/// A subscriber that counts; it ends when it is dropped.
pub struct Subscriber {
    received: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Subscriber {
    /// Connects to the blaster on `port`.
    pub fn start(port: u16, qos: u8) -> Result<Self> {
        let runtime = super::runtime("baseline")?;
        let received = Arc::new(AtomicU64::new(0));
        runtime.spawn(count(port, qos, received.clone()));
        Ok(Subscriber { received, _runtime: runtime })
    }

    /// Messages received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

async fn count(port: u16, qos: u8, received: Arc<AtomicU64>) -> Result<()> {
    let options = MqttOptions::new("baseline", "127.0.0.1", port);
    let (client, mut events) = AsyncClient::new(options, 100);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    client.subscribe("#", if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }).await?;
    let mut n = 0;
    loop {
        if let Event::Incoming(Packet::Publish(_)) = events.poll().await? {
            n += 1;
            received.store(n, Relaxed);
        }
    }
}
