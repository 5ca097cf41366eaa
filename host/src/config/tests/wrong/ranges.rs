//! Every key with a range, a choice or a type of its own, just outside of it.

use serde_json::{Value, json};

use super::super::*;

/// Values just outside of what `kind` allows, as JSON.
fn outside(kind: Kind) -> Vec<Value> {
    match kind {
        Kind::Integer(min, max) => {
            let below = min.checked_sub(1).map_or(json!(-1), |below| json!(below));
            vec![below, json!(max + 1), json!(min as f64 + 0.5), json!(min.to_string()), json!([min])]
        }
        Kind::Number(min, max) => {
            vec![json!(min - 0.01), json!(max + 0.01), json!(min.to_string()), json!(true)]
        }
        Kind::Flag => vec![json!(1), json!("true"), json!("yes"), json!([true])],
        Kind::Choice(_) => vec![json!("no_such_choice"), json!(-1), json!(true)],
        Kind::Text | Kind::Path => Vec::new(),
        Kind::Texts => vec![json!("text"), json!(1)],
        Kind::Section(_) | Kind::Sections(_) => vec![json!("text"), json!(["text"]), json!(1)],
        Kind::SectionOrList(_) => vec![json!("text"), json!(1)],
        Kind::Anything | Kind::Refused(_) => Vec::new(),
    }
}

/// The message of each says what is there and what the table allows, at just that key.
#[test]
fn every_key_keeps_to_its_range() {
    let mut seen = 0;
    walk(keys::ROOT, &[], &mut |path, key| {
        for value in outside(key.kind) {
            seen += 1;
            let is = match &value {
                Value::String(text) => format!("the text `{text}`"),
                Value::Array(_) => "a list".into(),
                value => format!("`{value}`"),
            };
            // What is written for `auth` may be a secret, so it is not shown.
            let is = if path.contains(&"auth") && !value.is_array() { "text".into() } else { is };
            let expected = format!(": {}: is {is} (expected {}", path.join("."), key.kind.expected());
            let file = with(path, value).to_string();
            let problems = load_for(&file, false).unwrap_err();
            let found = problems.iter().filter(|problem| problem.contains(&expected)).count();
            assert_eq!(found, 1, "{expected} in {problems:?}");
        }
    });
    assert!(seen > 150, "{seen}");
}
