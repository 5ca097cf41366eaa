//! `plugin new`: a folder that builds and tests with the commands that are printed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::{DONE, WrongUsage};

/// Start a plugin: a folder with a filter, its tests, and the commands that build and run it
///
/// The folder has a filter to change, a unit test, messages with the records that have to come of them (messages.jsonl,
/// golden.jsonl), and a README.md with the commands that are printed here too. For Python it also has the contract and two
/// modules that hide it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  rivven-mqtt plugin new my-filter
  rivven-mqtt plugin new my-filter --sdk-path ../rivven-mqtt/guest
  rivven-mqtt plugin new my-filter --lang python

Exit codes: 0 done, 1 the folder cannot be made, 2 wrong usage.")]
pub(super) struct New {
    /// Name of the plugin: the last part is that of the crate and of the component
    #[arg(value_name = "NAME")]
    folder: PathBuf,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust, value_name = "LANGUAGE")]
    lang: Language,
    /// The Rust SDK, which is not on crates.io: the folder `guest` of a clone of rivven-mqtt [default: that of the clone which
    /// this program was built from]
    #[arg(long, value_name = "FOLDER")]
    sdk_path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Needs cargo and the target wasm32-wasip2
    Rust,
    /// Needs Python 3.10 or newer, and componentize-py from PyPI
    Python,
}

/// The SDK of the clone that this program was built from.
const OWN_SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest");

/// Path and text of each file. In the text, `{{name}}` and what else [`Plan`] knows is replaced.
type Files = &'static [(&'static str, &'static str)];

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../templates/", $path))
    };
}

const RUST: Files = &[
    ("Cargo.toml", template!("rust/Cargo.toml")),
    ("src/lib.rs", template!("rust/src/lib.rs")),
    ("README.md", template!("rust/README.md")),
    (".gitignore", template!("rust/gitignore")),
    ("messages.jsonl", template!("messages.jsonl")),
    ("golden.jsonl", template!("golden.jsonl")),
];

const PYTHON: Files = &[
    ("plugin.py", template!("python/plugin.py")),
    ("test_plugin.py", template!("python/test_plugin.py")),
    ("requirements.txt", template!("python/requirements.txt")),
    ("README.md", template!("python/README.md")),
    (".gitignore", template!("python/gitignore")),
    ("messages.jsonl", template!("messages.jsonl")),
    ("golden.jsonl", template!("golden.jsonl")),
    ("rivven_plugin.py", include_str!("../../../guest/python/rivven_plugin.py")),
    ("component.py", include_str!("../../../guest/python/component.py")),
    ("wit/connect.wit", include_str!("../../../wit/connect.wit")),
];

/// What differs between the languages.
struct Plan {
    name: String,
    files: Files,
    /// That test, build and run it, in the folder.
    commands: String,
    sdk: String,
}

pub(super) fn new(arguments: &New) -> Result<u8> {
    let name = legal_name(&arguments.folder).map_err(WrongUsage)?.to_owned();
    let plan = match arguments.lang {
        Language::Rust => rust(name, &sdk(arguments.sdk_path.as_deref())?),
        Language::Python => python(name),
    };
    write(&arguments.folder, &plan)?;
    println!("cd {}\n{}", arguments.folder.display(), plan.commands);
    Ok(DONE)
}

/// The name of the crate and of the component.
fn legal_name(folder: &Path) -> Result<&str, String> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 64 && name.chars().all(legal) {
        true => Ok(name),
        false => Err(format!(
            "`{name}` is no name for a plugin (expected 1 to 64 letters, digits, `-` and `_`, a letter first)"
        )),
    }
}

/// The absolute path of the SDK.
fn sdk(path: Option<&Path>) -> Result<PathBuf> {
    let folder = path.unwrap_or(Path::new(OWN_SDK));
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    if !manifest.contains("name = \"rivven-plugin-sdk\"") {
        bail!(
            "{} is not the SDK: name the folder `guest` of a clone of rivven-mqtt with --sdk-path",
            folder.display()
        );
    }
    folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))
}

fn rust(name: String, sdk: &Path) -> Plan {
    let component = format!("target/wasm32-wasip2/release/{}.wasm", name.replace('-', "_"));
    Plan {
        files: RUST,
        commands: format!(
            "rustup target add wasm32-wasip2\ncargo test\ncargo build --release --target wasm32-wasip2\n{}",
            run(&component)
        ),
        // A string of TOML is one of JSON, as far as paths go.
        sdk: serde_json::Value::from(sdk.to_string_lossy()).to_string(),
        name,
    }
}

fn python(name: String) -> Plan {
    let component = format!("{name}.wasm");
    Plan {
        files: PYTHON,
        commands: format!(
            "python3 -m venv .venv\n\
             .venv/bin/pip install --quiet -r requirements.txt\n\
             .venv/bin/python -m unittest\n\
             .venv/bin/componentize-py --wit-path wit --world plugin componentize --stub-wasi component -o {component}\n{}",
            run(&component)
        ),
        sdk: String::new(),
        name,
    }
}

fn run(component: &str) -> String {
    format!(
        "rivven-mqtt plugin test {component} --config '{{\"threshold\": 20}}' --input messages.jsonl --expect golden.jsonl"
    )
}

fn write(folder: &Path, plan: &Plan) -> Result<()> {
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is there already, and not empty", folder.display());
    }
    for (path, text) in plan.files {
        let text = text
            .replace("{{name}}", &plan.name)
            .replace("{{crate}}", &plan.name.replace('-', "_"))
            .replace("{{version}}", env!("CARGO_PKG_VERSION"))
            .replace("{{sdk}}", &plan.sdk)
            .replace("{{commands}}", &plan.commands);
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .and_then(|()| std::fs::write(&file, text))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(legal_name(Path::new("plugins/my-filter_2")), Ok("my-filter_2"));
        for wrong in ["", "/", "2nd", "my filter", "ümlaut", "a.b"] {
            assert!(legal_name(Path::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_is_left_of_the_templates() {
        for plan in [rust("my-filter".into(), Path::new("/a \"b\"/guest")), python("my-filter".into())] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join("my-filter"), &plan).unwrap();
            for (path, _) in plan.files {
                let text = std::fs::read_to_string(folder.path().join("my-filter").join(path)).unwrap();
                assert!(!text.contains("{{"), "{path}: {text}");
            }
            let again = write(&folder.path().join("my-filter"), &plan).unwrap_err().to_string();
            assert!(again.ends_with("is there already, and not empty"), "{again}");
        }
    }

    #[test]
    fn the_sdk_is_checked() {
        assert!(sdk(None).unwrap().is_absolute());
        let said = sdk(Some(Path::new("/nonexistent"))).unwrap_err().to_string();
        assert!(said.contains("/nonexistent is not the SDK") && said.contains("--sdk-path"), "{said}");
    }
}
