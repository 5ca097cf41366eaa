//! The schema by a validator that is not ours: what `load` accepts fits, and what breaks the structure of a file does not.

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::{Value, json};

use super::super::problem::Problems;
use super::*;

const README: &str = include_str!("../../../../README.md");
const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");
const MIGRATION: &str = include_str!("../../../docs/migration.md");
const TROUBLESHOOTING: &str = include_str!("../../../docs/troubleshooting.md");
const DEMO: &str = include_str!("../../../examples/demo/demo.yaml");

/// A schema that has been compiled, which checks it against the schema of schemas.
struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn new(schema: Value) -> Self {
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource("schema.json", schema).unwrap();
        let index = compiler.compile("schema.json", &mut schemas).unwrap_or_else(|error| panic!("{error:#}"));
        Validator { schemas, index }
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        self.schemas.validate(value, self.index).map_err(|error| format!("{error:#}"))
    }
}

fn validator() -> Validator {
    Validator::new(schema())
}

/// A file as an editor sees it: variables are not replaced. `None` where it is no YAML.
fn value(text: &str) -> Option<Value> {
    let node = yaml::parse(text).ok()??;
    Some(source::json(&node, "", &Problems::default()))
}

/// The YAML blocks of a text that are whole configurations.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.filter(|block| block.lines().any(|line| line.starts_with("sources:") || line.starts_with("type:")))
}

#[test]
fn it_is_a_schema_of_draft_2020_12() {
    assert_eq!(schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
    // Compiling it checks it.
    assert!(validator().check(&json!({})).is_err());
}

#[test]
fn every_example_file_fits() {
    let validator = validator();
    let texts = [README, DOCUMENTATION, MIGRATION, TROUBLESHOOTING];
    let examples: Vec<&str> =
        texts.iter().flat_map(|text| blocks(text)).chain([SEED, DEMO, EVERYTHING]).collect();
    assert!(examples.len() > 6, "{}", examples.len());
    let least = single("", "");
    for example in examples.into_iter().chain([least.as_str()]) {
        let value = value(example).unwrap_or_else(|| panic!("no YAML:\n{example}"));
        assert_eq!(validator.check(&value), Ok(()), "{example}");
    }
}

/// What is wrong with a file by the type, the range or the name of one key: the rest are rules between keys, of names, of
/// addresses and of other files, which are not for a schema.
fn breaks_the_structure(problem: &str) -> bool {
    let structural = [
        "is no key of this section",
        "is not supported (",
        "is another name of",
        "is an empty list",
        "is an empty mapping",
        "(expected an integer",
        "(expected a number",
        "(expected true or false",
        "(expected a mapping",
        "(expected a list",
        "(expected a path",
        "(expected text",
        "(expected at_most_once",
        "(expected dead_letter",
        "(expected json or raw",
        "(expected 3.1.1",
        "(expected mqtt-source",
        "(expected all, new_only",
    ];
    // In JSON Schema 4.0 and 4 are one number.
    if problem.contains("is `4.0`") {
        return false;
    }
    // An unresolved variable is text like any other.
    structural.iter().any(|part| problem.contains(part))
        && !problem.contains("qos: is the text of a variable")
}

#[test]
fn files_with_a_broken_structure_do_not_fit() {
    let validator = validator();
    let (mut refused, mut taken) = (0, 0);
    for (file, problem) in wrong::files() {
        let Some(value) = value(&file) else { continue };
        let fits = validator.check(&value).is_ok();
        assert_eq!(fits, !breaks_the_structure(&problem), "{problem}\n{file}");
        if fits { taken += 1 } else { refused += 1 }
    }
    assert!(refused > 60 && taken > 30, "{refused} {taken}");
}

/// For every key and many values: what the reader takes fits, and what has a range or a choice fits only then.
#[test]
fn it_says_what_the_reader_says() {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(5),
        json!(64),
        json!(1500),
        json!(100_000),
        json!(-1),
        json!(2.5),
        json!(1e30),
        json!(""),
        json!("x"),
        json!("0"),
        json!("5.0"),
        json!("at_least_once"),
        json!("drop"),
        json!("raw"),
        json!("mqtt-source"),
        json!("${TOKEN}"),
        json!([]),
        json!(["a"]),
        json!([7]),
        json!([null]),
        json!([["a"]]),
        json!({}),
        json!({ "x": 1 }),
    ];
    let mut compared = 0;
    walk(keys::ROOT, &[], &mut |path, key| {
        if matches!(key.kind, Kind::Section(_) | Kind::SectionOrList(_) | Kind::Sections(_)) {
            return;
        }
        let validator = Validator::new(super::schema::kind(&key.kind));
        for value in &values {
            let at = format!(": {}", path.join("."));
            let here = |problem: &String| {
                problem
                    .find(&at)
                    .is_some_and(|found| problem[found + at.len()..].starts_with([':', '[', '.']))
            };
            let problems = load_for(&with(path, value.clone()).to_string(), false).err().unwrap_or_default();
            let problems: Vec<_> = problems.into_iter().filter(here).collect();
            let fits = validator.check(value).is_ok();
            assert!(fits || !problems.is_empty(), "{path:?}: {value} is refused, but read");
            let exact =
                matches!(key.kind, Kind::Flag | Kind::Integer(..) | Kind::Number(..) | Kind::Choice(_));
            // A variable is replaced before the reader sees the value, here by 12345.
            if exact && *value != json!("${TOKEN}") {
                let expected = [format!("(expected {}", key.kind.expected()), "(expected text)".to_owned()];
                let misread =
                    problems.iter().find(|problem| expected.iter().any(|text| problem.contains(text)));
                assert_eq!(fits, misread.is_none(), "{path:?}: {value} {misread:?}");
            }
            compared += 1;
        }
    });
    assert!(compared > 1_500, "{compared}");
}

#[test]
fn every_key_is_there_with_its_meaning() {
    let schema = schema();
    let (several, one) = (&schema["anyOf"][0], &schema["anyOf"][1]);
    let mut seen = 0;
    walk(keys::ROOT, &[], &mut |path, key| {
        let node = path.iter().fold(several, |node, name| {
            // Of a section or a list of them, the section.
            let section = if node["properties"].is_null() { &node["anyOf"][0] } else { node };
            [node, section]
                .into_iter()
                .find_map(|node| node["properties"].get(name))
                .unwrap_or_else(|| &node["additionalProperties"])
        });
        assert!(node["description"].as_str().is_some_and(|text| text.len() > 3), "{path:?}: {node}");
        assert_eq!(node.get("default").is_some(), key.default.is_some(), "{path:?}");
        seen += 1;
    });
    assert!(seen > 60, "{seen}");
    let source = &several["properties"]["sources"]["additionalProperties"]["properties"];
    assert_eq!(&one["properties"]["config"], &source["config"]);
    let mqtt = &source["config"]["properties"];
    assert_eq!(mqtt["keep_alive_secs"]["default"], 60);
    assert_eq!(mqtt["mqtt_version"]["default"], "3.1.1");
    assert_eq!(mqtt["clean_session"]["default"], true);
    assert_eq!(mqtt["last_will"]["properties"]["message"]["description"], "Another name of payload.");
}
