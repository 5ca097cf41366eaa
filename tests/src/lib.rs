//! Fixtures for the integration tests: real brokers, a real `rivvend`, the real binary, and a scripted broker for what no
//! real one does on demand.
//!
//! Everything is started by the test that uses it, listens on 127.0.0.1, and is ended when its value is dropped, also when
//! the test panics. Fixtures return errors and never skip: what is missing is named, with the command that provides it.

pub mod broker;
pub mod campaign;
pub mod certs;
pub mod client;
pub mod config;
pub mod fault_proxy;
pub mod guests;
pub mod host;
pub mod http;
pub mod image;
pub mod jsonl;
pub mod link;
pub mod markdown;
pub mod net;
pub mod packages;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod rivven;
pub mod scripted;
pub mod scripted5;
pub mod usage;
pub mod wait;
