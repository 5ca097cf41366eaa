//! The rules for Prometheus and the tables of the pages are about metrics that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use rivven_integration_tests::broker::Broker;
use rivven_integration_tests::markdown::{first_example, root};
use rivven_integration_tests::rivven::Rivven;

const PREFIX: &str = "rivven_mqtt_";

/// A page of `/metrics` of a host that has everything: a plugin, Rivven.
async fn page() -> String {
    let broker = Broker::launch().await.unwrap();
    let rivven = Rivven::launch().await.unwrap();
    let host = first_example(&broker, &rivven).await.unwrap();
    host.get("/metrics").await.unwrap().body
}

/// Name after the prefix, and type, of each family of a page.
fn families(page: &str) -> BTreeMap<&str, &str> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_prefix(PREFIX));
    types.map(|line| line.split_once(' ').unwrap()).collect()
}

/// The words of a text that start with the prefix, without it.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter_map(|word| word.strip_prefix(PREFIX)).filter(|name| !name.is_empty()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The first cells of the rows of the tables of a page, without their quotes, and the second cells.
fn rows(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(first, rest)| (first, rest.split(" | ").next().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_rules_and_of_the_pages_is_there_and_the_table_has_all() {
    let page = page().await;
    let families = families(&page);
    assert!(families.len() > 40, "{families:?}");
    for path in [
        "host/docs/alerts.yaml",
        "host/docs/alerts.md",
        "host/docs/operating.md",
        "host/docs/troubleshooting.md",
    ] {
        let text = read(path);
        let unknown: Vec<_> = names(&text).into_iter().filter(|name| !families.contains_key(name)).collect();
        assert!(unknown.is_empty(), "{path} names what is not in /metrics: {unknown:?}");
    }
    let operating = read("host/docs/operating.md");
    let table = operating.split_once("## Metrics").unwrap().1.split_once("\n## ").unwrap().0;
    let documented: BTreeMap<_, _> =
        rows(table).map(|(name, kind)| (name, kind.split(',').next().unwrap())).collect();
    assert_eq!(documented, families, "left: the table of operating.md, right: /metrics");

    // So are the values of labels.
    let rules = read("host/docs/alerts.yaml");
    let mut seen = 0;
    for (label, values) in rules.split("{").filter_map(|part| part.split_once("=~\"")) {
        for value in values.split('"').next().unwrap().split('|') {
            assert!(page.contains(&format!("{label}=\"{value}\"")), "no {label}=\"{value}\" in\n{page}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
    let reasons = table.lines().find(|line| line.contains("`source_reconnects_total`")).unwrap();
    for series in page.lines().filter(|line| line.starts_with("rivven_mqtt_source_reconnects_total")) {
        let reason = series.split_once("reason=\"").unwrap().1.split('"').next().unwrap();
        assert!(reasons.contains(&format!("`{reason}`")), "{reason} is not in the table");
    }
}

#[test]
fn every_alert_is_explained_and_tested() {
    let rules = read("host/docs/alerts.yaml");
    let alerts: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 9, "{alerts:?}");
    let page = read("host/docs/alerts.md");
    assert_eq!(rows(&page).map(|(alert, _)| alert).collect::<BTreeSet<_>>(), alerts);
    let tests = read("tests/fixtures/alerts_test.yaml");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert} }}")), "no test that {alert} is silent");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test that {alert} fires");
    }
}

/// Runs `promtool` where there is one, and says so where there is none.
#[test]
#[allow(clippy::print_stderr)]
fn promtool_takes_the_rules() {
    let has = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        eprintln!(
            "skipped: no promtool here, so nobody has checked host/docs/alerts.yaml (apt-get install prometheus)"
        );
        return;
    }
    for arguments in
        [["check", "rules", "../../host/docs/alerts.yaml"], ["test", "rules", "alerts_test.yaml"]]
    {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(root().join("tests/fixtures"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}
