//! MQTT to Rivven through a sandboxed WebAssembly component, acknowledged after commit.

pub mod config;
pub mod delivery;
pub mod error;
pub mod message;
pub mod metrics;
pub mod mqtt;
pub mod properties;
pub mod record;
pub mod status;
