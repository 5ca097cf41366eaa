//! YAML as a tree in which every node knows its place, duplicate keys are still there, and scalars are still text: what a
//! value means is for the reader of its key to say, so that `client_id: 007` keeps its zeros and every complaint has a place.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, options};

use super::problem::{Position, Problem};

/// Far more than a configuration needs; bounds what aliases of aliases can grow to.
const MAX_NODES: usize = 100_000;
/// Bounds the recursion of everything that walks the tree.
const MAX_DEPTH: usize = 100;

/// A node and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) node: Node,
}

/// The text of a scalar.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) style: Style,
}

/// How the text of a scalar came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: may be a number, a boolean or nothing.
    Plain,
    /// In quotes or as a block: text.
    Quoted,
    /// From a variable: text, and perhaps a secret.
    Replaced,
}

impl Scalar {
    /// Nothing at all: an empty value, `~` or `null` (YAML 1.2.2 section 10.3.2).
    pub(super) fn is_null(&self) -> bool {
        self.style == Style::Plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// What the node is, for a person; does not show what came from a variable.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) => "a mapping".into(),
            Value::Scalar(scalar) if scalar.is_null() => "empty".into(),
            Value::Scalar(scalar) => match scalar.style {
                Style::Plain => format!("`{}`", scalar.text),
                Style::Quoted => format!("the text `{}`", scalar.text),
                Style::Replaced => "the text of a variable".into(),
            },
        }
    }
}

/// Reads the one document of `text`; `None` where there is none.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Problem> {
    let options: Options = options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    Builder { parser, anchors: HashMap::new(), nodes: 0 }.document().map_err(|mut problem| {
        // The one mistake that looks right, and that a parser cannot explain.
        let line = text.lines().nth(problem.line - 1).unwrap_or_default();
        if line.contains("${") && line.contains(['{', '[']) && problem.what.contains("flow") {
            problem.what.push_str(" (inside of { } and [ ], ${VAR} needs quotes: \"${VAR}\")");
        }
        problem
    })
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Option<Node>, Problem> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(problem(
                        &span,
                        "is a second document (expected one YAML document in a file)",
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, &span, 0)?);
                }
                _ => return Err(problem(&span, "is not YAML (expected a document)")),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Problem> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            return Err(problem(span, "is too large or too deeply nested for a configuration"));
        }
        let (value, anchor, tag) = match event {
            Event::Alias(anchor) => return self.alias(anchor, span, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                (Value::Scalar(Scalar { text: text.into_owned(), style }), anchor, tag)
            }
            Event::SequenceStart(_, anchor, tag) => (Value::Sequence(self.items(depth)?), anchor, tag),
            Event::MappingStart(_, anchor, tag) => (Value::Mapping(self.entries(depth)?), anchor, tag),
            _ => return Err(problem(span, "is not YAML (expected a value)")),
        };
        if tag.is_some() {
            return Err(problem(span, "has a YAML tag (expected a value without a tag)"));
        }
        let node = Node { at: position(span), value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let key = self.node(event, &span, depth + 1)?;
            let Value::Scalar(Scalar { text, .. }) = key.value else {
                return Err(problem(&span, format!("{} stands where a key is expected", key.describe())));
            };
            let (event, span) = self.next()?;
            entries.push(Entry { key: text, at: key.at, node: self.node(event, &span, depth + 1)? });
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span, depth: usize) -> Result<Node, Problem> {
        let node = self.anchors.get(&anchor);
        let mut node = node.ok_or_else(|| problem(span, "is an alias inside its own anchor"))?.clone();
        let (nodes, height) = measure(&node);
        self.nodes += nodes;
        if self.nodes > MAX_NODES || depth + height > MAX_DEPTH {
            return Err(problem(span, "is too large or too deeply nested for a configuration"));
        }
        node.at = position(span);
        Ok(node)
    }
}

/// How many nodes there are from `node` on, and how deep.
fn measure(node: &Node) -> (usize, usize) {
    let join = |(nodes, height), child| {
        let (more, below) = measure(child);
        (nodes + more, usize::max(height, below + 1))
    };
    match &node.value {
        Value::Scalar(_) => (1, 0),
        Value::Sequence(items) => items.iter().fold((1, 0), join),
        Value::Mapping(entries) => entries.iter().map(|entry| &entry.node).fold((1, 0), join),
    }
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn problem(span: &Span, what: impl Into<String>) -> Problem {
    let Position { line, column } = position(span);
    Problem { line, column, key: String::new(), what: what.into() }
}

fn syntax(error: &ScanError) -> Problem {
    let at = error.marker();
    Problem {
        line: at.line().max(1),
        column: at.col() + 1,
        key: String::new(),
        what: format!("is not YAML: {}", error.info()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(node: &Node) -> String {
        let Position { line, column } = node.at;
        let value = match &node.value {
            Value::Scalar(Scalar { text, style: Style::Plain }) => text.clone(),
            Value::Scalar(Scalar { text, .. }) => format!("{text:?}"),
            Value::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Mapping(entries) => {
                let entries = entries
                    .iter()
                    .map(|e| format!("{}@{}:{}={}", e.key, e.at.line, e.at.column, show(&e.node)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
            }
        };
        format!("{value}@{line}:{column}")
    }

    #[test]
    fn every_node_knows_its_place() {
        let text = "# c\na: 007 # c\nb:\n  - 'x'\n  - {c: \"y\"}\nd:\n";
        let node = parse(text).unwrap().unwrap();
        assert_eq!(
            show(&node),
            "{a@2:1=007@2:4 b@3:1=[\"x\"@4:5 {c@5:6=\"y\"@5:9}@5:5]@4:3 d@6:1=~@6:2}@2:1"
        );
    }

    #[test]
    fn json_is_yaml() {
        let node = parse("{\n  \"a\": {\n    \"b\": [1, true, null]\n  }\n}\n").unwrap().unwrap();
        assert_eq!(show(&node), "{a@2:3={b@3:5=[1@3:11 true@3:14 null@3:20]@3:10}@2:8}@1:1");
    }

    #[test]
    fn an_alias_stands_where_it_is_used() {
        let node = parse("a: &x {b: 1}\nc: *x\n").unwrap().unwrap();
        assert_eq!(show(&node), "{a@1:1={b@1:8=1@1:11}@1:7 c@2:1={b@1:8=1@1:11}@2:4}@1:1");
    }

    #[test]
    fn aliases_of_aliases_are_bounded() {
        let mut text = String::from("a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n");
        for i in 1..10 {
            let before = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![before; 9].join(", ")));
        }
        assert!(parse(&text).unwrap_err().what.contains("too large"));
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(parse(&deep).unwrap_err().what.contains("too deeply"));
        assert!(parse("a: &a [*a]").is_err());
    }

    #[test]
    fn an_empty_file_has_no_document() {
        assert!(parse("").unwrap().is_none());
        assert!(parse("# nothing\n").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_a_tree_or_a_problem(text in "[a-c:&*{}\\[\\]\\-# \n'\"|>!]{0,60}") {
            let _ = parse(&text);
        }
    }
}
