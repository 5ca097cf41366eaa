//! The state folder, and files with credentials.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::client::{Message, publish};
use rivven_integration_tests::config;
use rivven_integration_tests::guests;
use rivven_integration_tests::host::{self, Host};
use rivven_integration_tests::wait::wait_until;
use rumqttc::QoS;
use serde_json::json;

use crate::{TIMEOUT, persistent, with};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn run(arguments: &[&str], folder: &Path) -> (Option<i32>, String) {
    let output = host::run(arguments, folder).await.unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).join("\n");
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_with_the_same_state_folder_ends_and_tools_beside_it_work() {
    let broker = Broker::launch().await.unwrap();
    let transform = guests::example("transform").unwrap();
    let mut source = with(&broker.url(), persistent());
    config::plugin(&mut source, &transform, json!({ "topic": "celsius" }));
    let mut first =
        Host::start_with(&config::without_rivven(source.clone()), &["--sink", "file:out.jsonl"]).unwrap();
    first.ready().await.unwrap();
    publish(broker.port(), QoS::AtLeastOnce, [Message::new("a/1", "no JSON")]).await.unwrap();
    first.wait_for_ledger("it is a dead letter", TIMEOUT, |ledger| ledger.dead_lettered == 1).await.unwrap();
    let state = first.folder().join("state");
    assert_eq!(mode(&state), 0o700);

    // Another client, so that only the folder is the same.
    source["config"]["client_id"] = "other".into();
    let mut second = config::without_rivven(source);
    second["settings"]["state_dir"] = state.display().to_string().into();
    let mut second = Host::start_with(&second, &["--sink", "discard"]).unwrap();
    assert_eq!(second.ended().await.unwrap().code(), Some(1));
    let told =
        format!("the state folder {} is in use by another host (process {})", state.display(), first.id());
    assert!(second.log().contains(&told), "{told}\n{}", second.log());

    let folder = first.folder().to_owned();
    let place = ["-c", "config.yaml", "--from", "file:out.jsonl"];
    let (code, text) = run(&[&["dlq", "list"], &place[..]].concat(), &folder).await;
    assert_eq!((code, text.lines().count() > 0), (Some(0), true), "{text}");
    assert!(text.contains("a/1"), "{text}");
    let replay = [&["dlq", "replay"], &place[..], &["--sink", "file:again.jsonl"]].concat();
    let (code, text) = run(&replay, &folder).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&["check", "-c", "config.yaml", "--sink", "discard"], &folder).await;
    assert_eq!(code, Some(0), "{text}");
    fs::write(folder.join("in.jsonl"), "{\"topic\": \"a\", \"payload\": \"{}\"}\n").unwrap();
    let component = transform.display().to_string();
    let test = ["plugin", "test", &component, "--input", "in.jsonl", "--config", "{\"topic\": \"celsius\"}"];
    let (code, text) = run(&test, &folder).await;
    assert_eq!(code, Some(0), "{text}");
    first.ready().await.unwrap();

    // The lock goes with the process, however it ends.
    first.kill().await.unwrap();
    second.restart().unwrap();
    second.ready().await.unwrap();
    assert_eq!(second.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_keep_nothing_share_a_folder_and_make_none() {
    let broker = Broker::launch().await.unwrap();
    let mut config = config::without_rivven(with(&broker.url(), json!({})));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    config["settings"]["state_dir"] = state.display().to_string().into();
    let mut hosts = [0, 1].map(|_| Host::start_with(&config, &["--sink", "discard"]).unwrap());
    for host in &mut hosts {
        host.ready().await.unwrap();
    }
    assert!(!state.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_credentials_that_others_can_use_are_warned_of_by_run_and_by_check() {
    let certificates = rivven_integration_tests::certs::Certificates::generate().unwrap();
    let broker = Broker::setup().password().tls(&certificates).start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    for (name, text) in [
        ("ca.pem", &certificates.ca),
        ("client.pem", &certificates.client),
        ("client.key", &certificates.client_key),
    ] {
        fs::write(path(name), text).unwrap();
    }
    fs::create_dir(path("state")).unwrap();
    let tls = json!({ "ca_cert": path("ca.pem"), "client_cert": path("client.pem"), "client_key": path("client.key") });
    let mut keys = persistent();
    keys["auth"] = json!({ "username": "fleet", "password": "correct horse" });
    keys["tls"] = tls;
    let mut config = config::without_rivven(with(&broker.tls_url(), keys));
    config["settings"]["state_dir"] = path("state").into();
    let set = |modes: [u32; 3], config: &Path| {
        fs::set_permissions(path("client.key"), Permissions::from_mode(modes[0])).unwrap();
        fs::set_permissions(path("state"), Permissions::from_mode(modes[1])).unwrap();
        fs::set_permissions(config, Permissions::from_mode(modes[2])).unwrap();
    };
    let told = [
        ("config.tls.client_key", format!("chmod 600 {}", path("client.key"))),
        ("settings.state_dir", format!("chmod 700 {}", path("state"))),
        ("password", "chmod 600 config.yaml".to_owned()),
    ];
    let missing = |text: &str, mark: &str| {
        let has = |(key, what): &&(&str, String)| {
            text.lines().any(|line| line.contains(mark) && line.contains(key) && line.contains(what.as_str()))
        };
        told.iter().filter(|risk| !has(risk)).map(|(key, _)| *key).collect::<Vec<_>>()
    };

    // Whatever the modes are when it is started the first time.
    let mut host = Host::start_with(&config, &["--sink", "discard"]).unwrap();
    host.ready().await.unwrap();
    host.terminate().await.unwrap();
    let file = host.folder().join("config.yaml");
    for (modes, expected) in [
        ([0o640, 0o750, 0o604], &[][..]),
        ([0o600, 0o700, 0o600], &["config.tls.client_key", "settings.state_dir", "password"]),
    ] {
        set(modes, &file);
        let (code, text) = run(&["check", "-c", "config.yaml", "--sink", "discard"], host.folder()).await;
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(missing(&text, "! "), expected, "{modes:?}\n{text}");
        let before = host.log().len();
        host.restart().unwrap();
        wait_until("it is ready", TIMEOUT, async || {
            host.get("/ready").await.is_ok_and(|answer| answer.status == 200).then_some(())
        })
        .await
        .unwrap();
        let log = host.log();
        assert_eq!(missing(&log[before..], "WARN"), expected, "{modes:?}\n{log}");
        host.terminate().await.unwrap();
    }
}
