//! What topic names and topic filters may look like (MQTT 3.1.1 section 4.7, MQTT 5.0 sections 4.7 and 4.8.2).

/// Greatest length of a topic name or filter in bytes (MQTT 3.1.1 section 1.5.3).
const MAX_LENGTH: usize = 65_535;

/// Whether `filter` may be subscribed to, `$share/GROUP/FILTER` included.
///
/// # Errors
/// What is wrong, for a person, to be appended to the name of the key.
pub fn validate_filter(filter: &str) -> Result<(), String> {
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
///
/// # Errors
/// What is wrong, for a person, to be appended to the name of the key.
pub fn validate_topic_name(topic: &str) -> Result<(), String> {
    length_and_characters(topic, "topic name")?;
    match topic.chars().find(|c| matches!(c, '+' | '#')) {
        Some(wildcard) => Err(format!("a topic name has no wildcards, this one has {wildcard}")),
        None => Ok(()),
    }
}

fn length_and_characters(name: &str, what: &str) -> Result<(), String> {
    if name.is_empty() {
        Err(format!("a {what} is not empty"))
    } else if name.len() > MAX_LENGTH {
        Err(format!("a {what} has at most {MAX_LENGTH} bytes, this one {}", name.len()))
    } else if name.contains('\0') {
        Err(format!("a {what} has no NUL character"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in [
            "a",
            "/",
            "#",
            "+",
            "a/+/b",
            "+/+",
            "a/#",
            "/+/#",
            "$SYS/#",
            "$share/g/#",
            "$share/g//a",
            "$share",
            "ä/+",
        ] {
            assert_eq!(validate_filter(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a/#/b",
            "a#",
            "#a",
            "a+",
            "a/+b",
            "++",
            "a\0",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
        ] {
            assert!(validate_filter(bad).is_err(), "{bad}");
        }
        assert!(validate_filter(&"x".repeat(65_535)).is_ok());
        assert!(validate_filter(&"x".repeat(65_536)).is_err());
    }

    #[test]
    fn topic_names() {
        for good in ["a", "/", "a/b", "$SYS/x", "ä"] {
            assert_eq!(validate_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a/+", "#", "a+b", "a\0b"] {
            assert!(validate_topic_name(bad).is_err(), "{bad}");
        }
    }
}
