//! What a source offers: one stream for each topic filter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Mqtt;

/// The streams of a source; as JSON it has the form of the existing connector's catalog.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// One for each topic filter, in the order of the settings.
    pub streams: Vec<CatalogStream>,
}

/// One stream of a [`Catalog`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogStream {
    /// The topic filter with `+` as `_single`, `#` as `_multi` and `/` as `_`.
    pub name: String,
    /// Always none: MQTT has no namespaces.
    pub namespace: Option<String>,
    /// JSON Schema of the events, see [`Event::to_json`](super::Event::to_json).
    pub json_schema: Value,
    /// How the stream can be read.
    pub supported_sync_modes: Vec<SyncMode>,
    /// Always none: an MQTT broker keeps the place of a reader itself, in its session.
    pub default_cursor_field: Option<Vec<String>>,
    /// Always none.
    pub source_defined_primary_key: Option<Vec<Vec<String>>>,
    /// `mqtt.filter`: the topic filter itself; `mqtt.qos`: the quality of service that it is subscribed to with.
    pub metadata: BTreeMap<String, Value>,
}

/// How a stream can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// From the start each time: in a clean session, what is retained and then what is published.
    FullRefresh,
    /// What came since: in a persistent session, what was not acknowledged.
    Incremental,
}

impl Catalog {
    pub(super) fn of(mqtt: &Mqtt) -> Self {
        let schema = schema(mqtt);
        let stream = |filter: &String| CatalogStream {
            name: filter.replace('+', "_single").replace('#', "_multi").replace('/', "_"),
            namespace: None,
            json_schema: schema.clone(),
            supported_sync_modes: vec![SyncMode::FullRefresh, SyncMode::Incremental],
            default_cursor_field: None,
            source_defined_primary_key: None,
            metadata: BTreeMap::from([
                ("mqtt.filter".to_owned(), json!(filter)),
                ("mqtt.qos".to_owned(), json!(mqtt.qos as u8)),
            ]),
        };
        Catalog { streams: mqtt.topics.iter().map(stream).collect() }
    }

    /// The stream with this name.
    pub fn find_stream(&self, name: &str) -> Option<&CatalogStream> {
        self.streams.iter().find(|stream| stream.name == name)
    }
}

/// Of the events that these settings make.
fn schema(mqtt: &Mqtt) -> Value {
    let payload = match mqtt.parse_json_payload {
        true => json!({ "description": "the payload itself where it is JSON, else text" }),
        false => json!({ "type": ["string", "null"] }),
    };
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "topic": { "type": "string" },
            "payload": payload,
            "payload_encoding": { "const": "base64", "description": "the payload is not UTF-8, and here as base64" },
            "payload_omitted": { "type": "string", "description": "why the payload is null" },
            "size": { "type": "integer", "minimum": 0, "description": "bytes of a packet whose payload is omitted" },
            "qos": { "type": "integer", "minimum": 0, "maximum": 2 },
            "retain": { "type": "boolean" },
            "timestamp": { "type": "string", "format": "date-time" },
        },
        "required": ["topic", "payload", "qos", "retain", "timestamp"],
        "additionalProperties": false,
    });
    if mqtt.include_metadata {
        schema["properties"]["metadata"] = json!({
            "type": "object",
            "properties": {
                "client_id": { "type": "string" },
                "broker": { "type": "string", "description": "HOST:PORT" },
                "message_id": { "type": "integer", "minimum": 0 },
                "pkid": { "type": "integer", "minimum": 0, "maximum": 65_535 },
            },
            "required": ["client_id", "broker", "message_id", "pkid"],
            "additionalProperties": false,
        });
        if let Some(required) = schema["required"].as_array_mut() {
            required.push(json!("metadata"));
        }
    }
    schema
}
