//! Reading a source: its plugin, its records, its policies.

use std::time::Duration;

use super::client::read_mqtt;
use super::keys::OF_SOURCE;
use super::problem::Problems;
use super::read::{Section, join};
use super::yaml::{Entry, Node, Scalar, Style, Value};
use super::{BadMessage, Format, Limits, Plugin, Record, Source, Template};
use crate::record::is_legal_topic;

const LEGAL_TOPIC: &str = "1 to 249 letters, digits, `.`, `_` and `-`, a letter or digit first, no `..`";

/// The source in `section`; `None` has left a problem.
pub(super) fn read_source(section: &Section<'_>) -> Option<Source> {
    section.choice("type");
    let config = section.section("config");
    let mqtt = config.as_ref().and_then(read_mqtt);
    let plugins = read_plugins(section);
    let record = read_record(section, config.as_ref());
    let on_reject = bad_message(section, "on_reject");
    let on_fault = bad_message(section, "on_fault");
    let Plugins { list, workers, flush_interval, max_faults_per_minute } = plugins?;
    Some(Source {
        mqtt: mqtt?,
        plugins: list,
        workers,
        flush_interval,
        max_faults_per_minute,
        record: record?,
        on_reject,
        on_fault,
    })
}

fn bad_message(section: &Section<'_>, name: &str) -> BadMessage {
    match section.choice(name) {
        "drop" => BadMessage::Drop,
        "stop" => BadMessage::Stop,
        _ => BadMessage::DeadLetter,
    }
}

fn read_record(section: &Section<'_>, config: Option<&Section<'_>>) -> Option<Record> {
    let topic = section.parsed("topic", |text| {
        let template = Template::parse(text)?;
        match template.fixed() {
            Some(topic) if !is_legal_topic(topic) => {
                Err(format!("is `{topic}`, which is no Rivven topic (expected {LEGAL_TOPIC})"))
            }
            _ => Ok(template),
        }
    });
    let key = section.parsed("key", |text| match text {
        "none" => Ok(None),
        text => Template::parse(text).map(Some),
    });
    let format = if section.choice("format") == "raw" { Format::Raw } else { Format::Json };
    let dead_letter_topic = match &topic {
        // What the default would be made of is wrong already.
        None if !section.has("dead_letter_topic") => None,
        _ => dead_letter_topic(section, topic.as_ref()),
    };
    if let Some(config) = config.filter(|_| format == Format::Raw) {
        for name in ["parse_json_payload", "include_metadata"] {
            if config.has(name) {
                config.problem(
                    name,
                    "has no effect with `format: raw` (expected `format: json`, or no such key)",
                );
            }
        }
    }
    let partitions = section.has("partitions").then(|| section.integer("partitions") as u32);
    Some(Record { topic: topic?, key: key?, format, dead_letter_topic: dead_letter_topic?, partitions })
}

fn dead_letter_topic(section: &Section<'_>, topic: Option<&Template>) -> Option<String> {
    if section.has("dead_letter_topic") {
        return section.parsed("dead_letter_topic", |text| match is_legal_topic(text) {
            true => Ok(text.to_owned()),
            false => Err(format!("is `{text}`, which is no Rivven topic (expected {LEGAL_TOPIC})")),
        });
    }
    let Some(topic) = topic.and_then(Template::fixed) else {
        section.missing(
            "dead_letter_topic",
            "is missing (expected a Rivven topic, because `topic` is a template)",
        );
        return None;
    };
    let default = format!("{topic}.dlq");
    if !is_legal_topic(&default) {
        section.missing(
            "dead_letter_topic",
            "is missing (expected a Rivven topic, because `topic` and `.dlq` is none)",
        );
        return None;
    }
    Some(default)
}

/// The plugins of a source, and what is about all of them.
struct Plugins {
    list: Vec<Plugin>,
    workers: usize,
    flush_interval: Duration,
    max_faults_per_minute: u32,
}

fn read_plugins(section: &Section<'_>) -> Option<Plugins> {
    let sections = section.section_or_list("plugin");
    for (later, name) in sections.iter().skip(1).flat_map(|later| OF_SOURCE.map(|name| (later, name))) {
        if later.has(name) {
            later.problem(name, "is about all plugins of the list (expected at the first one only)");
        }
    }
    let first = sections.first();
    let integer = |name| first.map_or(0, |first| first.integer(name));
    Some(Plugins {
        workers: first.map_or(1, |first| first.size("workers", 1)),
        flush_interval: Duration::from_millis(integer("flush_interval_ms")),
        max_faults_per_minute: integer("max_faults_per_minute") as u32,
        list: sections.iter().map(read_plugin).collect::<Option<_>>()?,
    })
}

fn read_plugin(section: &Section<'_>) -> Option<Plugin> {
    let path = section.path("path").and_then(|(field, path)| match (section.context.world.read)(&path, 1) {
        Ok(_) => Some(path),
        Err(error) => {
            field.problem(format!("cannot be read: {}: {error}", path.display()));
            None
        }
    });
    let name = section.has("name").then(|| section.parsed("name", parse_plugin_name));
    let sha256 = section.has("sha256").then(|| section.parsed("sha256", parse_sha256));
    let config = match section.field("config") {
        None => "null".to_owned(),
        Some(field) => json(field.node, &field.path, &field.context.problems).to_string(),
    };
    let limits = match section.section("limits") {
        Some(limits) => read_limits(&limits),
        None => Limits::default(),
    };
    let name = match name {
        Some(name) => Some(name?),
        None => None,
    };
    let sha256 = match sha256 {
        Some(sha256) => Some(sha256?),
        None => None,
    };
    let secrets = section.context.variables.clone();
    Some(Plugin { name, path: path?, sha256, config, secrets, limits })
}

pub(super) fn read_limits(section: &Section<'_>) -> Limits {
    const MIB: usize = 1 << 20;
    Limits {
        memory: section.size("memory_mb", MIB),
        deadline: Duration::from_millis(section.integer("deadline_ms")),
        outputs_per_message: section.size("outputs_per_message", 1),
        output_bytes: section.size("output_bytes", 1),
        stack: section.size("stack_kb", 1 << 10),
        log_lines_per_second: section.integer("log_lines_per_second") as u32,
        metrics: section.size("metrics", 1),
        state: section.size("state_mb", MIB),
        component: section.size("component_mb", MIB),
        compile_time: Duration::from_secs(section.integer("compile_seconds")),
        compile_memory: section.size("compile_mb", MIB),
        instances: section.size("instances", 1),
        handles: section.size("handles", 1),
    }
}

/// It is a label of metrics and the name of the plugin's state.
fn parse_plugin_name(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "is `{text}`, which is no name of a plugin (expected 1 to 64 letters, digits, `.`, `_` and `-`)"
        )),
    }
}

fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    let wrong = || {
        format!(
            "is no SHA-256 (expected 64 hexadecimal digits; this has {} characters)",
            text.chars().count()
        )
    };
    let mut sha256 = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, digits) in sha256.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(sha256)
}

/// YAML as JSON by the core schema of YAML 1.2 (section 10.3.2). Values are not shown in problems: they may be secrets.
pub(super) fn json(node: &Node, path: &str, problems: &Problems) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Sequence(items) => {
            let item = |(index, node)| json(node, &format!("{path}[{index}]"), problems);
            Json::Array(items.iter().enumerate().map(item).collect())
        }
        Value::Mapping(entries) => {
            let entry =
                |Entry { key, node, .. }: &Entry| (key.clone(), json(node, &join(path, key), problems));
            Json::Object(entries.iter().map(entry).collect())
        }
        Value::Scalar(scalar) if scalar.is_null() => Json::Null,
        Value::Scalar(Scalar { text, style: Style::Plain }) => plain_json(text).unwrap_or_else(|what| {
            problems.add(node.at, path, what);
            Json::Null
        }),
        Value::Scalar(Scalar { text, .. }) => Json::String(text.clone()),
    }
}

fn plain_json(text: &str) -> Result<serde_json::Value, String> {
    use serde_json::{Number, Value as Json};
    match text {
        "true" | "True" | "TRUE" => return Ok(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Json::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let radix = |prefix, radix| text.strip_prefix(prefix).map(|digits| u64::from_str_radix(digits, radix));
    if let Some(Ok(value)) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Ok(Json::Number(value.into()));
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from));
        return number
            .map(Json::Number)
            .map_err(|_| "is an integer of more than 64 bits (expected quotes around it)".into());
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Err("is no number that JSON has (expected a finite number, or quotes around it)".into());
    }
    let like_a_float = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(value) if like_a_float => Number::from_f64(value)
            .map(Json::Number)
            .ok_or_else(|| "is greater than any number of 64 bits (expected quotes around it)".into()),
        _ => Ok(Json::String(text.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::yaml::parse;

    fn as_json(yaml: &str) -> String {
        let problems = Problems::default();
        let json = json(&parse(yaml).unwrap().unwrap(), "config", &problems).to_string();
        assert!(problems.into_sorted().is_empty(), "{yaml}");
        json
    }

    #[test]
    fn yaml_becomes_json() {
        for (yaml, json) in [
            (
                "a: [1, -2, 0x1f, 0o17, 1.5, 1e3, -.5, '1', true, ~, x, 1.2.3, 2024-01-01]",
                r#"{"a":[1,-2,31,15,1.5,1000.0,-0.5,"1",true,null,"x","1.2.3","2024-01-01"]}"#,
            ),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("infinity", "\"infinity\""),
            ("- {b: \"\"}\n- |\n  text\n", "[{\"b\":\"\"},\"text\\n\"]"),
        ] {
            assert_eq!(as_json(yaml), json);
        }
    }
}
