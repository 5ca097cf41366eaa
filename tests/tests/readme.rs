//! The README is true: its commands run, its configurations (and those of the other pages) load, and its first example does
//! what it says.
//!
//! How it is followed is told in `markdown.rs`; the commands of [`CI`] and [`REHEARSED`] are run elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::certs::Certificates;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::guests;
use rivven_integration_tests::markdown::{self, Block, PAGES, root};
use rivven_integration_tests::rivven::Rivven;
use rumqttc::QoS;
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Commands that `.ci/run` executes as they are.
const CI: [&str; 4] = ["make build", "make demo", "make test", "make lint"];
/// Commands that need servers on fixed ports or take long: their parts are tested.
const REHEARSED: [&str; 2] = ["make run CONFIG=config.yaml", "make bench"];

fn blocks() -> Vec<Block> {
    markdown::blocks("README.md").unwrap()
}

/// Gives a configuration the files and variables that it names.
fn provide(folder: &Path, config: &str) -> String {
    let certificates = Certificates::generate().unwrap();
    let words = config.split(|c: char| c.is_whitespace() || "\"',{}[]".contains(c));
    for word in words.filter(|word| !word.contains('$')) {
        let path = folder.join(word.trim_start_matches('/'));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wasm") => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::copy(guests::example("filter").unwrap(), path).unwrap();
            }
            Some(extension @ ("pem" | "key" | "crt")) => {
                let is_key = extension == "key" || word.contains("key");
                let pem = if is_key { &certificates.client_key } else { &certificates.client };
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, pem).unwrap();
            }
            _ => {}
        }
    }
    // Absolute paths lead into the folder too, and variables have values.
    let local = config.replace(": /", &format!(": {}/", folder.display()));
    let mut parts = local.split("${");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('}').expect("a variable ends");
        text.push('x');
        text.push_str(rest);
    }
    text
}

#[test]
fn every_command_is_executed_here_or_by_ci() {
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for command in CI {
        assert!(ci.lines().any(|line| line == format!("step {command}")), ".ci/run does not run {command}");
    }
    let elsewhere = |line: &str| CI.contains(&line) || REHEARSED.contains(&line);
    let run = |line: &str| if elsewhere(line) { String::new() } else { line.to_owned() };
    let (_folder, printed) = markdown::follow(&blocks(), run).unwrap();
    // A record that the text shows is one that a command has printed.
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let shown = readme.split('`').filter(|code| code.starts_with("{\"topic\":\"") && code.ends_with('}'));
    for record in shown {
        assert!(printed.lines().any(|line| line == record), "no command prints {record}, but:\n{printed}");
    }
}

#[test]
fn make_run_is_the_program_that_it_is_said_to_be() {
    let output = std::process::Command::new("make")
        .args(["--no-print-directory", "-n", "run", "CONFIG=config.yaml"])
        .current_dir(root())
        // Perhaps a make runs us.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .unwrap();
    let plan = String::from_utf8(output.stdout).unwrap();
    let last = plan.lines().last().unwrap();
    assert!(last.ends_with("/debug/rivven-mqtt run -c \"config.yaml\""), "{plan}");
}

#[test]
fn every_configuration_loads() {
    let mut seen = 0;
    let pages = PAGES.iter().flat_map(|page| markdown::blocks(page).unwrap());
    for block in blocks().into_iter().chain(pages).filter(|block| block.language == "yaml") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        fs::write(&file, provide(folder.path(), &block.text)).unwrap();
        let is_whole =
            block.text.lines().any(|line| line.starts_with("sources:") || line.starts_with("type:"));
        assert!(is_whole, "a part of a configuration cannot be checked:\n{}", block.text);
        if let Err(error) = rivven_mqtt::config::load(&file, true) {
            panic!("{error}\n{}", block.text);
        }
        seen += 1;
    }
    assert!(seen > 4, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_configuration_does_what_it_says() {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut host = markdown::first_example(&broker, &rivven).await.unwrap();
    let messages =
        [29, 31].map(|n| Message::new(format!("sensors/{n}"), json!({ "temperature": n }).to_string()));
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    let done =
        |ledger: &rivven_integration_tests::http::Ledger| ledger.received == 2 && ledger.in_flight == 0;
    host.wait_for_ledger("both are settled", TIMEOUT, done).await.unwrap();
    let records = rivven.consume_all("iot-events").await.unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key_text(), "sensors/31");
    assert_eq!(records[0].json().unwrap()["payload"], json!({ "temperature": 31 }));
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}
