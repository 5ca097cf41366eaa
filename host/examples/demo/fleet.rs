//! The simulated fleet: devices that measure a temperature and publish it at QoS 1.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS};
use tokio::task::JoinSet;
use tokio::time::interval;

/// Devices of the fleet.
pub const DEVICES: u64 = 20;
/// Readings of each device.
pub const READINGS: u64 = 1_000;
/// The time from one reading of a device to its next.
const PERIOD: Duration = Duration::from_millis(5);
/// The filter plugin drops what is colder.
pub const THRESHOLD: f64 = 21.0;

/// One reading, as it is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The MQTT topic of its device.
    pub topic: String,
    /// Its number, from 0 for each device.
    pub number: u64,
    /// Degrees Celsius.
    pub value: f64,
}

impl Reading {
    /// The payload: JSON, as devices send it.
    pub fn payload(&self) -> String {
        format!(r#"{{"reading":{},"value":{:.1}}}"#, self.number, self.value)
    }
}

/// The readings of one device: the same in every run of the demo.
fn readings(device: u64) -> impl Iterator<Item = Reading> {
    let mut random = fastrand::Rng::with_seed(device);
    let topic = format!("fleet/device-{device:02}/temperature");
    (0..READINGS).map(move |number| Reading {
        topic: topic.clone(),
        number,
        value: f64::from(random.u32(150..270)) / 10.0,
    })
}

/// What has to be in Rivven in the end: the payload of each reading that is warm enough, by topic and number.
pub fn expected() -> BTreeMap<(String, u64), String> {
    let all = (0..DEVICES).flat_map(readings);
    let warm = all.filter(|reading| reading.value >= THRESHOLD);
    warm.map(|reading| ((reading.topic.clone(), reading.number), reading.payload())).collect()
}

/// Publishes all readings, each device over a connection of its own. `published` counts those that the broker has
/// acknowledged; all of them, when this returns.
pub async fn publish(port: u16, published: Arc<AtomicU64>) -> Result<()> {
    let mut devices = JoinSet::new();
    for device in 0..DEVICES {
        devices.spawn(run_device(device, port, published.clone()));
    }
    while let Some(device) = devices.join_next().await {
        device??;
    }
    Ok(())
}

async fn run_device(device: u64, port: u16, published: Arc<AtomicU64>) -> Result<()> {
    let options = MqttOptions::new(format!("device-{device:02}"), "127.0.0.1", port);
    let (client, mut events) = AsyncClient::new(options, 100);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    let measuring = tokio::spawn(async move {
        let mut clock = interval(PERIOD);
        for reading in readings(device) {
            clock.tick().await;
            client.publish(&reading.topic, QoS::AtLeastOnce, false, reading.payload()).await?;
        }
        // The client is kept: when the last handle is gone, its event loop ends.
        Ok::<_, rumqttc::ClientError>(client)
    });
    let mut acknowledged = 0;
    while acknowledged < READINGS {
        let event = events.poll().await.with_context(|| format!("device {device} lost its connection"))?;
        if let Event::Incoming(Packet::PubAck(_)) = event {
            acknowledged += 1;
            published.fetch_add(1, Relaxed);
        }
    }
    measuring.await??.disconnect().await?;
    while events.poll().await.is_ok() {}
    Ok(())
}
