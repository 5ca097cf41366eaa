//! Templates over the MQTT topic, and the mapping of MQTT topics to legal Rivven topics.

use std::borrow::Cow;
use std::fmt::Write;

use crate::config::{Template, TemplatePart};

/// Greatest length of a topic name, in bytes.
pub const MAX_TOPIC: usize = 249;

/// Goes in front of a mapped topic that does not start with a letter or a digit, such as that of `/a/b` or `$SYS/load`.
const PREFIX: &str = "mqtt";

/// Whether Rivven takes `topic` as a topic name: 1 to 249 of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, a letter or digit first, no
/// `..`.
pub fn is_legal_topic(topic: &str) -> bool {
    topic.len() <= MAX_TOPIC
        && topic.starts_with(|c: char| c.is_ascii_alphanumeric())
        && topic.bytes().all(is_legal)
        && !topic.contains("..")
}

fn is_legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl Template {
    /// Reads a template: `{topic}` is the whole MQTT topic, `{topic[1]}` its second level; `{{` and `}}` are braces.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong, without the text itself.
    pub fn parse(text: &str) -> Result<Template, String> {
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
            parts.push(part(&after[..end])?);
            rest = &after[end + 1..];
        }
        fixed.push_str(rest);
        if !fixed.is_empty() {
            parts.push(TemplatePart::Text(fixed));
        }
        Ok(Template(parts))
    }

    /// The text, where nothing depends on the MQTT topic.
    pub fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [TemplatePart::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The template filled with the MQTT topic `topic`.
    pub fn render<'a>(&'a self, topic: &'a str) -> Cow<'a, str> {
        match self.0.as_slice() {
            [] => Cow::Borrowed(""),
            [one] => Cow::Borrowed(fill(one, topic)),
            parts => Cow::Owned(parts.iter().map(|part| fill(part, topic)).collect()),
        }
    }

    /// The template filled with the MQTT topic `topic`, as a legal Rivven topic: `/` becomes `.`, any other illegal character
    /// `_`, the second of two dots `_`; `mqtt` goes in front where there is no letter or digit, and what is over 249
    /// characters is cut. Different MQTT topics may become one Rivven topic.
    pub fn rivven_topic<'a>(&'a self, topic: &'a str) -> Cow<'a, str> {
        if let Some(fixed) = self.fixed() {
            return Cow::Borrowed(fixed);
        }
        let rendered = self.render(topic);
        if is_legal_topic(&rendered) {
            return rendered;
        }
        let mut legal = String::with_capacity(rendered.len().min(MAX_TOPIC) + PREFIX.len());
        if !rendered.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            legal.push_str(PREFIX);
        }
        for c in rendered.chars() {
            if legal.len() >= MAX_TOPIC {
                break;
            }
            legal.push(match c {
                '/' | '.' if legal.ends_with('.') => '_',
                '/' => '.',
                c if c.is_ascii() && is_legal(c as u8) => c,
                _ => '_',
            });
        }
        Cow::Owned(legal)
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.0 {
            match part {
                TemplatePart::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                TemplatePart::Topic => f.write_str("{topic}")?,
                TemplatePart::Level(level) => write!(f, "{{topic[{level}]}}")?,
            }
        }
        f.write_str("")
    }
}

fn part(name: &str) -> Result<TemplatePart, String> {
    if name == "topic" {
        return Ok(TemplatePart::Topic);
    }
    let level = name.strip_prefix("topic[").and_then(|rest| rest.strip_suffix(']'));
    match level.and_then(|level| level.parse().ok()) {
        Some(level) => Ok(TemplatePart::Level(level)),
        None => {
            let mut wrong = String::from("`{");
            let _ =
                write!(wrong, "{name}}}` is no part of a template (expected `{{topic}}` or `{{topic[0]}}`)");
            Err(wrong)
        }
    }
}

fn fill<'a>(part: &'a TemplatePart, topic: &'a str) -> &'a str {
    match part {
        TemplatePart::Text(text) => text,
        TemplatePart::Topic => topic,
        TemplatePart::Level(level) => topic.split('/').nth(*level).unwrap_or_default(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn templates_are_filled() {
        for (text, filled) in [
            ("{topic}", "a/b/c"),
            ("{topic[0]}", "a"),
            ("{topic[2]}", "c"),
            ("{topic[3]}", ""),
            ("fixed", "fixed"),
            ("", ""),
            ("x-{topic[1]}.{topic}", "x-b.a/b/c"),
            ("{{{topic[0]}}}", "{a}"),
        ] {
            assert_eq!(template(text).render("a/b/c"), filled, "{text}");
            assert_eq!(template(text).to_string(), text);
        }
    }

    #[test]
    fn wrong_templates_say_why() {
        for (text, why) in [
            ("a{b", "`{` without `}`"),
            ("a}b", "`}` without `{`"),
            ("{payload}", "`{payload}` is no part"),
            ("{topic[x]}", "`{topic[x]}` is no part"),
            ("{topic[-1]}", "`{topic[-1]}` is no part"),
            ("{}", "`{}` is no part"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }

    #[test]
    fn mqtt_topics_become_legal() {
        let long = "x".repeat(300);
        for (topic, legal) in [
            ("sensors/room 1/temp", "sensors.room_1.temp"),
            ("a//b", "a._b"),
            ("a/./b", "a._.b"),
            ("/a", "mqtt.a"),
            ("$SYS/load", "mqtt_SYS.load"),
            ("gerät/ü", "ger_t._"),
            ("", "mqtt"),
            (&long, &long[..249]),
            ("plain-1_x.y", "plain-1_x.y"),
        ] {
            assert_eq!(template("{topic}").rivven_topic(topic), legal, "{topic}");
        }
        assert_eq!(template("iot.{topic[0]}").rivven_topic("/a"), "iot.");
        assert_eq!(template("iot-events").rivven_topic("/a"), "iot-events");
    }

    proptest! {
        #[test]
        fn every_mqtt_topic_becomes_legal(topic in any::<String>(), text in "[a-z./{]{0,3}") {
            let text = format!("{}{{topic}}", text.replace('{', "{{"));
            let template = template(&text);
            prop_assert!(is_legal_topic(&template.rivven_topic(&topic)));
        }
    }
}
