//! What a component says about how it was made: the `producers` sections of itself and of the modules in it
//! (tool-conventions, ProducersSection.md). Nothing verifies it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wasmparser::{BinaryReaderError, KnownCustom, Parser, Payload};

/// Values of each field that are kept; an honest component has a few.
const MAX_VALUES: usize = 20;
/// Bytes of a value that are kept.
const MAX_LENGTH: usize = 80;

/// Languages, SDKs and tools, each with its version. Empty where the component does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Producers {
    /// What it was written in.
    pub languages: BTreeSet<String>,
    /// SDKs that were used.
    pub sdks: BTreeSet<String>,
    /// Compilers and other tools that it went through.
    pub tools: BTreeSet<String>,
}

impl Producers {
    /// Those of `component`, which has been validated.
    pub(super) fn of(component: &[u8]) -> Self {
        // A section that cannot be read says nothing, and is no reason to refuse the component.
        read(component).unwrap_or_default()
    }

    /// The fields that have values, by name.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        let fields = [("languages", &self.languages), ("sdks", &self.sdks), ("tools", &self.tools)];
        let joined = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
        let fields = fields.map(|(name, values)| (name, joined(values)));
        fields.into_iter().filter(|(_, values)| !values.is_empty())
    }
}

fn read(component: &[u8]) -> Result<Producers, BinaryReaderError> {
    let mut fields: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for payload in Parser::new(0).parse_all(component) {
        let Payload::CustomSection(section) = payload? else { continue };
        let KnownCustom::Producers(producers) = section.as_known() else { continue };
        for field in producers {
            let field = field?;
            let values = fields.entry(field.name).or_default();
            for value in field.values {
                let value = value?;
                let text = format!("{} {}", value.name, value.version);
                let text = text.trim().replace(char::is_control, " ");
                let end = text.floor_char_boundary(MAX_LENGTH);
                if values.len() < MAX_VALUES {
                    values.insert(text[..end].to_owned());
                }
            }
        }
    }
    let mut take = |name| fields.remove(name).unwrap_or_default();
    Ok(Producers { languages: take("language"), sdks: take("sdk"), tools: take("processed-by") })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A vector of the binary format whose items are given, each at most 127 bytes.
    fn vector(items: &[Vec<u8>]) -> Vec<u8> {
        [&[items.len() as u8][..], &items.concat()].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&[text.len() as u8][..], text.as_bytes()].concat()
    }

    /// A section with its length.
    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id, content.len() as u8][..], content].concat()
    }

    #[test]
    fn those_of_the_modules_inside_count() {
        let value = |name: &str, version: &str| [text(name), text(version)].concat();
        let fields = vector(&[
            [text("language"), vector(&[value("Rust", "")])].concat(),
            [text("processed-by"), vector(&[value("rustc", "1.95\n"), value("clang", "18")])].concat(),
        ]);
        let custom = section(0, &[text("producers"), fields].concat());
        let module = [b"\0asm\x01\0\0\0", &custom[..]].concat();
        let component = [b"\0asm\x0d\0\x01\0", &section(1, &module)[..]].concat();
        let producers = Producers::of(&component);
        let shown: Vec<_> = producers.fields().collect();
        assert_eq!(shown, [("languages", "Rust".to_owned()), ("tools", "clang 18, rustc 1.95".to_owned())]);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let custom = section(0, &[text("producers"), vec![9, 9]].concat());
        let component = [b"\0asm\x0d\0\x01\0", &custom[..]].concat();
        assert_eq!(Producers::of(&component), Producers::default());
    }
}
