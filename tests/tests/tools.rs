//! The tools of a plugin's author: what is made by `plugin new` builds and tests with the commands that are printed, and the page
//! about plugins is true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::guests;
use rivven_integration_tests::host::{Host, target};
use rivven_integration_tests::jsonl::{self, Line};
use rivven_integration_tests::markdown::{self, root, shell};
use rivven_integration_tests::rivven::Rivven;
use rumqttc::QoS;
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Commands that CI runs.
const CI: [&str; 1] = ["make build"];

/// A command as it is run: what the new plugin in Rust compiles is kept for the next time, outside of its folder.
fn kept(line: &str) -> String {
    let target = target().unwrap().join("plugin-new");
    match line.strip_prefix("rivven-mqtt plugin new ") {
        Some(name) if !name.contains(' ') => {
            fs::create_dir_all(&target).unwrap();
            format!("unset CARGO_TARGET_DIR\n{line}\nln -s {} {name}/target", target.display())
        }
        _ => line.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_about_plugins_is_true() {
    let page = markdown::blocks("host/docs/plugins.md").unwrap();
    let run = |line: &str| if CI.contains(&line) { String::new() } else { kept(line) };
    let (folder, printed) = markdown::follow(&page, run).unwrap();
    // What `plugin new` prints is what the page says, and each `plugin test` is content.
    let commands: Vec<_> = page.iter().filter(|block| block.is_shell()).map(|block| &*block.text).collect();
    let commands = commands.concat();
    let told = printed.lines().filter(|line| line.starts_with("cd ") || line.contains("plugin test"));
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 4, "{printed}");
    assert!(told.iter().all(|line| commands.lines().any(|command| command == *line)), "{told:?}");
    assert_eq!(printed.lines().filter(|line| *line == "ok: 2 records, as expected").count(), 2, "{printed}");
    // The code is that of the templates.
    for (language, file) in [("rust", "my-filter/src/lib.rs"), ("python", "my-python-filter/plugin.py")] {
        let code = fs::read_to_string(folder.path().join(file)).unwrap();
        let mut shown = page.iter().filter(|block| block.language == language);
        assert!(shown.all(|block| code.contains(&block.text)), "the page shows other code than {file}");
    }
    // The configuration does what it says.
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let config = page.iter().find(|block| block.file() == Some("config.yaml")).unwrap();
    let text = config.text.replace("127.0.0.1:9092", &rivven.address());
    let text = text.replace("127.0.0.1:1883", &format!("127.0.0.1:{}", broker.port()));
    let text = text.replace("path: my-filter", &format!("path: {}/my-filter", folder.path().display()));
    let mut host = Host::start_text(&text, |_| Ok(())).unwrap();
    host.ready().await.unwrap();
    let messages = [19, 21].map(|n| Message::new("room/1", json!({ "celsius": n }).to_string()));
    publish(broker.port(), QoS::AtLeastOnce, messages).await.unwrap();
    let records = rivven.wait_for_records("rooms", 1, TIMEOUT).await.unwrap();
    assert_eq!(records.iter().map(|record| record.text()).collect::<Vec<_>>(), [r#"{"celsius":21}"#]);
    assert_eq!(host.terminate().await.unwrap().code(), Some(0));
}

#[test]
fn a_new_plugin_is_made_only_where_there_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = |arguments: &str| shell(&format!("rivven-mqtt plugin new {arguments}"), folder.path());
    made("one").unwrap();
    assert!(made("one").unwrap_err().to_string().contains("one is there already, and not empty"));
    made("deep/er/two --lang python").unwrap();
    assert!(made("'no name'").unwrap_err().to_string().contains("`no name` is no name for a plugin"));
    let said = made("three --sdk-path /nonexistent").unwrap_err().to_string();
    assert!(said.contains("/nonexistent is not the SDK"), "{said}");
    assert!(!folder.path().join("three").exists());
    // Both have the contract of this host.
    let contract = fs::read_to_string(root().join("wit/connect.wit")).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("deep/er/two/wit/connect.wit")).unwrap(), contract);
}

#[test]
fn the_python_example_keeps_state_emits_and_rejects() {
    let example = root().join("guest/examples/python-alerts");
    let python = guests::python("alerts").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let command = format!(
        "cd {}; rivven-mqtt plugin test {} --input messages.jsonl --config '{{\"limit\": 30, \"topic\": \"alerts\"}}' 2> {}/log",
        example.display(),
        python.display(),
        folder.path().display(),
    );
    // Compiling it takes a while, so there is no time-out.
    let lines = jsonl::parse(&shell(&command, folder.path()).unwrap()).unwrap();
    let error = fs::read_to_string(folder.path().join("log")).unwrap();
    let (letters, alerts): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.topic == "dead-letters");
    assert_eq!(
        alerts,
        [
            Line::new("alerts", "room/1", r#"{"reading":31.5,"side":"over","qos":1}"#),
            Line::new("alerts", "room/2", r#"{"reading":40.0,"side":"over","qos":2}"#),
            Line::new("alerts", "room/1", r#"{"reading":-1.0,"side":"under","qos":1}"#),
        ]
    );
    let reasons: Vec<_> = letters.iter().map(|letter| letter.json().unwrap()["reason"].clone()).collect();
    assert_eq!(reasons[0], "ValueError: could not convert string to float: 'warm'");
    assert!(reasons[1].as_str().unwrap().starts_with("UnicodeDecodeError: "), "{reasons:?}");
    assert!(error.contains("room/1 is over 30.0: 31.5"), "{error}");
    // Its own tests, without a sandbox.
    shell(&format!("PYTHONPATH={} python3 -m unittest", root().join("guest/python").display()), &example)
        .unwrap();
}
