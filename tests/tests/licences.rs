//! The licences of all dependencies are those that `.ci/deny.toml` allows. `cargo deny` looks at the same list, and at more,
//! where it can be installed; this runs everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rivven_integration_tests::markdown::root;

/// Packages with their versions, and licences, of the selected part of the dependencies.
fn packages(selection: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}\t{l}"])
        .args(selection)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // The tree of each member is followed by an empty line.
    let lines = text.lines().filter(|line| !line.is_empty());
    let lines = lines.map(|line| line.trim_end_matches(" (*)").split_once('\t').unwrap());
    lines.map(|(package, licence)| (package.to_owned(), licence.to_owned())).collect()
}

/// Without its version.
fn name(package: &str) -> &str {
    package.split(' ').next().unwrap()
}

/// The texts in quotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

/// Whether an SPDX expression can be satisfied: `OR` has one that is, `AND` only such; `OR` binds weaker. An old `/` is `OR`.
fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut rest = &words[..];
    let result = either(&mut rest, allowed);
    assert!(rest.is_empty(), "no SPDX expression: {expression}");
    result
}

fn either(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut result = both(words, allowed);
    while let [first, rest @ ..] = *words
        && first.eq_ignore_ascii_case("or")
    {
        *words = rest;
        result |= both(words, allowed);
    }
    result
}

fn both(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    let mut result = one(words, allowed);
    while let [first, rest @ ..] = *words
        && first.eq_ignore_ascii_case("and")
    {
        *words = rest;
        result &= one(words, allowed);
    }
    result
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
    match **words {
        ["(", ref rest @ ..] => {
            *words = rest;
            let result = either(words, allowed);
            *words = words.strip_prefix(&[")"]).expect("a closing parenthesis");
            result
        }
        [licence, with, exception, ref rest @ ..] if with.eq_ignore_ascii_case("with") => {
            *words = rest;
            allowed(&format!("{licence} WITH {exception}"))
        }
        [licence, ref rest @ ..] => {
            *words = rest;
            allowed(licence)
        }
        [] => panic!("an expression that ends too early"),
    }
}

#[test]
fn expressions_are_understood() {
    let allowed = |licence: &str| ["A", "B WITH C", "D"].contains(&licence);
    for (expression, expected) in [
        ("A", true),
        ("X", false),
        ("X OR A", true),
        ("X/A", true),
        ("A AND X", false),
        ("A AND D", true),
        ("B WITH C", true),
        ("B", false),
        ("X OR A AND X", false),
        ("(X OR A) AND D", true),
        ("(X OR A) AND (X OR B)", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn every_licence_is_allowed_and_what_is_shipped_needs_no_exception() {
    let deny = fs::read_to_string(root().join(".ci/deny.toml")).unwrap();
    let list = |name: &str| {
        let (_, after) = deny.split_once(&format!("\n{name} = [")).unwrap();
        after.split_once("\n]").unwrap().0
    };
    let allow = quoted(list("allow"));
    let exceptions: BTreeMap<&str, Vec<&str>> = list("exceptions")
        .lines()
        .filter(|line| line.contains("crate = "))
        .map(|line| {
            let all = quoted(line);
            (all[0], all[1..].to_vec())
        })
        .collect();
    assert!(allow.len() > 5 && !exceptions.is_empty(), "{allow:?} {exceptions:?}");

    let all = packages(&["--workspace", "--edges", "normal,build,dev"]);
    assert!(all.len() > 300, "{}", all.len());
    let mut needed = Vec::new();
    for (package, licence) in &all {
        if satisfied(licence, &|licence| allow.contains(&licence)) {
            continue;
        }
        let exception = exceptions.get(name(package)).map(Vec::as_slice).unwrap_or_default();
        let either = |licence: &str| allow.contains(&licence) || exception.contains(&licence);
        assert!(satisfied(licence, &either), "{package} has the licence {licence:?}: see .ci/deny.toml");
        needed.push(name(package));
    }
    assert_eq!(needed, exceptions.keys().copied().collect::<Vec<_>>(), "exceptions that nothing needs");

    let shipped = packages(&["--package", "rivven-mqtt", "--edges", "normal,build"]);
    assert!(shipped.len() > 150 && shipped.keys().any(|package| name(package) == "wasmtime"));
    let excepted: Vec<_> = shipped.keys().filter(|package| exceptions.contains_key(name(package))).collect();
    assert!(excepted.is_empty(), "shipped under an exception: {excepted:?}");
}
