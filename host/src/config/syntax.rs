//! The small languages inside of configuration values: topic filters, templates, Rivven topic names, variables.

use super::{Template, TemplatePart};

// To be replaced by `mqtt::filter::{validate_filter, validate_topic_name}` when that module is there.

/// Whether `filter` may be subscribed to, `$share/GROUP/FILTER` included (MQTT 5.0 sections 4.7 and 4.8.2).
pub(super) fn validate_filter(filter: &str) -> Result<(), String> {
    length_and_characters(filter, "topic filter")?;
    let filter = match filter.strip_prefix("$share/") {
        None => filter,
        Some(shared) => {
            let (group, filter) = shared
                .split_once('/')
                .ok_or("a shared subscription is $share/GROUP/FILTER; there is no filter")?;
            if group.is_empty() || group.contains(['+', '#']) {
                return Err(
                    "the group of a shared subscription is at least one character, without + and #".into()
                );
            }
            if filter.is_empty() {
                return Err("a shared subscription is $share/GROUP/FILTER; the filter is empty".into());
            }
            filter
        }
    };
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        match level {
            "#" if levels.peek().is_some() => return Err("# must be the last level".into()),
            "#" | "+" => {}
            _ if level.contains('#') => {
                return Err(format!("# must be a level of its own, not part of `{level}`"));
            }
            _ if level.contains('+') => {
                return Err(format!("+ must be a level of its own, not part of `{level}`"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether `topic` may be published to.
pub(super) fn validate_topic_name(topic: &str) -> Result<(), String> {
    length_and_characters(topic, "topic name")?;
    match topic.chars().find(|c| matches!(c, '+' | '#')) {
        Some(wildcard) => Err(format!("a topic name has no wildcards, this one has {wildcard}")),
        None => Ok(()),
    }
}

fn length_and_characters(name: &str, what: &str) -> Result<(), String> {
    if name.is_empty() {
        Err(format!("a {what} is not empty"))
    } else if name.len() > 65_535 {
        Err(format!("a {what} has at most 65535 bytes, this one {}", name.len()))
    } else if name.contains('\0') {
        Err(format!("a {what} has no NUL character"))
    } else {
        Ok(())
    }
}

// To be replaced by `Template::parse` and `record::is_legal_topic` when these are there.

/// Reads a template: `{topic}` is the whole MQTT topic, `{topic[1]}` its second level; `{{` and `}}` are braces.
pub(super) fn parse_template(text: &str) -> Result<Template, String> {
    let mut parts = Vec::new();
    let mut fixed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        fixed.push_str(&rest[..at]);
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            fixed.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err("`}` without `{` (a brace itself is written `}}`)".into());
        }
        let end = after.find('}').ok_or("`{` without `}` (a brace itself is written `{{`)")?;
        if !fixed.is_empty() {
            parts.push(TemplatePart::Text(std::mem::take(&mut fixed)));
        }
        parts.push(template_part(&after[..end])?);
        rest = &after[end + 1..];
    }
    fixed.push_str(rest);
    if !fixed.is_empty() {
        parts.push(TemplatePart::Text(fixed));
    }
    Ok(Template(parts))
}

fn template_part(name: &str) -> Result<TemplatePart, String> {
    if name == "topic" {
        return Ok(TemplatePart::Topic);
    }
    let level = name.strip_prefix("topic[").and_then(|rest| rest.strip_suffix(']'));
    level.and_then(|level| level.parse().ok()).map(TemplatePart::Level).ok_or_else(|| {
        format!("`{{{name}}}` is no part of a template (expected `{{topic}}` or `{{topic[0]}}`)")
    })
}

/// The text of a template in which nothing depends on the MQTT topic.
pub(super) fn fixed(template: &Template) -> Option<&str> {
    match template.0.as_slice() {
        [] => Some(""),
        [TemplatePart::Text(text)] => Some(text),
        _ => None,
    }
}

/// Whether Rivven takes `topic` as a topic name.
pub(super) fn is_legal_topic(topic: &str) -> bool {
    topic.len() <= 249
        && topic.starts_with(|c: char| c.is_ascii_alphanumeric())
        && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        && !topic.contains("..")
}

// Until here.

/// `text` with `${VAR}` and `${VAR:-default}` replaced; `$${` stands for `${`. `None` where there is nothing to replace.
pub(super) fn replace_variables(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let after = &rest[at + 2..];
        if let Some(before) = rest[..at].strip_suffix('$') {
            replaced.push_str(before);
            replaced.push_str("${");
            rest = after;
            continue;
        }
        replaced.push_str(&rest[..at]);
        let end = after
            .find('}')
            .ok_or("has `${` without `}` (expected ${VAR} or ${VAR:-default}; `$${` stands for `${`)")?;
        let (name, default) = match after[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&after[..end], None),
        };
        let legal =
            |(i, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit());
        if name.is_empty() || !name.chars().enumerate().all(legal) {
            return Err(format!(
                "has `${{{name}}}`, which names no variable (expected letters, digits and _; `$${{` stands for `${{`)"
            ));
        }
        match (variable(name), default) {
            (Some(value), None) => replaced.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => replaced.push_str(&value),
            (_, Some(default)) => replaced.push_str(default),
            (None, None) => {
                return Err(format!(
                    "needs the environment variable {name}, which is not set (set it, or write ${{{name}:-default}})"
                ));
            }
        }
        rest = &after[end + 1..];
    }
    replaced.push_str(rest);
    Ok(Some(replaced))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn replace(text: &str) -> Result<Option<String>, String> {
        replace_variables(text, &|name| match name {
            "A" => Some("1".into()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".into()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_replaced() {
        for (text, expected) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-}", ""),
            ("${B:-a:-b}", "a:-b"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY}", ""),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            // What came from a variable is not looked at again.
            ("${NESTED}", "${A}"),
        ] {
            assert_eq!(replace(text), Ok(Some(expected.into())), "{text}");
        }
        for text in ["", "$A", "{A}", "cost: 5$", "$"] {
            assert_eq!(replace(text), Ok(None), "{text}");
        }
        for text in ["${B}", "${", "${A", "${}", "${1A}", "${A B}", "${A:?x}"] {
            assert!(replace(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rivven_topics() {
        for topic in ["a", "0", "iot-events.dlq", "A_b"] {
            assert!(is_legal_topic(topic), "{topic}");
        }
        for topic in ["", ".a", "-a", "a..b", "a/b", "a b", "ä"] {
            assert!(!is_legal_topic(topic), "{topic}");
        }
        assert!(is_legal_topic(&"x".repeat(249)) && !is_legal_topic(&"x".repeat(250)));
    }
}
