//! MQTT to Rivven through a sandboxed WebAssembly component, acknowledged after commit.

pub mod cli;
pub mod config;
pub mod delivery;
pub mod error;
pub mod exposition;
pub mod http;
pub mod jsonl;
pub mod logging;
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
pub mod trial;
