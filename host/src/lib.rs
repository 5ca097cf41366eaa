//! MQTT to Rivven through a sandboxed WebAssembly component, acknowledged after commit.

pub mod config;
pub mod delivery;
pub mod error;
pub mod message;
pub mod metrics;
pub mod mqtt;
pub mod pipeline;
pub mod plugin;
pub mod processor;
pub mod properties;
pub mod record;
pub mod sink;
pub mod status;
pub mod tls;
