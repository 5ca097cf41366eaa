//! Without the feature `mqtt` the crate is the plugin runtime and its tools. That it compiles is checked by `make lint`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The crates that the host is made of.
fn crates(features: &[&str]) -> BTreeSet<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "rivven-mqtt",
            "-e",
            "normal",
            "--prefix",
            "none",
            "-f",
            "{p}",
        ])
        .args(features)
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn without_mqtt_there_is_no_network_code() {
    let speaks = |name: &&String| {
        let families = [
            "rivven-",
            "rumqtt",
            "rustls",
            "tokio-",
            "axum",
            "hyper",
            "http",
            "tungstenite",
            "ring",
            "webpki",
        ];
        // Procedural macros, of no protocol.
        let harmless = ["rivven-mqtt", "tokio-macros"];
        families.iter().any(|family| name.starts_with(family)) && !harmless.contains(&name.as_str())
    };
    let with = crates(&[]);
    let network: Vec<_> = with.iter().filter(speaks).collect();
    for name in ["axum", "rivven-client", "rivven-protocol", "rumqttc", "rustls", "tokio-rustls"] {
        assert!(network.iter().any(|found| *found == name), "{name} is not in {network:?}");
    }
    let without = crates(&["--no-default-features"]);
    assert_eq!(without.iter().filter(speaks).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(without.contains("wasmtime"));
}
