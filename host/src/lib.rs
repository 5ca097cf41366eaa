//! MQTT to Rivven through a sandboxed WebAssembly component, acknowledged after commit.
//!
//! The program is `rivven-mqtt`. As a library the crate reads MQTT for you: [`MqttSource`] gives out messages, and acknowledges
//! each one when you say so.
//!
//! ```no_run
//! use rivven_mqtt::{MqttSource, MqttSourceConfig};
//!
//! # async fn f() -> Result<(), rivven_mqtt::MqttError> {
//! let mut config = MqttSourceConfig::new("mqtt://localhost:1883", ["sensors/+/temperature"])?;
//! config.client_id = "iot-1".into();
//! config.clean_session = false; // what arrives while we are away waits for us
//!
//! let source = MqttSource::new(config)?;
//! while let Some(event) = source.read().await? {
//!     // Asking for the next event acknowledges this one.
//!     println!("{} {:?}", event.topic(), event.text());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Stages never import each other: [`mqtt`] (or a library's caller, [`source`]) reads batches of [`message`]s, [`processor`] takes
//! them through a [`plugin`], a [`sink`] writes the [`record`]s, [`pipeline`] wires them. [`config`] is what all of them are
//! told, [`error`] what can go wrong, [`metrics`] and [`status`] what an operator sees through [`http`].

// Some helpers of what both have in common are used by the source and its sinks only.
#![cfg_attr(not(feature = "mqtt"), allow(dead_code))]

#[cfg(feature = "mqtt")]
mod addresses;
pub mod chain;
pub mod cli;
pub mod config;
pub mod delivery;
#[cfg(feature = "mqtt")]
pub mod dlq;
pub mod error;
#[cfg(feature = "mqtt")]
pub mod exposition;
#[cfg(all(feature = "mqtt", any(test, fuzzing)))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "mqtt")]
pub mod http;
#[cfg(feature = "mqtt")]
mod journal;
pub mod jsonl;
pub mod live;
pub mod logging;
pub mod message;
pub mod metrics;
#[cfg(feature = "mqtt")]
pub mod mqtt;
#[cfg(feature = "mqtt")]
pub mod pipeline;
pub mod plugin;
pub mod processor;
pub mod properties;
pub mod record;
pub mod sink;
#[cfg(feature = "mqtt")]
pub mod source;
mod state_dir;
pub mod status;
#[cfg(feature = "mqtt")]
mod thread;
#[cfg(feature = "mqtt")]
pub mod tls;
pub mod trial;

pub use config::Mqtt as MqttSourceConfig;
#[cfg(feature = "mqtt")]
pub use error::MqttError;
pub use message::QoS;
pub use metrics::{MqttSourceMetrics, MqttSourceMetricsSnapshot};
#[cfg(feature = "mqtt")]
pub use source::{Catalog, CheckReport, Event, EventBatch, MqttSource, SourceOptions};
