//! Reading a section by its table of keys: every problem is recorded and reading goes on, so a value returned here is only
//! used when there was no problem at all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Secret;
use super::keys::{Key, Keys, Kind};
use super::problem::{Position, Problems, nearest};
use super::syntax::replace_variables;
use super::yaml::{Entry, Node, Scalar, Style, Value};

/// What reading needs from outside of the file.
pub(super) struct World<'a> {
    /// Environment variables.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The first bytes of a file, at most as many as given.
    pub(super) read: &'a dyn Fn(&Path, u64) -> io::Result<Vec<u8>>,
}

/// What all sections of a file share.
pub(super) struct Context<'a> {
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    pub(super) world: &'a World<'a>,
    pub(super) problems: Problems,
    /// What the variables of the file stand for.
    pub(super) variables: Vec<Secret>,
}

/// A value and its path.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) path: String,
    pub(super) node: &'a Node,
}

/// A mapping and the keys that it may have.
pub(super) struct Section<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) path: String,
    keys: Keys,
    at: Position,
    entries: &'a [Entry],
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Finds duplicate keys, and replaces the variables in all scalars; a scalar with a variable is text from then on. Gives back
/// what they were replaced by.
pub(super) fn prepare(root: &mut Node, world: &World<'_>, problems: &Problems) -> Vec<Secret> {
    let seen = RefCell::new(Vec::new());
    let variable = |name: &str| {
        let value = (world.variable)(name)?;
        seen.borrow_mut().push(Secret::new(value.as_str()));
        Some(value)
    };
    prepare_node(root, "", &variable, problems);
    seen.into_inner()
}

fn prepare_node(node: &mut Node, path: &str, variable: &dyn Fn(&str) -> Option<String>, problems: &Problems) {
    match &mut node.value {
        Value::Scalar(scalar) => match replace_variables(&scalar.text, variable) {
            Ok(None) => {}
            Ok(Some(text)) => *scalar = Scalar { text, style: Style::Replaced },
            Err(what) => problems.add(node.at, path, what),
        },
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prepare_node(item, &format!("{path}[{index}]"), variable, problems);
            }
        }
        Value::Mapping(entries) => {
            let mut seen: HashMap<String, usize> = HashMap::new();
            for entry in entries {
                let path = join(path, &entry.key);
                match seen.get(&entry.key) {
                    Some(line) => {
                        problems.add(entry.at, &path, format!("is given twice (first in line {line})"))
                    }
                    None => drop(seen.insert(entry.key.clone(), entry.at.line)),
                }
                prepare_node(&mut entry.node, &path, variable, problems);
            }
        }
    }
}

impl Kind {
    /// What is expected, for a person.
    pub(super) fn expected(&self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Flag => "true or false".into(),
            Kind::Integer(min, max) => format!("an integer from {min} to {max}"),
            Kind::Number(min, max) => format!("a number from {min:?} to {max:?}"),
            Kind::Choice(choices) => one_of(choices.iter().map(|(name, _)| *name)),
            Kind::Path => "a path".into(),
            Kind::Texts => "a list of at least one text".into(),
            Kind::Section(_) => "a mapping".into(),
            Kind::SectionOrList(_) => "a mapping, or a list of at least one mapping".into(),
            Kind::Sections(_) => "a mapping of at least one name".into(),
            Kind::Anything => "any value".into(),
            Kind::Refused(_) => "nothing".into(),
        }
    }
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        names => names.concat(),
    }
}

impl<'a> Field<'a> {
    pub(super) fn problem(&self, what: impl Into<String>) {
        self.context.problems.add(self.node.at, &self.path, what);
    }

    /// Records that the value is not `expected`.
    fn wrong(&self, expected: &str) {
        let secret =
            [".auth", ".password", "plugin.config", "].config"].iter().any(|part| self.path.contains(part));
        let what = match &self.node.value {
            Value::Scalar(scalar) if secret && !scalar.is_null() => "text".into(),
            _ => self.node.describe(),
        };
        self.problem(format!("is {what} (expected {expected})"));
    }

    /// The value as text, unless it is nothing or no scalar.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(&scalar.text),
            _ => {
                self.wrong("text");
                None
            }
        }
    }

    /// The text of a scalar without quotes and without a variable: what may be a number or a flag.
    fn plain(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar(Scalar { text, style: Style::Plain }) => Some(text),
            _ => None,
        }
    }
}

impl<'a> Section<'a> {
    /// The mapping at `node`; unknown keys are recorded.
    pub(super) fn open(field: &Field<'a>, keys: Keys, parent: Position) -> Option<Section<'a>> {
        let Value::Mapping(entries) = &field.node.value else {
            field.wrong("a mapping");
            return None;
        };
        let section = Section { context: field.context, path: field.path.clone(), keys, at: parent, entries };
        for entry in entries {
            let names = keys.iter().filter(|key| !matches!(key.kind, Kind::Refused(_)));
            match keys.iter().find(|key| key.name == entry.key || key.alias == Some(&entry.key)) {
                None => {
                    let hint = match nearest(&entry.key, names.clone().map(|key| key.name)) {
                        Some(name) => format!("did you mean {name}?"),
                        None => format!("expected {}", one_of(names.map(|key| key.name))),
                    };
                    let path = join(&section.path, &entry.key);
                    field.context.problems.add(entry.at, path, format!("is no key of this section ({hint})"));
                }
                Some(Key { kind: Kind::Refused(instead), .. }) => {
                    let path = join(&section.path, &entry.key);
                    field.context.problems.add(entry.at, path, format!("is not supported ({instead})"));
                }
                Some(Key { name, alias: Some(alias), .. }) if entry.key == *alias && section.has(name) => {
                    let path = join(&section.path, &entry.key);
                    field.context.problems.add(
                        entry.at,
                        path,
                        format!("is another name of {name}, which is there too"),
                    );
                }
                Some(_) => {}
            }
        }
        Some(section)
    }

    fn key(&self, name: &str) -> Key {
        let key = self.keys.iter().find(|key| key.name == name);
        debug_assert!(key.is_some(), "{name} is in no table");
        key.copied().unwrap_or(Key {
            name: "",
            alias: None,
            kind: Kind::Anything,
            required: false,
            default: None,
            doc: "",
        })
    }

    fn entry(&self, name: &str) -> Option<&'a Entry> {
        let alias = self.key(name).alias;
        self.entries.iter().find(|entry| entry.key == name || Some(entry.key.as_str()) == alias)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == name)
    }

    /// The value of a key; that a required one is missing is recorded.
    pub(super) fn field(&self, name: &str) -> Option<Field<'a>> {
        let key = self.key(name);
        let Some(entry) = self.entry(name) else {
            if key.required {
                let expected = key.kind.expected();
                self.missing(
                    name,
                    &format!("is missing (expected {expected}: {})", key.doc.trim_end_matches('.')),
                );
            }
            return None;
        };
        Some(Field { context: self.context, path: join(&self.path, &entry.key), node: &entry.node })
    }

    /// Records a problem with a key that is not there.
    pub(super) fn missing(&self, name: &str, what: &str) {
        self.context.problems.add(self.at, join(&self.path, name), what);
    }

    /// Records a problem at a key, or at the section when the key is not there.
    pub(super) fn problem(&self, name: &str, what: impl Into<String>) {
        let at = self.entry(name).map_or(self.at, |entry| entry.node.at);
        self.context.problems.add(at, join(&self.path, name), what);
    }

    /// Text, read by `parse`, whose error is recorded. The default is parsed too.
    pub(super) fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let Some(field) = self.field(name) else {
            return self.key(name).default.and_then(|default| parse(default).ok());
        };
        match parse(field.text()?) {
            Ok(value) => Some(value),
            Err(what) => {
                field.problem(what);
                None
            }
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.parsed(name, |text| Ok(text.to_owned()))
    }

    /// A scalar without quotes that `parse` understands.
    fn plain<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let key = self.key(name);
        let Some(field) = self.field(name) else { return key.default.and_then(parse) };
        let value = field.plain().and_then(&parse);
        // The default stands in for a wrong value, so that one problem does not make another.
        value.or_else(|| {
            field.wrong(&key.kind.expected());
            key.default.and_then(parse)
        })
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        let parse = |text: &str| match text {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        };
        self.plain(name, parse).unwrap_or_default()
    }

    pub(super) fn integer(&self, name: &str) -> u64 {
        let Kind::Integer(min, max) = self.key(name).kind else { return 0 };
        let parse = |text: &str| text.parse().ok().filter(|value| (min..=max).contains(value));
        self.plain(name, parse).unwrap_or(min)
    }

    /// An integer, multiplied by `unit`, as a size.
    pub(super) fn size(&self, name: &str, unit: usize) -> usize {
        usize::try_from(self.integer(name)).unwrap_or(usize::MAX).saturating_mul(unit)
    }

    pub(super) fn number(&self, name: &str) -> f64 {
        let Kind::Number(min, max) = self.key(name).kind else { return 0.0 };
        let parse = |text: &str| text.parse().ok().filter(|value| (min..=max).contains(value));
        self.plain(name, parse).unwrap_or(min)
    }

    /// The first spelling of the choice that was made.
    pub(super) fn choice(&self, name: &str) -> &'static str {
        let key = self.key(name);
        let Kind::Choice(choices) = key.kind else { return "" };
        let Some(field) = self.field(name) else { return key.default.unwrap_or_default() };
        let Some(text) = field.text() else { return "" };
        let chosen = choices.iter().find(|(name, spellings)| *name == text || spellings.contains(&text));
        if let Some((name, _)) = chosen {
            return name;
        }
        let mut expected = key.kind.expected();
        if let Some(near) = nearest(text, choices.iter().map(|(name, _)| *name)) {
            expected.push_str(&format!("; did you mean {near}?"));
        }
        field.wrong(&expected);
        ""
    }

    /// A path, from the folder of the file.
    pub(super) fn path(&self, name: &str) -> Option<(Field<'a>, PathBuf)> {
        let field = self.field(name)?;
        match field.text()? {
            "" => {
                field.wrong("a path");
                None
            }
            text => {
                let path = self.context.folder.join(text);
                Some((field, path))
            }
        }
    }

    /// A folder, from the folder of the file; it does not have to exist.
    pub(super) fn folder(&self, name: &str) -> Option<PathBuf> {
        self.parsed(name, |text| match text {
            "" => Err("is empty (expected a path)".into()),
            text => Ok(self.context.folder.join(text).components().collect()),
        })
    }

    /// The texts of a list, each with its place.
    pub(super) fn texts(&self, name: &str) -> Vec<(Field<'a>, &'a str)> {
        let Some(field) = self.field(name) else { return Vec::new() };
        let items = match &field.node.value {
            Value::Sequence(items) if !items.is_empty() => items,
            Value::Sequence(_) => {
                field.problem(format!("is an empty list (expected {})", Kind::Texts.expected()));
                return Vec::new();
            }
            _ => {
                field.wrong(&Kind::Texts.expected());
                return Vec::new();
            }
        };
        let fields = items.iter().enumerate().map(|(index, node)| Field {
            context: self.context,
            path: format!("{}[{index}]", field.path),
            node,
        });
        fields.filter_map(|field| Some((field.clone(), field.text()?))).collect()
    }

    pub(super) fn section(&self, name: &str) -> Option<Section<'a>> {
        let Kind::Section(keys) = self.key(name).kind else { return None };
        let field = self.field(name)?;
        let at = self.entry(name).map_or(self.at, |entry| entry.at);
        Section::open(&field, keys, at)
    }

    /// The section of a key, or those of its list; none where the key is not there.
    pub(super) fn section_or_list(&self, name: &str) -> Vec<Section<'a>> {
        let key = self.key(name);
        let (Kind::SectionOrList(keys), Some(entry)) = (key.kind, self.entry(name)) else {
            return Vec::new();
        };
        let field = Field { context: self.context, path: join(&self.path, &entry.key), node: &entry.node };
        match &entry.node.value {
            Value::Mapping(_) => Section::open(&field, keys, entry.at).into_iter().collect(),
            Value::Sequence(items) if !items.is_empty() => {
                let open = |(index, node): (usize, &'a Node)| {
                    let path = format!("{}[{index}]", field.path);
                    Section::open(&Field { context: self.context, path, node }, keys, node.at)
                };
                items.iter().enumerate().filter_map(open).collect()
            }
            Value::Sequence(_) => {
                field.problem(format!("is an empty list (expected {})", key.kind.expected()));
                Vec::new()
            }
            Value::Scalar(_) => {
                field.wrong(&key.kind.expected());
                Vec::new()
            }
        }
    }

    /// The sections of a mapping with names of the user's choice.
    pub(super) fn sections(&self, name: &str) -> Vec<(&'a Entry, Section<'a>)> {
        let key = self.key(name);
        let (Kind::Sections(keys), Some(field)) = (key.kind, self.field(name)) else { return Vec::new() };
        let Value::Mapping(entries) = &field.node.value else {
            field.wrong(&key.kind.expected());
            return Vec::new();
        };
        if entries.is_empty() {
            field.problem(format!("is an empty mapping (expected {})", key.kind.expected()));
        }
        let open = |entry: &'a Entry| {
            let path = join(&field.path, &entry.key);
            let section = Field { context: self.context, path, node: &entry.node };
            Some((entry, Section::open(&section, keys, entry.at)?))
        };
        entries.iter().filter_map(open).collect()
    }
}
