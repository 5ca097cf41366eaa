#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::{Mqtt, Template};
use crate::delivery::DeadLetter;
use crate::message::{Batch, Flags, Outcome, OutputColumn, Outputs, QoS, Tally, Verdict};

/// Raw values, key and topic as in a configuration's defaults.
pub(crate) fn record(topic: &str, format: Format) -> config::Record {
    config::Record {
        topic: Template::parse(topic).unwrap(),
        key: Some(Template::parse("{topic}").unwrap()),
        format,
        dead_letter_topic: "events.dlq".into(),
        partitions: None,
    }
}

pub(crate) fn shape(record: config::Record, on_fault: BadMessage) -> (Arc<Shape>, UnboundedReceiver<String>) {
    let (stop, stopped) = unbounded_channel();
    let from = Provenance {
        source: "iot".into(),
        client_id: "client \"1\"".into(),
        broker: "localhost:1883".into(),
        plugins: vec![PluginName { name: "filter.wasm".into(), sha256: "ab12".into() }],
    };
    let mut mqtt = Mqtt::new(from.broker.as_str(), ["#"]).unwrap();
    mqtt.client_id.clone_from(&from.client_id);
    (Arc::new(Shape::new(record, EventShape::new(&mqtt), from, on_fault, Arc::default(), stop)), stopped)
}

/// Messages at QoS 1, packet ids from 1, sequence numbers from 100, all tallied as committed.
pub(crate) fn delivery_of(
    shape: Arc<Shape>,
    messages: &[(&str, &[u8])],
) -> (Delivery, UnboundedReceiver<Box<Batch>>) {
    let mut batch = Box::<Batch>::default();
    for (index, (topic, payload)) in messages.iter().enumerate() {
        Arc::make_mut(&mut batch.topics).push(topic.as_bytes());
        Arc::make_mut(&mut batch.payloads).push(payload);
        batch.packet_ids.push(index as u16 + 1);
        batch.flags.push(Flags::new(QoS::AtLeastOnce, false, false));
        batch.received_at.push(1_700_000_000_123_456_789);
        batch.sequences.push(100 + index as u64);
    }
    batch.tally = Tally { committed: messages.len() as u64, ..Tally::default() };
    let (back, settled) = unbounded_channel();
    let outcome = Outcome::default();
    (Delivery { batch, outcome, dead_letters: Vec::new(), shape, back, permit: None }, settled)
}

/// Messages that pass, as raw records of the topic `events`.
pub(crate) fn delivery(messages: &[(&str, &[u8])]) -> (Delivery, UnboundedReceiver<Box<Batch>>) {
    delivery_of(shape(record("events", Format::Raw), BadMessage::DeadLetter).0, messages)
}

pub(crate) fn column(items: &[&str]) -> OutputColumn {
    let mut ends = Vec::new();
    let mut data = String::new();
    for item in items {
        data.push_str(item);
        ends.push(data.len() as u32);
    }
    OutputColumn { data: data.into(), ends }
}

fn value(record: &Record<'_>) -> String {
    let mut out = b"before ".to_vec();
    record.value(&mut out);
    String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
}

fn event(payload: &[u8]) -> String {
    let (shape, _) = shape(record("events", Format::Json), BadMessage::DeadLetter);
    let (delivery, _) = delivery_of(shape, &[("a/b", payload)]);
    value(&Record::new(&delivery, Origin::Message(0)))
}

#[test]
fn an_event_has_these_bytes() {
    assert_eq!(
        event(br#" {"t": 1.50}"#),
        r#"{"topic":"a/b","payload": {"t": 1.50},"qos":1,"retain":false,"timestamp":"2023-11-14T22:13:20.123456789Z","metadata":{"client_id":"client \"1\"","broker":"localhost:1883","message_id":100,"pkid":1}}"#
    );
}

#[test]
fn a_payload_is_json_only_when_all_of_it_is() {
    let payload = |bytes: &[u8]| serde_json::from_str::<Value>(&event(bytes)).unwrap()["payload"].clone();
    assert_eq!(payload(b"21.5"), json!(21.5));
    assert_eq!(payload(b"null"), json!(null));
    assert_eq!(payload(b"[1,\n 2]"), json!([1, 2]));
    for text in ["", "21.5 C", "{\"a\":1}}", "{'a':1}", "NaN", "\"", "line\nbreak\u{0}"] {
        assert_eq!(payload(text.as_bytes()), json!(text));
    }
}

#[test]
fn a_json_payload_can_stay_text() {
    let mut mqtt = Mqtt::new("h", ["#"]).unwrap();
    (mqtt.parse_json_payload, mqtt.include_metadata) = (false, false);
    let (mut shape, _stopped) = shape(record("events", Format::Json), BadMessage::DeadLetter);
    Arc::get_mut(&mut shape).unwrap().events = EventShape::new(&mqtt);
    let (delivery, _) = delivery_of(shape, &[("a", b"{\"t\":1}")]);
    assert_eq!(
        value(&Record::new(&delivery, Origin::Message(0))),
        r#"{"topic":"a","payload":"{\"t\":1}","qos":1,"retain":false,"timestamp":"2023-11-14T22:13:20.123456789Z"}"#
    );
}

#[test]
fn every_byte_survives() {
    let bytes: Vec<u8> = (0..=255).collect();
    let event: Value = serde_json::from_str(&event(&bytes)).unwrap();
    assert_eq!(event["payload_encoding"], "base64");
    assert_eq!(STANDARD.decode(event["payload"].as_str().unwrap()).unwrap(), bytes);
    let (delivery, _) = delivery(&[("a", &bytes)]);
    let mut raw = Vec::new();
    Record::new(&delivery, Origin::Message(0)).value(&mut raw);
    assert_eq!(raw, bytes);
}

#[test]
fn message_ids_skip_what_is_held() {
    let (shape, _) = shape(record("events", Format::Json), BadMessage::DeadLetter);
    let (mut delivery, _) = delivery_of(shape, &[("a", b"1"), ("b", b"2"), ("c", b"3")]);
    delivery.outcome.verdicts = vec![Verdict::Pass, Verdict::Hold, Verdict::Pass];
    delivery.batch.sequences.clear();
    for sequence in [100, 102] {
        delivery.batch.sequences.push(sequence);
    }
    let id = |index| {
        let event = value(&Record::new(&delivery, Origin::Message(index)));
        serde_json::from_str::<Value>(&event).unwrap()["metadata"]["message_id"].clone()
    };
    assert_eq!((id(0), id(2)), (json!(100), json!(102)));
}

#[test]
fn outputs_name_their_own_or_get_the_sources() {
    let (shape, _) = shape(record("iot.{topic[0]}", Format::Raw), BadMessage::DeadLetter);
    let (mut delivery, _) = delivery_of(shape, &[("a/b", b"1"), ("c", b"2")]);
    delivery.outcome.verdicts = vec![Verdict::Emit, Verdict::Pass];
    delivery.outcome.outputs = Outputs {
        of: vec![0, 0, 0],
        topics: column(&["", "own", "not/legal"]),
        keys: column(&["", "k", ""]),
        values: column(&["x", "y", "z"]),
    };
    let records: Vec<_> = delivery.records().map(|origin| Record::new(&delivery, origin)).collect();
    let topics: Vec<_> = records.iter().map(|record| record.topic().ok()).collect();
    assert_eq!(topics, [Some("iot.a".into()), Some("own".into()), None, Some("iot.c".into())]);
    let keys: Vec<_> = records.iter().map(|record| record.key().unwrap()).collect();
    assert_eq!(keys, [&b"a/b"[..], b"k", b"a/b", b"c"]);
    assert_eq!(records.iter().map(value).collect::<Vec<_>>(), ["x", "y", "z", "2"]);
    let why = records[2].topic().unwrap_err();
    assert!(why.starts_with("the plugin named the topic `not/legal`, which Rivven does not take"), "{why}");
}

#[test]
fn an_output_of_a_flush_belongs_to_no_message() {
    let flushed = |topic: &str, own: &[&str]| {
        let (shape, _) = shape(record(topic, Format::Raw), BadMessage::DeadLetter);
        let (mut delivery, _) = delivery_of(shape, &[("a", b"1")]);
        delivery.outcome.verdicts = vec![Verdict::Hold];
        delivery.outcome.outputs.topics = column(own);
        delivery.outcome.outputs.values = column(&["mean"]);
        let origins: Vec<_> = delivery.records().collect();
        assert_eq!(origins, [Origin::Output(0)]);
        let record = Record::new(&delivery, origins[0]);
        assert_eq!((record.key(), record.message()), (None, None));
        let letter: Value =
            serde_json::from_str(&value(&Record::refused(&delivery, origins[0], "why"))).unwrap();
        assert_eq!((&letter["topic"], &letter["payload_base64"]), (&json!(null), &json!("bWVhbg==")));
        record.topic().map(Cow::into_owned)
    };
    assert_eq!(flushed("events", &[]), Ok("events".into()));
    assert_eq!(flushed("iot.{topic}", &["own"]), Ok("own".into()));
    assert!(flushed("iot.{topic}", &[""]).unwrap_err().contains("named no topic"));
}

#[test]
fn a_dead_letter_has_everything_about_its_message() {
    let (mut delivery, _) = delivery(&[("a/b", &[0xff, 0])]);
    delivery.batch.flags = vec![Flags::new(QoS::ExactlyOnce, true, true)];
    let block = [&[0x03, 0, 4][..], b"text", &[0x26, 0, 1, b'k', 0, 1, b'v']].concat();
    delivery.batch.properties = vec![(0, block.into())];
    let reason = "trapped: unreachable".to_owned();
    delivery.dead_letters = vec![DeadLetter { message: 0, stage: Stage::Plugin, reason, plugin: Some(0) }];
    let record = Record::new(&delivery, Origin::DeadLetter(0));
    assert_eq!((record.topic().unwrap(), record.key().unwrap()), ("events.dlq".into(), b"a/b"[..].into()));
    assert_eq!(
        value(&record),
        r#"{"topic":"a/b","payload_base64":"/wA=","qos":2,"retain":true,"duplicate":true,"properties":{"content_type":"text","response_topic":null,"correlation_data_base64":null,"message_expiry":null,"payload_is_utf8":false,"user":[["k","v"]]},"received_at":"2023-11-14T22:13:20.123456789Z","client_id":"client \"1\"","source":"iot","plugin":"filter.wasm","sha256":"ab12","stage":"plugin","reason":"trapped: unreachable","attempts":1}"#
    );
}

#[test]
fn dead_letters_stay_small() {
    let (mut delivery, _) = delivery(&[("a", &vec![0; 7 << 20])]);
    delivery.batch.properties = vec![(0, vec![0; 100_000].into())];
    let reason = "é".repeat(5_000);
    let letter: Value =
        serde_json::from_str(&value(&Record::refused(&delivery, Origin::Message(0), &reason))).unwrap();
    assert_eq!((&letter["payload_base64"], &letter["size"]), (&json!(null), &json!(7 << 20)));
    assert_eq!(letter["payload_omitted"], "too large for a dead letter");
    assert_eq!(letter["properties"], "omitted: too large for a dead letter");
    assert_eq!((letter["stage"].as_str(), letter["reason"].as_str().unwrap().len()), (Some("sink"), 4096));
}

#[test]
fn a_dead_letter_can_go_without_its_payload() {
    let (delivery, _) = delivery(&[("a", &[1; 100])]);
    let bare = |record: Record<'_>| value(&record.without_payload());
    let letter: Value =
        serde_json::from_str(&bare(Record::refused(&delivery, Origin::Message(0), "why"))).unwrap();
    assert_eq!((&letter["payload_base64"], &letter["size"]), (&json!(null), &json!(100)));
    assert_eq!(letter["payload_omitted"], "Rivven refuses the dead letter with it");
    assert_eq!((&letter["topic"], &letter["reason"]), (&json!("a"), &json!("why")));
    let record = Record::new(&delivery, Origin::Message(0));
    assert_eq!(bare(record), value(&record));
}

#[test]
fn an_oversized_packet_is_dead_lettered_with_its_size() {
    let (mut delivery, _) = delivery(&[("a", b"")]);
    delivery.batch.oversized = Some(300_000);
    let reason = "over max_packet_size".to_owned();
    delivery.dead_letters = vec![DeadLetter { message: 0, stage: Stage::Oversized, reason, plugin: None }];
    let letter: Value = serde_json::from_str(&value(&Record::new(&delivery, Origin::DeadLetter(0)))).unwrap();
    assert_eq!((&letter["payload_base64"], &letter["size"]), (&json!(null), &json!(300_000)));
    assert_eq!((&letter["topic"], &letter["stage"]), (&json!("a"), &json!("oversized")));
}

#[test]
fn lines_of_records() {
    let mut out = Vec::new();
    write_jsonl("t", Some(b"k"), b"{\"a\":\n1}", &mut out);
    write_jsonl("t", None, &[0xff], &mut out);
    write_jsonl("t", Some(&[0xfe]), b"", &mut out);
    let lines = concat!(
        r#"{"topic":"t","key":"k","value":"{\"a\":\n1}"}"#,
        "\n",
        r#"{"topic":"t","key":null,"value_base64":"/w=="}"#,
        "\n",
        r#"{"topic":"t","key_base64":"/g==","value":""}"#,
        "\n",
    );
    assert_eq!(String::from_utf8(out).unwrap(), lines);
}

proptest! {
    #[test]
    fn any_payload_makes_a_valid_event(payload in any::<Vec<u8>>()) {
        let event: Value = serde_json::from_str(&event(&payload)).unwrap();
        let decoded = match &event["payload"] {
            Value::String(text) if event.get("payload_encoding").is_some() => STANDARD.decode(text).unwrap(),
            Value::String(text) if !payload.starts_with(b"\"") => text.clone().into_bytes(),
            _ => return Ok(()),
        };
        prop_assert_eq!(decoded, payload);
    }
}
