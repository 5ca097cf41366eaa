//! Where the built components are.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::host::target;

/// Which of the two supported builds of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// `cargo build --target wasm32-wasip2`.
    Wasip2,
    /// `cargo component build`, which goes through the preview-1 adapter.
    CargoComponent,
}

/// The wasip2 build of an example plugin, such as `filter`.
pub fn example(name: &str) -> Result<PathBuf> {
    component(&format!("example_{name}"), Build::Wasip2)
}

/// A component by the name of its crate, with underscores.
pub fn component(name: &str, build: Build) -> Result<PathBuf> {
    let triple = match build {
        Build::Wasip2 => "wasm32-wasip2",
        Build::CargoComponent => "wasm32-wasip1",
    };
    let path = target()?.join(triple).join("plugin").join(format!("{name}.wasm"));
    if !path.is_file() {
        bail!("no component {}: build the components with `make guests`", path.display());
    }
    Ok(path)
}

/// The component of an example in Python, such as `alerts`.
pub fn python(name: &str) -> Result<PathBuf> {
    let path = target()?.join("python").join(format!("example_python_{name}.wasm"));
    if !path.is_file() {
        bail!("no component {}: build the components with `make guests`", path.display());
    }
    Ok(path)
}
