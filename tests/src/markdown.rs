//! The fenced blocks of the documentation, to be run and loaded.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The clone.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("..")).to_owned()
}

/// The pages beside the README.
pub const PAGES: [&str; 3] =
    ["host/docs/configuration.md", "host/docs/migration.md", "host/docs/troubleshooting.md"];

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
