//! What a component wants and offers, against what a plugin is granted and what the contract asks of it. All of it is
//! known before any code of the component runs.

use std::fmt;

use serde::Serialize;
use wasmtime::component::Component;

/// The contract that this host serves.
pub(super) const TRANSFORM: &str = "rivven:connect/transform@0.1.0";
pub(super) const AGGREGATE: &str = "rivven:connect/aggregate@0.1.0";

/// The interfaces that a plugin may import: package, the versions of it that are compatible, names.
const GRANTED: [(&str, &str, &[&str]); 6] = [
    ("rivven:connect", "0.1.", &["source", "log", "metrics", "state"]),
    (
        "wasi:cli",
        "0.2.",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:io", "0.2.", &["error", "poll", "streams"]),
    ("wasi:clocks", "0.2.", &["wall-clock", "monotonic-clock"]),
    ("wasi:random", "0.2.", &["random", "insecure", "insecure-seed"]),
    // Linked with no folder behind it: components made through the preview-1 adapter import it whether they use it or not.
    ("wasi:filesystem", "0.2.", &["types", "preopens"]),
];

/// An import of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The interface, with its version.
    pub name: String,
    /// Whether a plugin may have it.
    pub granted: bool,
    /// What to do when it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Which world of the contract a component fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// It decides about each message by itself.
    Plugin,
    /// It also holds messages and gives them back as aggregates.
    AggregatingPlugin,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            World::Plugin => "plugin",
            World::AggregatingPlugin => "aggregating-plugin",
        })
    }
}

/// The name of an interface taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    version: Option<&'a str>,
}

impl<'a> Name<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let (path, version) = match name.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (name, None),
        };
        let (package, interface) = path.split_once('/')?;
        Some(Name { package, interface, version })
    }

    /// Whether the version is a release that is compatible with all that begin with `prefix`.
    fn compatible(&self, prefix: &str) -> bool {
        self.version
            .and_then(|version| version.strip_prefix(prefix))
            .is_some_and(|patch| !patch.contains('-'))
    }
}

/// The imports of `component`, each with whether it is granted.
pub(super) fn imports(component: &Component) -> Vec<Import> {
    let engine = component.engine();
    component.component_type().imports(engine).map(|(name, _)| import(name)).collect()
}

fn import(name: &str) -> Import {
    let parsed = Name::parse(name);
    let package = parsed.and_then(|name| GRANTED.iter().find(|(package, ..)| *package == name.package));
    let hint = match (parsed, package) {
        (None, _) => "it belongs to no interface of this contract; remove it, or compose the component with what provides it".into(),
        (Some(name), Some((package, versions, interfaces))) if interfaces.contains(&name.interface) => {
            if name.compatible(versions) {
                return Import { name: name_of(name), granted: true, hint: None };
            }
            format!("this host serves {package} {versions}x; build the plugin against that version")
        }
        (Some(name), _) => hint(name.package, name.interface).into(),
    };
    Import { name: name.into(), granted: false, hint: Some(hint) }
}

fn name_of(name: Name<'_>) -> String {
    let Name { package, interface, version } = name;
    version.map_or(format!("{package}/{interface}"), |version| format!("{package}/{interface}@{version}"))
}

fn hint(package: &str, interface: &str) -> &'static str {
    match (package, interface) {
        ("wasi:sockets", _) => {
            "plugins have no network; remove what opens connections (componentize-py: build with --stub-wasi)"
        }
        ("wasi:http", _) => {
            "plugins make no HTTP requests (componentize-py: build with --stub-wasi; jco: --disable http)"
        }
        ("wasi:keyvalue", _) => "use rivven:connect/state",
        ("wasi:logging", _) => "use rivven:connect/log",
        ("wasi:config", _) => "the plugin's `config:` comes as JSON with `init`",
        ("wasi:clocks", _) => "plugins have wall-clock and monotonic-clock only",
        ("wasi:messaging" | "wasmcloud:messaging", _) => "outputs are returned from `process`",
        ("rivven:connect", "transform" | "aggregate") => {
            "a plugin exports this interface and does not import it"
        }
        _ => {
            "plugins are granted rivven:connect, clocks, random numbers and standard output; remove it, or compose the \
              component with what provides it"
        }
    }
}

/// Which world `component` fits and with which version of the contract, or why none.
pub(super) fn world(component: &Component) -> Result<(World, String), String> {
    let engine = component.engine();
    let ty = component.component_type();
    let exports: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
    world_of(&exports)
}

/// The names of all that `component` exports.
pub(super) fn exports(component: &Component) -> Vec<String> {
    component.component_type().exports(component.engine()).map(|(name, _)| name.into()).collect()
}

fn world_of(exports: &[&str]) -> Result<(World, String), String> {
    let find = |interface| {
        exports
            .iter()
            .filter_map(|name| Name::parse(name))
            .find(|name| name.package == "rivven:connect" && name.interface == interface)
    };
    let Some(transform) = find("transform") else {
        let offers = match exports {
            [] => "it exports nothing".to_owned(),
            exports => format!("it exports {}", exports.join(", ")),
        };
        return Err(format!(
            "it has to export {TRANSFORM}, and {offers}: build it with the SDK or against wit/connect.wit"
        ));
    };
    let aggregate = find("aggregate");
    for interface in [Some(transform), aggregate].into_iter().flatten() {
        if !interface.compatible("0.1.") {
            return Err(format!(
                "it exports {}, and this host serves rivven:connect 0.1.x: build it against that version",
                name_of(interface)
            ));
        }
    }
    let world = if aggregate.is_some() { World::AggregatingPlugin } else { World::Plugin };
    Ok((world, transform.version.unwrap_or_default().to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_needs_is_granted_in_compatible_versions() {
        for name in [
            "rivven:connect/source@0.1.0",
            "rivven:connect/state@0.1.7",
            "wasi:cli/exit@0.2.0",
            "wasi:io/streams@0.2.12",
            "wasi:filesystem/preopens@0.2.6",
            "wasi:clocks/monotonic-clock@0.2.3",
        ] {
            assert_eq!(import(name), Import { name: name.into(), granted: true, hint: None });
        }
    }

    #[test]
    fn what_is_not_granted_says_what_to_do() {
        for (name, expected) in [
            ("wasi:sockets/tcp@0.2.6", "no network"),
            ("wasi:http/outgoing-handler@0.2.6", "no HTTP"),
            ("wasi:clocks/timezone@0.2.6", "wall-clock and monotonic-clock only"),
            ("wasi:clocks/wall-clock@0.3.0", "this host serves wasi:clocks 0.2.x"),
            ("wasi:cli/stdout@0.2.0-rc-2023-11-10", "this host serves wasi:cli 0.2.x"),
            ("wasi:cli/stdout", "this host serves wasi:cli 0.2.x"),
            ("rivven:connect/source@0.2.0", "this host serves rivven:connect 0.1.x"),
            ("rivven:connect/http@0.1.0", "plugins are granted"),
            ("wasi:keyvalue/store@0.2.0-draft", "use rivven:connect/state"),
            ("my:own/thing", "plugins are granted"),
            ("print", "belongs to no interface"),
        ] {
            let import = import(name);
            assert!(!import.granted, "{name}");
            let hint = import.hint.unwrap();
            assert!(hint.contains(expected), "{name}: {hint:?} instead of {expected:?}");
        }
    }

    #[test]
    fn the_world_follows_from_the_exports() {
        assert_eq!(world_of(&[TRANSFORM]), Ok((World::Plugin, "0.1.0".into())));
        assert_eq!(world_of(&[AGGREGATE, TRANSFORM]), Ok((World::AggregatingPlugin, "0.1.0".into())));
        let other = world_of(&["rivven:connect/transform@0.2.0"]).unwrap_err();
        assert!(other.contains("exports rivven:connect/transform@0.2.0, and this host serves"), "{other}");
        let command = world_of(&["wasi:cli/run@0.2.6"]).unwrap_err();
        assert!(command.contains("it exports wasi:cli/run@0.2.6"), "{command}");
        assert!(world_of(&[]).unwrap_err().contains("it exports nothing"));
    }
}
