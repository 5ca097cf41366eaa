//! No secret is ever shown: not when all is well, not when something fails, in no output of any command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use rivven_integration_tests::broker::{Broker, PASSWORD, USERNAME};
use rivven_integration_tests::client::{Client, Message};
use rivven_integration_tests::config;
use rivven_integration_tests::guests;
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::net::free_port;
use rivven_integration_tests::rivven::Rivven;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);
const WRONG_PASSWORD: &str = "mqtt-hunter2";
const RIVVEN_PASSWORD: &str = "rivven-hunter2";
const PLUGIN_TOKEN: &str = "plugin-hunter2";
const URL_PASSWORD: &str = "url-hunter2";
const SECRETS: [&str; 5] = [PASSWORD, WRONG_PASSWORD, RIVVEN_PASSWORD, PLUGIN_TOKEN, URL_PASSWORD];

/// Fails when `text` has a secret, also as a part of JSON or of a URL.
fn search(what: &str, text: &str) {
    for secret in SECRETS {
        for form in [secret.to_owned(), secret.replace(' ', "%20"), secret.replace(' ', "+")] {
            assert!(!text.contains(&form), "{what} shows {secret}:\n{text}");
        }
    }
}

/// All that a host has said so far, over HTTP and in its streams.
async fn search_host(what: &str, host: &Host) {
    for path in ["/metrics", "/status", "/ready", "/", "/health"] {
        search(&format!("{what}: {path}"), &host.get(path).await.unwrap().body);
    }
    search_streams(what, host);
}

fn search_streams(what: &str, host: &Host) {
    search(&format!("{what}: stderr"), &host.log());
    search(&format!("{what}: stdout"), &host.stdout());
}

/// Runs a command that ends by itself; its output, searched.
async fn command(arguments: &[&str], folder: &Path) -> (Option<i32>, String) {
    let output = host::run(arguments, folder).await.unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).join("\n");
    search(&format!("{arguments:?}"), &text);
    (output.status.code(), text)
}

/// Every command that reads a configuration, in every form of its output.
async fn commands(config: &Value, options: &[&str]) -> Vec<Option<i32>> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("iot.yaml"), config.to_string()).unwrap();
    let mut codes = Vec::new();
    for name in [&["check"][..], &["check", "--json"]] {
        codes.push(command(&[name, &["-c", "iot.yaml"], options].concat(), folder.path()).await.0);
    }
    codes.push(command(&["discover", "-c", "iot.yaml"], folder.path()).await.0);
    codes
}

/// A source that logs in, with a plugin whose `config` has something that is nobody's business.
fn source(url: &str, password: &str) -> Value {
    let mut source = config::source(url, &["a/#"]);
    source["config"]["auth"] = json!({ "username": USERNAME, "password": password });
    config::plugin(
        &mut source,
        &guests::example("filter").unwrap(),
        json!({ "threshold": 10, "field": PLUGIN_TOKEN }),
    );
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_works_shows_no_secret() {
    let broker = Broker::setup().password().start().await.unwrap();
    let config = config::without_rivven(source(&broker.url(), PASSWORD));
    for format in ["text", "json"] {
        let options = ["--sink", "stdout", "--log-format", format, "--log-level", "debug"];
        let mut host = Host::start_with(&config, &options).unwrap();
        host.ready().await.unwrap();
        let mut client = Client::login(broker.port(), "publisher").await.unwrap();
        client
            .publish(
                QoS::AtLeastOnce,
                [Message::new("a/1", r#"{"value":11}"#), Message::new("a/2", "nonsense")],
            )
            .await
            .unwrap();
        host.wait_for_ledger("both are settled", TIMEOUT, |ledger| {
            ledger.received == 2 && ledger.in_flight == 0
        })
        .await
        .unwrap();
        search_host(format, &host).await;
        assert_eq!(host.terminate().await.unwrap().code(), Some(0));
        search_streams(format, &host);
        assert!(host.log().contains("DEBUG"), "{}", host.log());
    }
    assert_eq!(commands(&config, &["--sink", "discard"]).await, [Some(0); 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_refused_everywhere_shows_no_secret() {
    let broker = Broker::setup().password().start().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let mut config = config::with_source(&rivven, source(&broker.url(), WRONG_PASSWORD));
    config["broker"]["auth"] = json!({ "username": "me", "password": RIVVEN_PASSWORD });
    for format in ["text", "json"] {
        let mut host = Host::start_with(&config, &["--log-format", format, "--log-level", "debug"]).unwrap();
        let reason = host.not_ready("refused the login").await.unwrap();
        search(format, &reason);
        host.not_ready("sink: ").await.unwrap();
        search_host(format, &host).await;
        host.terminate().await.unwrap();
        search_streams(format, &host);
    }
    assert_eq!(commands(&config, &[]).await, [Some(1), Some(1), Some(0)]);

    // Nothing listens anywhere.
    config["sources"]["iot"]["config"]["broker_url"] =
        format!("mqtt://127.0.0.1:{}", free_port().unwrap()).into();
    config["sources"]["iot"]["config"]["max_reconnect_attempts"] = 2.into();
    config["broker"]["bootstrap_servers"] = json!([format!("127.0.0.1:{}", free_port().unwrap())]);
    let mut host = Host::start_with(&config, &["--log-level", "debug"]).unwrap();
    assert_eq!(host.ended().await.unwrap().code(), Some(1));
    search_streams("gave up", &host);
    assert!(host.log().contains("gave up"), "{}", host.log());
    assert_eq!(commands(&config, &[]).await, [Some(1), Some(1), Some(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_wrong_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let good = || source("mqtt://127.0.0.1:1", WRONG_PASSWORD);
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut source = good();
        change(&mut source);
        config::without_rivven(source)
    };
    let url = format!("mqtt://me:{URL_PASSWORD}@127.0.0.1:1");
    let token = json!({ "threshold": 10, "field": [PLUGIN_TOKEN, {}] });
    let files = [
        wrong(&|source| source["config"]["broker_url"] = url.clone().into()),
        wrong(&|source| source["config"]["broker_url"] = format!("http://{URL_PASSWORD}").into()),
        wrong(&|source| source["config"]["broker_url"] = format!("ws://h/?token={URL_PASSWORD}").into()),
        wrong(&|source| source["config"]["auth"]["password"] = json!([WRONG_PASSWORD])),
        wrong(&|source| source["config"]["auth"] = WRONG_PASSWORD.into()),
        wrong(&|source| source["config"]["auth"]["passwort"] = WRONG_PASSWORD.into()),
        wrong(&|source| {
            source["plugin"]["config"] = token.clone();
            source["plugin"]["workers"] = 0.into();
        }),
    ];
    for file in &files {
        fs::write(folder.path().join("iot.yaml"), file.to_string()).unwrap();
        for name in [
            &["run", "--sink", "discard"][..],
            &["check", "--sink", "discard"],
            &["check", "--json"],
            &["discover"],
        ] {
            let (code, text) = command(&[name, &["-c", "iot.yaml"]].concat(), folder.path()).await;
            assert_eq!(code, Some(2), "{name:?}: {text}\n{file}");
            assert!(text.contains("iot.yaml:1:"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_configuration_shows_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config::without_rivven(source("mqtt://127.0.0.1:1", WRONG_PASSWORD));
    let auth = json!({ "username": "me", "password": RIVVEN_PASSWORD });
    config["broker"] = json!({ "bootstrap_servers": ["127.0.0.1:1"], "auth": auth });
    let file = folder.path().join("iot.yaml");
    fs::write(&file, config.to_string()).unwrap();
    let config = rivven_mqtt::config::load(&file, true).unwrap();
    for text in [format!("{config:?}"), format!("{config:#?}"), format!("{:?}", config.risks())] {
        search("Debug", &text);
    }
    let (code, schema) = command(&["schema"], folder.path()).await;
    assert_eq!(code, Some(0));
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema, rivven_mqtt::config::schema());
}

/// The plugin says what it got instead of a number; where that came from a variable it is not shown.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_plugin_shows_no_variable() {
    let filter = guests::example("filter").unwrap();
    for (threshold, shown) in [("${TOKEN}", "***"), ("Bearer ${TOKEN}", "Bearer ***"), ("x", "x")] {
        let mut source = config::source("mqtt://127.0.0.1:1", &["a"]);
        config::plugin(&mut source, &filter, json!({ "threshold": threshold }));
        let mut config = config::without_rivven(source);
        config["broker"]["bootstrap_servers"] = json!(["127.0.0.1:1"]);
        let text = config.to_string();
        let mut host = Host::start_verbatim(&[("TOKEN", PLUGIN_TOKEN)], |_| Ok(text)).unwrap();
        assert_ne!(host.ended().await.unwrap().code(), Some(0));
        search_streams(threshold, &host);
        let said = format!("invalid type: string \"{shown}\", expected f64");
        assert!(host.log().contains(&said), "{said} is not in: {}", host.log());
    }
}
