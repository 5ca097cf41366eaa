//! The pages of `host/docs` are true: their commands run, and the messages that they explain exist.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::host::program;
use rivven_integration_tests::markdown::{PAGES, blocks, first_example, root};
use rivven_integration_tests::rivven::Rivven;

/// Programs of others that a machine may not have.
const FOREIGN: [&str; 2] = ["nc ", "mosquitto_sub "];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_pages_runs() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut host = first_example(&broker, &rivven).await.unwrap();
    let bin = program("rivven-mqtt").unwrap().parent().unwrap().to_owned();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut seen = 0;
    for block in PAGES.iter().flat_map(|page| blocks(page).unwrap()).filter(|block| block.is_shell()) {
        let ours =
            |line: &&str| !line.starts_with('#') && !FOREIGN.iter().any(|program| line.starts_with(program));
        for command in block.text.lines().filter(ours) {
            let command = command.replace("127.0.0.1:9091", &format!("127.0.0.1:{}", host.http_port()));
            let run = tokio::process::Command::new("bash")
                .args(["-euo", "pipefail", "-c", &command])
                .current_dir(host.folder())
                .env("PATH", &path)
                .env_remove("RUST_LOG")
                .stdin(Stdio::null())
                .output();
            let output = run.await.unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command}\n{printed}\n{error}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen}");
    let schema = fs::read_to_string(host.folder().join("rivven-mqtt.schema.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&schema).unwrap(), rivven_mqtt::config::schema());
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

/// What the system and Rivven say, which is in no source of ours.
const OTHERS: [&str; 5] = [
    "Connection refused",
    "failed to lookup address information",
    "No such file or directory",
    "RATE_LIMIT_EXCEEDED",
    "Address already in use",
];

/// The Rust files below a folder, one after the other, with their strings as they are printed.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let mut lines = text.split("\\\n");
            all.push_str(lines.next().unwrap());
            lines.for_each(|line| all.push_str(line.trim_start()));
        }
    }
}

#[test]
fn every_message_that_is_explained_is_one_that_is_printed() {
    let mut sources_text = String::new();
    sources(&root().join("host/src"), &mut sources_text);
    let sources_text = sources_text.replace("\\\"", "\"").replace('`', "");
    let page = fs::read_to_string(root().join("host/docs/troubleshooting.md")).unwrap();
    let (_, errors) = page.split_once("## Errors").unwrap();
    let messages = errors
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(message, _)| message));
    let mut seen = 0;
    for message in messages {
        // A name or a number is where the page has `...`, and a reason of another part follows after a colon.
        let parts = message.replace("...", "\n").replace(": ", "\n").replace([';', ',', '(', ')', '?'], "\n");
        for part in parts.lines().map(str::trim).filter(|part| part.len() > 7 && !part.starts_with("code 0x"))
        {
            let known = OTHERS.iter().any(|other| part.starts_with(other));
            assert!(known || sources_text.contains(part), "{part:?} of {message:?} is in no source");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}
