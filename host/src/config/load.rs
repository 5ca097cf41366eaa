//! From the text of a file to a [`Config`], or to all that is wrong with it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::client::read_tls;
use super::keys::{ROOT, SINGLE};
use super::problem::{Problems, START};
use super::read::{Context, Field, Section, World, prepare};
use super::source::{read_limits, read_source};
use super::syntax::replace_variables;
use super::yaml::{Node, Value, parse};
use super::{Broker, Config, Credentials, Http, Limits, Problem, Secret, Settings, Source, keys, url};
use crate::error::ConfigError;

/// Where Rivven is when the file, one single source, does not say so: a comma-separated list of `HOST:PORT`.
const SERVERS_VARIABLE: &str = "RIVVEN_BOOTSTRAP_SERVERS";
const DEFAULT_SERVERS: &str = "localhost:9092";
/// Name of the source in a file with one single source: what the file calls it.
const SINGLE_SOURCE: &str = "mqtt-source";

/// Reads and checks a configuration file. `needs_broker` says whether the records go to Rivven: then `broker` has to be there.
///
/// Paths in the file are relative to its folder. [`Config::risks`] says what is legal and hurts.
///
/// # Errors
/// [`ConfigError`] with all problems of the file at once.
pub fn load(file: &Path, needs_broker: bool) -> Result<Config, ConfigError> {
    let bytes = std::fs::read(file).map_err(|source| ConfigError::Read { file: file.into(), source })?;
    let world = World { variable: &|name| std::env::var(name).ok(), read: &read_start };
    let config = read(&bytes, file.parent().unwrap_or(Path::new("")), needs_broker, &world)
        .map_err(|problems| ConfigError::Invalid { file: file.into(), problems })?;
    let has_password = tree(&bytes).is_ok_and(|root| has_password(&root));
    Ok(Config { password_file: has_password.then(|| file.into()), ..config })
}

/// Whether a password stands in the text itself, be it as the default of a variable.
fn has_password(node: &Node) -> bool {
    let is_literal = |node: &Node| match &node.value {
        Value::Scalar(scalar) => match replace_variables(&scalar.text, &|_| None) {
            Ok(None) => !scalar.is_null() && !scalar.text.is_empty(),
            Ok(Some(defaults)) => !defaults.is_empty(),
            Err(_) => false,
        },
        _ => false,
    };
    match &node.value {
        Value::Scalar(_) => false,
        Value::Sequence(nodes) => nodes.iter().any(has_password),
        Value::Mapping(entries) => entries
            .iter()
            .any(|entry| entry.key == "password" && is_literal(&entry.node) || has_password(&entry.node)),
    }
}

/// The limits of a plugin in `text`: JSON, or YAML, with the keys of `limits` in the configuration. For the command line.
///
/// # Errors
/// All that is wrong with them, on one line.
pub fn parse_limits(text: &str) -> Result<Limits, String> {
    let said = |problems: Vec<Problem>| {
        let said = problems.iter().map(|Problem { key, what, .. }| format!("{key} {what}").trim().to_owned());
        said.collect::<Vec<_>>().join("; ")
    };
    let mut root = tree(text.as_bytes()).map_err(|problem| said(vec![problem]))?;
    let world = World { variable: &|name| std::env::var(name).ok(), read: &read_start };
    let problems = Problems::default();
    let variables = prepare(&mut root, &world, &problems);
    let context = Context { folder: Path::new(""), world: &world, problems, variables };
    let field = Field { context: &context, path: String::new(), node: &root };
    let limits = Section::open(&field, keys::LIMITS, START).map(|section| read_limits(&section));
    match (limits, context.problems.into_sorted()) {
        (Some(limits), problems) if problems.is_empty() => Ok(limits),
        (_, problems) => Err(said(problems)),
    }
}

pub(super) fn read_start(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut start)?;
    Ok(start)
}

/// The configuration in `bytes`, or all that is wrong with it, in the order of the file.
pub(super) fn read(
    bytes: &[u8],
    folder: &Path,
    needs_broker: bool,
    world: &World<'_>,
) -> Result<Config, Vec<Problem>> {
    let mut root = tree(bytes).map_err(|problem| vec![problem])?;
    let problems = Problems::default();
    let variables = prepare(&mut root, world, &problems);
    let context = Context { folder, world, problems, variables };
    let config = read_root(&context, &root, needs_broker);
    match (config, context.problems.into_sorted()) {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, problems) => Err(problems),
    }
}

/// Whatever the bytes are, they are a configuration or have problems, each with a place and a text.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let missing = |_: &Path, _| Err(io::ErrorKind::NotFound.into());
    let world = World { variable: &|name| (name != "UNSET").then(|| "1".into()), read: &missing };
    match read(bytes, Path::new("/etc"), false, &world) {
        Ok(config) => assert!(!config.sources.is_empty()),
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.what.is_empty()));
        }
    }
    let _ = std::str::from_utf8(bytes).map(parse_limits);
}

fn tree(bytes: &[u8]) -> Result<Node, Problem> {
    let problem = |line, column, what: &str| Problem { line, column, key: String::new(), what: what.into() };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
        let line = before.lines().last().filter(|_| !before.ends_with('\n')).unwrap_or_default();
        problem(before.matches('\n').count() + 1, line.chars().count() + 1, "is not UTF-8 text")
    })?;
    let root = parse(text)?;
    root.ok_or_else(|| {
        problem(1, 1, "is empty (expected `sources`, or `type: mqtt-source` for a single source)")
    })
}

fn read_root(context: &Context<'_>, root: &Node, needs_broker: bool) -> Option<Config> {
    let field = Field { context, path: String::new(), node: root };
    let has =
        |key: &str| matches!(&root.value, Value::Mapping(entries) if entries.iter().any(|e| e.key == key));
    // One source at the top level is how the existing connector is configured.
    let single = !has("sources") && (has("type") || has("config"));
    let section = Section::open(&field, if single { SINGLE } else { ROOT }, START)?;

    let broker = match section.section("broker") {
        Some(broker) => read_broker(&broker),
        None if section.has("broker") || !needs_broker => None,
        None if single => servers_from_environment(context),
        None => {
            section.missing(
                "broker",
                "is missing (expected a mapping with bootstrap_servers; only `--sink rivven` needs it)",
            );
            None
        }
    };
    let mut sources = BTreeMap::new();
    let mut clients = HashMap::new();
    if single {
        sources.insert(SINGLE_SOURCE.to_owned(), read_source(&section));
    } else {
        for (entry, section) in section.sections("sources") {
            if let Some(what) = wrong_name(&entry.key) {
                context.problems.add(entry.at, &section.path, what);
            }
            let source = read_source(&section);
            if let Some(source) = &source {
                check_client(&mut clients, &entry.key, &section, source);
            }
            sources.insert(entry.key.clone(), source);
        }
    }
    let settings = read_settings(context, &section);
    // Any `None` in here has left a problem.
    let sources = sources.into_iter().map(|(name, source)| Some((name, source?))).collect::<Option<_>>()?;
    Some(Config { broker, sources, settings: settings?, password_file: None })
}

/// The name of a source is a label of its metrics and the name of its state.
fn wrong_name(name: &str) -> Option<&'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good =
        name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(legal);
    (!good).then_some("is no name for a source (expected 1 to 64 letters, digits, `.`, `_` and `-`, a letter or digit first)")
}

/// Two clients with one id throw each other out for ever (MQTT 3.1.1 section 3.1.4).
fn check_client(
    clients: &mut HashMap<(String, u16, String), String>,
    name: &str,
    section: &Section<'_>,
    source: &Source,
) {
    let mqtt = &source.mqtt;
    let client = (mqtt.url.host.to_ascii_lowercase(), mqtt.url.port, mqtt.client_id.clone());
    if let Some(other) = clients.insert(client, name.to_owned())
        && let Some(config) = section.section("config")
    {
        let what = format!(
            "is the client id of source {other} too, on the same broker (expected one of its own: the two would throw each other out)"
        );
        config.problem("client_id", what);
    }
}

fn read_broker(section: &Section<'_>) -> Option<Broker> {
    let mut bootstrap_servers = Vec::new();
    for (field, server) in section.texts("bootstrap_servers") {
        match check_server(server) {
            Ok(()) => bootstrap_servers.push(server.to_owned()),
            Err(what) => field.problem(what),
        }
    }
    let auth = section.section("auth").map(|auth| Credentials {
        username: auth.text("username"),
        password: auth.text("password").map(Secret::new),
    });
    let tls = section.section("tls").map(|tls| read_tls(&tls));
    Some(Broker { bootstrap_servers, connections: section.size("connections", 1), auth, tls })
}

fn check_server(server: &str) -> Result<(), String> {
    if server.contains('@') || server.contains("://") {
        return Err("is a URL (expected HOST:PORT; credentials belong under `auth`)".into());
    }
    match url::host_and_port(server)? {
        (_, Some(_)) => Ok(()),
        (_, None) => Err("has no port (expected HOST:PORT, such as localhost:9092)".into()),
    }
}

fn servers_from_environment(context: &Context<'_>) -> Option<Broker> {
    let servers = (context.world.variable)(SERVERS_VARIABLE).filter(|servers| !servers.trim().is_empty());
    let servers = servers.unwrap_or_else(|| DEFAULT_SERVERS.into());
    let servers: Vec<String> = servers.split(',').map(|server| server.trim().to_owned()).collect();
    for server in &servers {
        if let Err(what) = check_server(server) {
            context.problems.add(
                START,
                "broker",
                format!("comes from {SERVERS_VARIABLE}, of which one server {what}"),
            );
        }
    }
    let connections = keys::BROKER.iter().find(|key| key.name == "connections").and_then(|key| key.default);
    Some(Broker {
        bootstrap_servers: servers,
        connections: connections.and_then(|default| default.parse().ok())?,
        auth: None,
        tls: None,
    })
}

fn read_settings(context: &Context<'_>, root: &Section<'_>) -> Option<Settings> {
    let nothing = Node { at: START, value: Value::Mapping(Vec::new()) };
    let empty =
        |keys| Section::open(&Field { context, path: "settings".into(), node: &nothing }, keys, START);
    let section = if root.has("settings") { root.section("settings") } else { empty(keys::SETTINGS) }?;
    let http = if section.has("http") { section.section("http") } else { empty(keys::HTTP) }?;
    let listen = http.parsed("listen", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("is `{text}` (expected IP:PORT, such as 127.0.0.1:9091)"))
    });
    Some(Settings {
        state_dir: section.folder("state_dir")?,
        http: Http { listen: listen?, configured: http.has("listen") },
        shutdown_grace: Duration::from_millis(section.integer("shutdown_grace_ms")),
    })
}
