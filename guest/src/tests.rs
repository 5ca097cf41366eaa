//! What the SDK promises about the columns that it hides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;

use proptest::prelude::*;

use crate::host::Batch;
use crate::raw::plugin::exports::rivven::connect::transform::{Results, Verdict as Raw};
use crate::raw::plugin::rivven::connect::source::{Column, Delivery};
use crate::testing::{self, Decision, Harness, Input};
use crate::*;

/// A plugin made of a function.
struct Function<F>(F);

impl<F: FnMut(Message, Output) -> Result<Verdict>> Plugin for Function<F> {
    fn new(_: Config) -> Result<Self> {
        Err(Error::new("made by hand"))
    }

    fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
        (self.0)(message, out)
    }
}

fn process(batch: &Batch, function: impl FnMut(Message, Output) -> Result<Verdict>) -> Results {
    runtime::process(&mut Function(function), batch)
}

fn batch<'a>(messages: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Batch {
    let mut batch = Batch::default();
    for (topic, payload) in messages {
        let delivery = Delivery { qos: Qos::ExactlyOnce, retain: true, duplicate: false };
        batch.push(topic, payload, delivery, 7, None);
    }
    batch
}

fn items(column: &Column) -> Vec<&[u8]> {
    (0..column.ends.len()).map(|index| column.item(index)).collect()
}

#[test]
fn messages_are_what_arrived() {
    let batch = batch([("a/b", &b"one"[..]), ("", b""), ("\u{fc}/c", b"\xff\x00")]);
    let mut seen = Vec::new();
    process(&batch, |message, out| {
        seen.push((message.topic().to_owned(), message.payload().to_owned()));
        assert_eq!((message.qos(), message.retain(), message.duplicate()), (Qos::ExactlyOnce, true, false));
        assert_eq!((message.received_at(), message.properties().is_none()), (7, true));
        out.pass()
    });
    let expected = [("a/b", &b"one"[..]), ("", b""), ("\u{fc}/c", b"\xff\x00")];
    assert_eq!(seen, expected.map(|(topic, payload)| (topic.to_owned(), payload.to_owned())));
}

#[test]
fn columns_are_fetched_when_asked_for_and_once() {
    let messages = || batch([("a", &b"1"[..]), ("b", b"2"), ("c", b"3")]);
    let topics_only = messages();
    process(&topics_only, |message, out| if message.topic() == "a" { out.drop() } else { out.pass() });
    assert_eq!(topics_only.fetched(), 1);

    let all = messages();
    process(&all, |message, out| {
        let _ =
            (message.payload(), message.qos(), message.retain(), message.received_at(), message.payload());
        out.pass()
    });
    assert_eq!(all.fetched(), 4);
}

#[test]
fn unused_columns_stay_empty() {
    let results =
        process(&batch([("a", &b"1"[..]), ("b", b"2")]), |message, out| out.emit(message.payload()));
    assert_eq!(items(&results.values), [b"1", b"2"]);
    assert!(results.topics.ends.is_empty() && results.keys.ends.is_empty() && results.reasons.is_empty());

    let results = process(&batch([("a", &b"1"[..])]), |_, out| out.pass());
    assert_eq!(results.verdicts, [Raw::Pass]);
    assert!(results.output_of.is_empty() && results.values.ends.is_empty());
}

#[test]
fn a_late_key_or_topic_leaves_the_earlier_ones_empty() {
    let messages = batch([("1", &b"v"[..]), ("2", b"v"), ("3", b"v"), ("4", b"v")]);
    let results = process(&messages, |message, out| match message.topic() {
        "2" => out.emit(Record::new(message.payload()).key("k")),
        "3" => out.emit(Record::new(message.payload()).topic("t")),
        _ => out.emit(message.payload()),
    });
    assert_eq!(results.output_of, [0, 1, 2, 3]);
    assert_eq!(items(&results.keys), [&b""[..], b"k", b"", b""]);
    assert_eq!(items(&results.topics), [&b""[..], b"", b"t", b""]);
}

#[test]
fn a_rejected_message_leaves_no_record() {
    let messages = batch([("good", &b"1"[..]), ("bad", b"2"), ("good", b"3")]);
    let results = process(&messages, |message, out| {
        let mut records = out.records();
        records.emit(Record::new(message.payload()).key(message.topic()).topic("t"))?;
        if message.topic() == "bad" {
            // JSON has no such keys: the value fails after its first byte.
            assert!(records.emit(Json(HashMap::from([((), 1)]))).is_err());
            records.emit("more")?;
            return Err(Error::new("bad message"));
        }
        records.done()
    });
    assert_eq!(results.verdicts, [Raw::Emit, Raw::Reject, Raw::Emit]);
    assert_eq!(results.output_of, [0, 2]);
    assert_eq!(items(&results.keys), [b"good", b"good"]);
    assert_eq!(items(&results.topics), [b"t", b"t"]);
    assert_eq!(items(&results.values), [b"1", b"3"]);
    assert_eq!(results.reasons, [(1, "bad message".to_owned())]);
}

#[test]
fn a_value_that_fails_is_left_out_alone() {
    let results = process(&batch([("a", &b""[..])]), |_, out| {
        let mut records = out.records();
        assert!(records.emit(Json(HashMap::from([((), 1)]))).is_err());
        records.emit("whole")?;
        records.done()
    });
    assert_eq!(items(&results.values), [b"whole"]);
}

#[test]
fn services_reach_the_host() {
    struct Service;
    impl Plugin for Service {
        fn new(_: Config) -> Result<Self> {
            log::info(format!("speaks MQTT {}", describe().protocol_version));
            Ok(Self)
        }
        fn process(&mut self, message: Message, out: Output) -> Result<Verdict> {
            metrics::counter_add("seen", 2);
            metrics::gauge_set("last", 0.5);
            metrics::histogram_record("size", message.payload().len() as f64);
            match message.topic() {
                "delete" => state::delete("key"),
                "get" => return out.emit(state::get("key").unwrap_or_default()),
                key => state::set(key, message.payload())?,
            }
            out.drop()
        }
    }
    let mut plugin = Harness::<Service>::new("null").unwrap();
    assert_eq!(plugin.logs(), [(log::Level::Info, "speaks MQTT 5.0".to_owned())]);
    assert_eq!(plugin.process("key", "value"), Decision::Drop);
    assert_eq!(plugin.process("get", "-"), Decision::Emit(vec![testing::Record::new("value")]));
    assert_eq!(plugin.state("key"), Some(&b"value"[..]));
    assert_eq!(plugin.process("delete", ""), Decision::Drop);
    assert_eq!(plugin.state("key"), None);
    assert_eq!((plugin.counter("seen"), plugin.gauge("last")), (6, Some(0.5)));
    assert_eq!(plugin.histogram("size"), [5.0, 1.0, 0.0]);

    let too_long = "k".repeat(257);
    for key in ["", &too_long] {
        assert_eq!(plugin.process(key, ""), Decision::Reject(state::StateError::InvalidKey.to_string()));
    }
    assert_eq!(
        plugin.process("key", vec![0; (1 << 20) + 1]),
        Decision::Reject(state::StateError::ValueTooLarge.to_string())
    );
}

#[test]
fn a_message_to_test_with_is_what_it_was_made() {
    struct Seen(Vec<String>);
    impl Plugin for Seen {
        fn new(_: Config) -> Result<Self> {
            Ok(Self(Vec::new()))
        }
        fn process(&mut self, m: Message, out: Output) -> Result<Verdict> {
            let content_type = m.properties().and_then(|p| p.content_type);
            self.0.push(format!(
                "{:?} {} {} {} {content_type:?}",
                m.qos(),
                m.retain(),
                m.duplicate(),
                m.received_at()
            ));
            out.reject("seen")
        }
    }
    let mut plugin = Harness::<Seen>::new("null").unwrap();
    let properties = Properties { content_type: Some("text/plain".to_owned()), ..Properties::default() };
    let message =
        Input::new("t", "").qos(Qos::AtMostOnce).retained().duplicate().received_at(9).properties(properties);
    assert_eq!(plugin.process_message(message), Decision::Reject("seen".to_owned()));
    assert_eq!(plugin.process("t", ""), Decision::Reject("seen".to_owned()));
    let expected =
        [r#"Qos::AtMostOnce true true 9 Some("text/plain")"#, "Qos::AtLeastOnce false false 0 None"];
    assert_eq!(plugin.plugin().0, expected);
}

#[test]
fn configuration_is_parsed_and_none_is_an_empty_one() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Settings {
        #[serde(default)]
        limit: u32,
    }
    let parse = |json| Config::new(json).parse::<Settings>().map(|settings| settings.limit);
    assert_eq!(parse("null"), Ok(0));
    assert_eq!(parse(r#"{"limit": 3}"#), Ok(3));
    assert_eq!(
        parse(r#"{"limit": "3"}"#).unwrap_err().to_string(),
        r#"invalid type: string "3", expected u32"#
    );
    assert_eq!(Config::new("null").parse::<Option<u32>>(), Ok(None));
    assert_eq!(Config::new("[1]").as_json(), "[1]");
}

#[test]
fn an_error_tells_its_sources() {
    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("no number")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let error = Error::from(Outer("x".parse::<u8>().unwrap_err()));
    assert_eq!(error.to_string(), "no number: invalid digit found in string");
}

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as our caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as our caller vouches.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller vouches.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn nothing_is_allocated_per_message() {
    type Process = fn(Message, Output) -> Result<Verdict>;
    let ways: [Process; 4] = [
        |message, out| if message.topic().is_empty() { out.drop() } else { out.pass() },
        |message, out| if message.payload().is_empty() { out.drop() } else { out.pass() },
        |message, out| out.emit(message.payload()),
        |message, out| out.emit(Record::new(message.payload()).key(&message.payload()[..1])),
    ];
    for (way, process_one) in ways.into_iter().enumerate() {
        let allocations = |messages: usize| {
            let batch = batch(std::iter::repeat_n(("some/topic", &b"0123456789"[..]), messages));
            let before = ALLOCATIONS.get();
            let results = process(&batch, process_one);
            assert_eq!(results.verdicts.len(), messages);
            ALLOCATIONS.get() - before
        };
        let (few, many) = (allocations(8), allocations(1024));
        // Keys grow by doubling, as nobody knows beforehand how many bytes they will have: 7 times more.
        let more = if way == 3 { 7 } else { 0 };
        assert!(
            few > 0 && many <= few + more,
            "way {way}: {few} allocations for 8 messages, {many} for 1024"
        );
    }
}

fn any_decision() -> impl Strategy<Value = Decision> {
    let text = "[a-z]{0,3}";
    let record = (text, text, any::<Vec<u8>>()).prop_map(|(topic, key, value)| testing::Record {
        topic: (!topic.is_empty()).then_some(topic),
        key: (!key.is_empty()).then(|| key.into_bytes()),
        value,
    });
    prop_oneof![
        Just(Decision::Pass),
        Just(Decision::Drop),
        Just(Decision::Hold),
        text.prop_map(Decision::Reject),
        prop::collection::vec(record, 0..4).prop_map(Decision::Emit),
    ]
}

/// A plugin that does what it is told, and when it rejects has written something before.
struct Told(std::vec::IntoIter<Decision>);

impl Plugin for Told {
    fn new(_: Config) -> Result<Self> {
        Err(Error::new("made by hand"))
    }

    fn process(&mut self, _: Message, out: Output) -> Result<Verdict> {
        match self.0.next().unwrap() {
            Decision::Pass => out.pass(),
            Decision::Drop => out.drop(),
            Decision::Hold => out.hold(self),
            Decision::Reject(reason) => {
                out.records().emit(Record::new("taken back").key("k").topic("t"))?;
                Err(Error::new(reason))
            }
            Decision::Emit(wanted) => {
                let mut records = out.records();
                for record in &wanted {
                    let key = record.key.as_deref().unwrap_or_default();
                    let topic = record.topic.as_deref().unwrap_or_default();
                    records.emit(Record::new(&record.value).key(key).topic(topic))?;
                }
                records.done()
            }
        }
    }
}

impl AggregatingPlugin for Told {
    fn flush(&mut self, _: &mut Records) -> Result<()> {
        Ok(())
    }
}

proptest! {
    /// Any decisions about the messages of a batch come out as they were made, and by the rules of the contract.
    #[test]
    fn results_say_what_was_decided(decisions in prop::collection::vec(any_decision(), 1..20)) {
        let batch = batch(std::iter::repeat_n(("t", &b"p"[..]), decisions.len()));
        let results = runtime::process(&mut Told(decisions.clone().into_iter()), &batch);

        prop_assert_eq!(results.verdicts.len(), decisions.len());
        prop_assert!(results.output_of.is_sorted());
        prop_assert!(results.output_of.iter().all(|&of| results.verdicts[of as usize] == Raw::Emit));
        prop_assert_eq!(results.values.ends.len(), results.output_of.len());
        for column in [&results.topics, &results.keys, &results.values] {
            prop_assert!(column.ends.is_sorted());
            prop_assert_eq!(column.ends.last().map_or(0, |&end| end as usize), column.data.len());
        }
        for column in [&results.topics, &results.keys] {
            prop_assert!(column.ends.is_empty() || column.ends.len() == results.output_of.len());
        }
        prop_assert!(results.reasons.is_sorted_by(|a, b| a.0 < b.0));
        prop_assert_eq!(testing::decisions(results), decisions);
    }
}
