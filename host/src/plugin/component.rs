//! From a file to a compiled component, with an error that says what else the file may be.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tracing::warn;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::{Cache, Key};
use super::compiler::{self, CompileCost};
use crate::config::Limits;
use crate::error::PluginError;

/// A file that has been read, within its limit.
pub(super) struct Binary {
    pub bytes: Bytes,
    /// Of the bytes.
    pub sha256: [u8; 32],
}

/// Reads `path`, which may have `limit` bytes, and checks its SHA-256 where one is `pinned`.
pub(super) fn read(path: &Path, limit: usize, pinned: Option<&[u8; 32]>) -> Result<Binary, PluginError> {
    let failed = |source| PluginError::Read { path: path.into(), source };
    let too_large = || PluginError::TooLarge { path: path.into(), limit };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // Should the file grow meanwhile, the limit holds as well.
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(too_large());
    }
    let actual: [u8; 32] = Sha256::digest(&bytes).into();
    if let Some(expected) = pinned.filter(|expected| **expected != actual) {
        return Err(PluginError::Pin { path: path.into(), expected: hex(expected), actual: hex(&actual) });
    }
    Ok(Binary { bytes: bytes.into(), sha256: actual })
}

/// Compiles a component, or takes its code from the cache, and what that cost; `path` is for the errors only.
pub(super) fn compile(
    engine: &Engine,
    cache: Option<&Cache>,
    path: &Path,
    binary: &Binary,
    limits: &Limits,
) -> Result<(Component, CompileCost), PluginError> {
    if let Some((found, hint)) = not_a_component(&binary.bytes) {
        return Err(PluginError::NotAComponent { path: path.into(), found, hint });
    }
    let cache = cache.map(|cache| (cache, Key::new(&binary.sha256, engine)));
    if let Some((cache, key)) = cache
        && let Some(code) = cache.get(key)
    {
        // SAFETY: the code was made by `compiler::compile` below: it comes from a folder that only this user can write to, and
        // carries the checksum that `put` gave it. wasmtime itself refuses code of another version or for other settings.
        match unsafe { Component::deserialize(engine, &code) } {
            Ok(component) => return Ok((component, CompileCost::default())),
            Err(error) => warn!(plugin = %path.display(), "the cached code is not used: {error:#}"),
        }
    }
    let compiled = compiler::compile(engine, path, &binary.bytes, limits)?;
    // SAFETY: wasmtime has just made this code, for an engine of the same settings, in this process or in one of this very
    // executable that only this one could talk to.
    let component = unsafe { Component::deserialize(engine, &compiled.code) }
        .map_err(|error| PluginError::Engine(format!("the compiled code does not load: {error:#}")))?;
    if let Some((cache, key)) = cache {
        cache.put(key, &compiled.code);
    }
    Ok((component, compiled.cost))
}

/// What `bytes` are if they do not begin like a component, and what to do about it.
fn not_a_component(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const BUILD: &str = "build it with `cargo build --target wasm32-wasip2`";
    if Engine::detect_precompiled(bytes).is_some() {
        // Such a file is machine code, which nothing verifies.
        return Some((
            "machine code compiled by wasmtime before",
            "give the .wasm file that it was made from",
        ));
    }
    match bytes {
        [] => Some(("an empty file", "build or copy it again")),
        // The layer is 0 for modules and 1 for components (component model, Binary.md).
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => None,
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Some((
            "a core module",
            "build it with `cargo build --target wasm32-wasip2` (wasm32-wasip1 and wasm32-unknown-unknown make core modules), \
             or turn it into a component with `wasm-tools component new`",
        )),
        [0, b'a', b's', b'm', ..] => Some(("a WebAssembly file that was cut", "build or copy it again")),
        [b'(', ..] => Some(("WebAssembly text", "turn it into a binary with `wasm-tools parse`")),
        [0x7f, b'E', b'L', b'F', ..] => Some(("a native program or library", BUILD)),
        _ => Some(("another kind of file", BUILD)),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plugin::sandbox::engine;

    fn compile_error(bytes: &[u8]) -> String {
        let binary = Binary { bytes: bytes.to_vec().into(), sha256: [0; 32] };
        let (engine, limits) = (engine(512 << 10).unwrap(), Limits::default());
        compile(&engine, None, Path::new("p.wasm"), &binary, &limits).err().unwrap().to_string()
    }

    #[test]
    fn a_file_that_is_no_component_is_called_what_it_is() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "the plugin p.wasm is an empty file, not a WebAssembly component: build or copy it again"),
            (b"\0asm\x01\0\0\0", "a core module"),
            (b"\0asm", "that was cut"),
            (b"(component)", "WebAssembly text"),
            (b"\x7fELF\x02\x01\x01\0", "a native program"),
            (b"hello", "another kind of file"),
            // A component whose first section claims 100 bytes.
            (b"\0asm\x0d\0\x01\0\x01\x64\0asm", "it ends after 14 bytes"),
        ];
        for (bytes, expected) in cases {
            let said = compile_error(bytes);
            assert!(said.contains(expected), "{said:?} instead of {expected:?}");
        }
    }

    #[test]
    fn machine_code_is_refused() {
        let engine = engine(512 << 10).unwrap();
        let code = engine.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
        let said = compile_error(&code);
        assert!(said.contains("machine code compiled by wasmtime"), "{said}");
    }

    #[test]
    fn the_file_is_bounded_and_pinned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.wasm");
        assert!(matches!(read(&path, 10, None), Err(PluginError::Read { .. })));
        std::fs::write(&path, b"hello").unwrap();
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let mut pin: [u8; 32] = Sha256::digest(b"hello").into();
        let binary = read(&path, 5, Some(&pin)).unwrap();
        assert_eq!((&binary.bytes[..], hex(&binary.sha256).as_str()), (&b"hello"[..], sha256));
        assert!(matches!(read(&path, 4, None), Err(PluginError::TooLarge { limit: 4, .. })));
        pin[0] = 0;
        let said = read(&path, 5, Some(&pin)).err().unwrap().to_string();
        assert!(
            said.contains(&format!("has the SHA-256 {sha256}, the configuration wants 00f24dba")),
            "{said}"
        );
    }
}
