//! What is wrong with a configuration file, and where.

use std::cell::RefCell;
use std::fmt;

/// A place in a file; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Where a file starts.
pub(super) const START: Position = Position { line: 1, column: 1 };

/// The place of what stands in no file.
pub(super) const NOWHERE: Position = Position { line: 0, column: 0 };

/// One thing that is wrong with a configuration. Never shows a secret, or what came from a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when the configuration is not a text.
    pub line: usize,
    /// Column in characters, from 1; 0 when the configuration is not a text.
    pub column: usize,
    /// Path of the key, such as `sources.iot.config.qos`; empty when the file as a whole is wrong.
    pub key: String,
    /// What is wrong, what was expected, and which name was perhaps meant.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// The problems found so far. Shared by all readers of a file, so that each records what it finds and goes on.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(super) fn add(&self, at: Position, key: impl Into<String>, what: impl Into<String>) {
        let problem = Problem { line: at.line, column: at.column, key: key.into(), what: what.into() };
        self.0.borrow_mut().push(problem);
    }

    /// All of them, in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

/// The name among `names` that was most likely meant by `wrong`, if one is near enough or starts with it.
pub(super) fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = |name: &str| name.to_lowercase().replace(['-', ' ', '.'], "_");
    let wrong = normal(wrong);
    let far = |name: &str| {
        let name = normal(name);
        if wrong.len() > 1 && name.starts_with(&wrong) { 1 } else { distance(&wrong, &name) }
    };
    let near = names.into_iter().map(|name| (far(name), name)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, name)| *distance <= (name.len() / 3).max(1)).map(|(_, name)| name)
}

/// How many characters have to be inserted, removed or replaced to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(from != *to)).min(left + 1).min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("qos", "qos", 0),
            ("qso", "qos", 2),
            ("client", "client_id", 3),
            ("topcis", "topics", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["client_id", "clean_session", "qos"];
        assert_eq!(nearest("clientid", names), Some("client_id"));
        assert_eq!(nearest("Client-ID", names), Some("client_id"));
        assert_eq!(nearest("qoss", names), Some("qos"));
        assert_eq!(nearest("clean", names), Some("clean_session"));
        assert_eq!(nearest("cl", names), Some("client_id"));
        assert_eq!(nearest("c", names), None);
        assert_eq!(nearest("compression", names), None);
    }
}
