//! The tables of `docs/configuration.md` are those of the keys. `UPDATE_DOCS=1` in the environment writes them.

use std::fmt::Write;

use super::*;

const BEGIN: &str = "<!-- The tables below are made from host/src/config/keys.rs: UPDATE_DOCS=1 cargo test writes them. -->\n";
const END: &str = "<!-- End of the tables. -->\n";

/// A heading and a table for each section, in the order of the file.
fn tables(path: &str, keys: Keys, done: &mut Vec<(Vec<&'static str>, String)>, out: &mut String) {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    let title = if path.is_empty() { "the top of the file" } else { path };
    writeln!(out, "\n### `{title}`\n").unwrap();
    if let Some((_, twin)) = done.iter().find(|(known, _)| *known == names) {
        writeln!(out, "The keys of [`{twin}`](#{}).", anchor(twin)).unwrap();
        return;
    }
    done.push((names, title.to_owned()));
    writeln!(out, "| key | value | default | meaning |\n|---|---|---|---|").unwrap();
    for key in keys {
        let alias = key.alias.map(|alias| format!(" (or `{alias}`)")).unwrap_or_default();
        let default = match (key.required, key.default) {
            (true, _) => "required".to_owned(),
            (_, Some("")) => "empty".to_owned(),
            (_, Some(default)) => format!("`{default}`"),
            (_, None) => "-".to_owned(),
        };
        let (value, doc) = match key.kind {
            Kind::Refused(instead) => ("refused".to_owned(), format!("Not supported: {instead}.")),
            _ => (value(&key.kind), key.doc.to_owned()),
        };
        writeln!(out, "| `{}`{alias} | {value} | {default} | {} |", key.name, doc.replace('|', "\\|"))
            .unwrap();
    }
    for key in keys {
        let below = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        match key.kind {
            Kind::Section(keys) | Kind::SectionOrList(keys) => tables(&below, keys, done, out),
            Kind::Sections(keys) => tables(&format!("{below}.NAME"), keys, done, out),
            _ => {}
        }
    }
}

/// The anchor that GitHub gives a heading.
fn anchor(title: &str) -> String {
    title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

fn value(kind: &Kind) -> String {
    match kind {
        Kind::Choice(choices) => {
            let spelled = choices.iter().map(|(name, others)| {
                let others: String = others.iter().map(|other| format!(", `{other}`")).collect();
                if others.is_empty() {
                    format!("`{name}`")
                } else {
                    format!("`{name}` (also {})", &others[2..])
                }
            });
            spelled.collect::<Vec<_>>().join("; ")
        }
        Kind::Section(_) => "a section, see below".into(),
        Kind::SectionOrList(_) => "a section, see below, or a list of them".into(),
        Kind::Sections(_) => "a section for each name of your choice, see below".into(),
        kind => kind.expected(),
    }
}

#[test]
fn the_documentation_has_every_key() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the tables");
    let (tables_there, after) = rest.split_once(END).expect("the end of the tables");
    let mut made = String::new();
    tables("", keys::ROOT, &mut Vec::new(), &mut made);
    made.push('\n');
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    for (line, (there, made)) in tables_there.lines().zip(made.lines()).enumerate() {
        assert_eq!(
            there,
            made,
            "line {line} of the tables of {}: run the tests with UPDATE_DOCS=1",
            file.display()
        );
    }
    assert_eq!(tables_there.lines().count(), made.lines().count(), "run the tests with UPDATE_DOCS=1");
}
