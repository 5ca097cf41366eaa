//! The JSON Schema of a configuration file (draft 2020-12), made from the tables of [`keys`](super::keys): an editor that is
//! given it completes keys, shows what they mean and marks what is wrong.
//!
//! It never refuses what [`load`](super::load) accepts. Rules between keys, files and names are for `load` alone.

use serde_json::{Map, Value, json};

use super::keys::{Key, Keys, Kind, ROOT, SINGLE};

/// The schema. Both forms of a file fit: several sources by name, and one source with `type` at the top.
pub fn schema() -> Value {
    let form = |title: &str, keys: Keys| {
        let mut form = section(keys);
        form["title"] = title.into();
        form
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of rivven-mqtt",
        "anyOf": [form("several sources", ROOT), form("one source", SINGLE)],
    })
}

fn section(keys: Keys) -> Value {
    let mut properties = Map::new();
    let mut rules = Vec::new();
    for key in keys {
        properties.insert(key.name.into(), property(key));
        let required = |name: &str| json!({ "required": [name] });
        match key.alias {
            Some(alias) => {
                let mut other = property(key);
                other["description"] = format!("Another name of {}.", key.name).into();
                properties.insert(alias.into(), other);
                rules.push(json!({ "not": { "required": [key.name, alias] } }));
                if key.required {
                    rules.push(json!({ "anyOf": [required(key.name), required(alias)] }));
                }
            }
            None if key.required => rules.push(required(key.name)),
            None => {}
        }
    }
    let mut section = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !rules.is_empty() {
        section["allOf"] = rules.into();
    }
    section
}

/// What the value of a key has to be, what it means, and what it is when the key is not there.
fn property(key: &Key) -> Value {
    let mut property = kind(&key.kind);
    property["description"] = match key.kind {
        Kind::Refused(instead) => format!("Not supported: {instead}.").into(),
        _ => key.doc.into(),
    };
    if let Some(default) = key.default {
        // A default of text that looks like a number, such as a version, stays text.
        let is_text = !matches!(key.kind, Kind::Flag | Kind::Integer(..) | Kind::Number(..));
        let value = if is_text { None } else { serde_json::from_str(default).ok() };
        property["default"] = value.unwrap_or_else(|| default.into());
    }
    property
}

/// What a value of this kind has to be.
pub(super) fn kind(kind: &Kind) -> Value {
    // `${VAR}` is text, so it is allowed just where text is.
    let text = json!({ "type": ["string", "number", "boolean"] });
    match kind {
        Kind::Text => text,
        Kind::Path => json!({ "type": ["string", "number", "boolean"], "minLength": 1 }),
        Kind::Texts => json!({ "type": "array", "minItems": 1, "items": text }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Choice(choices) => {
            json!({ "anyOf": [{ "enum": spellings(choices) }, { "type": "string", "pattern": "\\$\\{" }] })
        }
        Kind::Section(keys) => section(keys),
        Kind::SectionOrList(keys) => {
            json!({ "anyOf": [section(keys), { "type": "array", "minItems": 1, "items": section(keys) }] })
        }
        Kind::Sections(keys) => {
            json!({ "type": "object", "minProperties": 1, "additionalProperties": section(keys) })
        }
        Kind::Anything => json!({}),
        Kind::Refused(_) => json!({ "not": {}, "deprecated": true }),
    }
}

/// All ways to write a choice, the names first. Without quotes some of them are numbers in YAML.
fn spellings(choices: &[(&str, &[&str])]) -> Vec<Value> {
    let names = choices.iter().map(|(name, _)| *name);
    let others = choices.iter().flat_map(|(_, others)| others.iter().copied());
    let texts: Vec<&str> = names.chain(others).collect();
    let mut numbers: Vec<f64> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    // 5.0 and 5 are one number in JSON Schema.
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    let numbers = numbers.into_iter().map(|number| match number.fract() {
        0.0 => json!(number as i64),
        _ => json!(number),
    });
    texts.into_iter().map(Value::from).chain(numbers).collect()
}
