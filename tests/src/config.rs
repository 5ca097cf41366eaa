//! Configurations as values, so that a test changes one key and nothing else. YAML contains JSON, so the host reads them
//! as they are written.

use std::path::Path;

use serde_json::{Value, json};

use crate::rivven::Rivven;

/// The name of the one source of [`with_source`].
pub const SOURCE: &str = "iot";
/// Its destination topic.
pub const TOPIC: &str = "iot-events";
/// Where its dead letters go.
pub const DEAD_LETTERS: &str = "iot-events.dlq";

/// A source of QoS 1 messages into [`TOPIC`], payloads byte for byte, without a plugin.
pub fn source(url: &str, filters: &[&str]) -> Value {
    json!({
        "type": "mqtt-source",
        "topic": TOPIC,
        "format": "raw",
        "config": {
            "broker_url": url,
            "topics": filters,
            "retry_initial_ms": 20,
            "retry_max_ms": 200,
        },
    })
}

/// The session of a source survives a disconnect: a fixed client id and no clean session.
pub fn persistent(source: &mut Value, client_id: &str) {
    source["config"]["client_id"] = client_id.into();
    source["config"]["clean_session"] = false.into();
}

/// Runs the messages of a source through a component.
pub fn plugin(source: &mut Value, component: &Path, config: Value) {
    source["plugin"] = json!({ "path": component, "config": config });
}

/// A host with one source that writes to `rivven`.
pub fn with_source(rivven: &Rivven, source: Value) -> Value {
    json!({
        "broker": { "bootstrap_servers": [rivven.address()], "connections": 16 },
        "sources": { SOURCE: source },
    })
}

/// A host with one source and no Rivven, for the other sinks.
pub fn without_rivven(source: Value) -> Value {
    json!({ "sources": { SOURCE: source } })
}
