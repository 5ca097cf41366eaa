//! The fenced blocks of the documentation, to be run and loaded.
//!
//! A block whose first line is a comment with nothing but a file name (`# config.yaml`, `// my-filter/src/lib.rs`) is that file.
//! Commands run in the order of the text, in a folder that has the files and a link `rivven-mqtt` to the clone.

use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::broker::Broker;
use crate::guests;
use crate::host::{Host, program, target};
use crate::rivven::Rivven;

/// The clone.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("..")).to_owned()
}

/// The pages beside the README whose commands stand for themselves; what `host/docs/plugins.md` tells is followed from its
/// beginning to its end.
pub const PAGES: [&str; 6] = [
    "host/docs/configuration.md",
    "host/docs/dead-letters.md",
    "host/docs/migration.md",
    "host/docs/operating.md",
    "host/docs/state.md",
    "host/docs/troubleshooting.md",
];

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// What it is written in.
    pub language: String,
    /// Its lines.
    pub text: String,
}

impl Block {
    /// The file that the block is, by its first line: a comment with nothing but a file name.
    pub fn file(&self) -> Option<&str> {
        let first = self.text.lines().next()?;
        let name = first.strip_prefix("# ").or_else(|| first.strip_prefix("// "))?.trim();
        let is_path =
            name.contains('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c));
        is_path.then_some(name)
    }

    /// Whether it is a script for the shell.
    pub fn is_shell(&self) -> bool {
        ["sh", "bash", "console"].contains(&self.language.as_str())
    }
}

/// A host that is ready and runs the README's `config.yaml` with these servers in the place of its own.
pub async fn first_example(broker: &Broker, rivven: &Rivven) -> Result<Host> {
    let blocks = blocks("README.md")?;
    let block = blocks.iter().find(|block| block.file() == Some("config.yaml"));
    let text =
        block.context("the README has no config.yaml")?.text.replace("127.0.0.1:9092", &rivven.address());
    let text = text.replace("127.0.0.1:1883", &format!("127.0.0.1:{}", broker.port()));
    let filter = guests::example("filter")?;
    let mut host = Host::start_text(&text, |folder| {
        std::fs::copy(&filter, folder.join("filter.wasm"))?;
        Ok(())
    })?;
    host.ready().await?;
    Ok(host)
}

/// The blocks of a page, by its path in the clone. Each has a language.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    let text = std::fs::read_to_string(root().join(page)).with_context(|| format!("no page {page}"))?;
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some("")) => bail!("a block of {page} has no language"),
            (None, Some(language)) => {
                open = Some(Block { language: language.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    if open.is_some() {
        bail!("a block of {page} does not end");
    }
    Ok(blocks)
}

/// Writes the files and runs the commands of `blocks`; `run` says what is run for a line, which may be nothing where it is run
/// elsewhere. Gives back the folder, and what was printed on standard output.
pub fn follow(blocks: &[Block], run: impl Fn(&str) -> String) -> Result<(TempDir, String)> {
    let folder = tempfile::tempdir()?;
    symlink(root().canonicalize()?, folder.path().join("rivven-mqtt"))?;
    let listings = tempfile::tempdir()?;
    let mut script = String::new();
    for (number, block) in blocks.iter().enumerate() {
        if let Some(file) = block.file() {
            let listing = listings.path().join(number.to_string());
            std::fs::write(&listing, &block.text)?;
            writeln!(script, "mkdir -p $(dirname {file}); cp {} {file}", listing.display())?;
        } else if block.is_shell() {
            script.extend(block.text.lines().flat_map(|line| [run(line), "\n".into()]));
        }
    }
    let printed = shell(&script, folder.path())?;
    Ok((folder, printed))
}

/// Runs commands as a user types them, with `rivven-mqtt` in the path, and ends with the first that fails. Gives back what they
/// print on standard output.
pub fn shell(script: &str, folder: &Path) -> Result<String> {
    let program = program("rivven-mqtt")?;
    let bin = program.parent().context("a program without a folder")?;
    let output = Command::new("bash")
        .args(["-euxo", "pipefail", "-c", script])
        .current_dir(folder)
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH")?))
        // Crates that are made on the way share what they compile.
        .env("CARGO_TARGET_DIR", target()?.join("readme"))
        .env("CARGO_NET_OFFLINE", "true")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{script}\n{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}
