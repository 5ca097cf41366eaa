//! Variables inside of configuration values.

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
}
