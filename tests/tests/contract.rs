//! The contract stays what it was when it was released: components that were built against it run for ever, and its types do
//! not change. `tests/fixtures/connect-0.1.0` is what was released, with components of the day; neither is ever made anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rivven_integration_tests::host;
use rivven_integration_tests::markdown::root;
use serde_json::Value;

fn released() -> PathBuf {
    root().join("tests/fixtures/connect-0.1.0")
}

#[tokio::test(flavor = "multi_thread")]
async fn components_built_against_the_release_run() {
    for (component, world, messages, config) in [
        ("filter", "plugin", "messages.jsonl", r#"{"threshold": 20}"#),
        ("probe", "plugin", "messages.jsonl", "null"),
        ("aggregate", "aggregating-plugin", "numbers.jsonl", r#"{"topic": "by-second"}"#),
    ] {
        let file = format!("{component}.wasm");
        let inspected = host::run(&["plugin", "inspect", "--json", &file], &released()).await.unwrap();
        let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
        assert_eq!(
            (inspected["world"].as_str(), inspected["contract"].as_str()),
            (Some(world), Some("0.1.0"))
        );
        let golden = format!("{component}.golden.jsonl");
        let arguments =
            ["plugin", "test", &file, "--input", messages, "--expect", &golden, "--config", config];
        let output = host::run(&arguments, &released()).await.unwrap();
        let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert_eq!(output.status.code(), Some(0), "{component}: {out}{error}");
        assert!(out.starts_with("ok: ") && !out.starts_with("ok: 0"), "{component}: {out}");
    }
}

/// What each block of a WIT file has, by the path of the block; comments and spaces aside.
fn blocks(wit: &str) -> BTreeMap<String, Vec<String>> {
    let code: Vec<_> = wit.lines().map(|line| line.split("//").next().unwrap()).collect();
    let code = code.join(" ");
    let (mut path, mut statement) = (Vec::new(), String::new());
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // In `use source.{batch, column};` the braces enclose a list of names.
    let mut in_use = false;
    for c in code.chars() {
        let said = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        match c {
            '{' if statement.ends_with('.') => {
                in_use = true;
                statement.push(c);
            }
            '}' if in_use => {
                in_use = false;
                statement.push(c);
            }
            '{' => {
                blocks.entry(path.join("/")).or_default().push(said.clone());
                path.push(said);
                blocks.entry(path.join("/")).or_default();
                statement.clear();
            }
            ';' | '}' => {
                if !said.is_empty() {
                    blocks.entry(path.join("/")).or_default().push(said);
                }
                statement.clear();
                if c == '}' {
                    path.pop();
                }
            }
            ',' if !in_use && !is_open(&statement) => {
                blocks.entry(path.join("/")).or_default().push(said);
                statement.clear();
            }
            c => statement.push(c),
        }
    }
    blocks
}

/// Whether a comma is one between parameters, and not the end of a field.
fn is_open(statement: &str) -> bool {
    let types = statement.replace("->", "");
    types.matches(['<', '(']).count() > types.matches(['>', ')']).count()
}

/// What of `old` is not in `new`, or may not be there in addition.
fn broken(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (blocks(old), blocks(new));
    let mut broken = Vec::new();
    for (path, before) in &old {
        let empty = Vec::new();
        let now = new.get(path).unwrap_or(&empty);
        // The host may offer more functions, types and interfaces; all else has to stay as it is.
        let last = path.rsplit('/').next().unwrap();
        let by_the_host = ["interface source", "interface log", "interface metrics", "interface state"];
        let grows = path.is_empty()
            || by_the_host.contains(&path.as_str())
            || last.starts_with("resource ")
            || last.starts_with("world ");
        let same = if grows { before.iter().all(|line| now.contains(line)) } else { before == now };
        if !same {
            broken.push(format!("{path}: {before:?} has become {now:?}"));
        }
        if last.starts_with("world ") {
            let exports = |lines: &[String]| lines.iter().filter(|line| line.starts_with("export ")).count();
            if exports(before) != exports(now) {
                broken.push(format!("{path} exports something else"));
            }
        }
    }
    broken
}

#[test]
fn the_types_of_the_release_stay_as_they_are() {
    let old = fs::read_to_string(released().join("connect.wit")).unwrap();
    let new = fs::read_to_string(root().join("wit/connect.wit")).unwrap();
    let broken = broken(&old, &new);
    assert!(broken.is_empty(), "components of 0.1.0 would not run any more:\n{}", broken.join("\n"));
}

#[test]
fn what_breaks_components_is_noticed_and_what_does_not_is_not() {
    let wit = fs::read_to_string(released().join("connect.wit")).unwrap();
    assert_eq!(broken(&wit, &wit), [""; 0]);
    assert!(blocks(&wit).len() > 20, "{:#?}", blocks(&wit));
    let change = |from: &str, to: &str| {
        assert!(wit.contains(from), "{from}");
        broken(&wit, &wit.replacen(from, to, 1)).len()
    };
    for (from, to) in [
        ("    retain: bool,", "    retain: bool,\n    stored: bool,"),
        ("    at-most-once,", "    never,\n    at-most-once,"),
        ("received-at: u64,", "received-at: s64,"),
        ("topics: func() -> column;", "topics: func() -> list<string>;"),
        ("reasons: list<tuple<u32, string>>,", "reasons: list<string>,"),
        ("init: func(config: string)", "init: func(config: list<u8>)"),
        ("  flush: func() -> outputs;", "  flush: func() -> outputs;\n  reset: func();"),
        ("  export aggregate;", "  export aggregate;\n  export reload;"),
        ("  delete: func(key: string);", ""),
        ("rivven:connect@0.1.0", "rivven:connect@0.2.0"),
    ] {
        assert!(change(from, to) > 0, "nobody notices {to}");
    }
    for (from, to) in [
        ("/// MQTT quality of service.", "/// Quality of service."),
        ("  delete: func(key: string);", "  delete: func(key: string);\n  count: func() -> u64;"),
        ("    len: func() -> u32;", "    len: func() -> u32;\n    bytes: func() -> u64;"),
        ("  import state;", "  import state;\n  import secrets;"),
    ] {
        assert_eq!(change(from, to), 0, "{to}");
    }
}
