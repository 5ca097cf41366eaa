//! What a plugin gives back, and the rules that it must keep. Nothing behind this file checks a column again.

use wasmtime::component::{ComponentType, Lift};

use crate::config::Limits;
use crate::error::Fault;
use crate::message::{Outcome, OutputColumn, Outputs, Verdict};
use crate::record::MAX_REASON;

/// The WIT's `transform.results`.
#[derive(Debug, Default, Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Results {
    verdicts: Vec<Verdict>,
    #[component(name = "output-of")]
    output_of: Vec<u32>,
    topics: OutputColumn,
    keys: OutputColumn,
    values: OutputColumn,
    reasons: Vec<(u32, String)>,
}

/// The WIT's `aggregate.outputs`.
#[derive(Debug, Default, Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct Flushed {
    topics: OutputColumn,
    keys: OutputColumn,
    values: OutputColumn,
}

macro_rules! broken {
    ($($rule:tt)*) => {
        return Err(Fault::BrokenRule(format!($($rule)*)))
    };
}

impl Results {
    /// Checks what became of a batch of `messages`.
    pub fn check(self, messages: usize, aggregates: bool, limits: &Limits) -> Result<Outcome, Fault> {
        let Results { verdicts, output_of, topics, keys, values, mut reasons } = self;
        if verdicts.len() != messages {
            broken!("`verdicts` has {} items for {messages} messages", verdicts.len());
        }
        if !aggregates && verdicts.contains(&Verdict::Hold) {
            broken!("the verdict `hold` comes from a plugin that does not export `aggregate`");
        }
        check_output_of(&output_of, &verdicts, limits.outputs_per_message)?;
        check_reasons(&reasons, &verdicts)?;
        let said = reasons.iter().map(|(_, reason)| reason.len()).sum();
        check_columns(output_of.len(), [&topics, &keys, &values], said, limits)?;
        // They wait with their messages, and a dead letter has no more.
        for (_, reason) in reasons.iter_mut().filter(|(_, reason)| reason.len() > MAX_REASON) {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            reason.shrink_to_fit();
        }
        let outputs = Outputs { of: output_of, topics, keys, values };
        Ok(Outcome { verdicts, outputs, reasons, ..Outcome::default() })
    }
}

impl Flushed {
    /// Checks what a flush gave back.
    pub fn check(self, limits: &Limits) -> Result<Outputs, Fault> {
        let Flushed { topics, keys, values } = self;
        check_columns(values.ends.len(), [&topics, &keys, &values], 0, limits)?;
        Ok(Outputs { of: Vec::new(), topics, keys, values })
    }
}

fn check_output_of(output_of: &[u32], verdicts: &[Verdict], per_message: usize) -> Result<(), Fault> {
    if !output_of.is_sorted() {
        broken!("`output-of` falls: outputs must be in the order of their messages");
    }
    if let Some(of) = output_of.iter().find(|of| verdicts.get(**of as usize) != Some(&Verdict::Emit)) {
        match verdicts.get(*of as usize) {
            None => broken!("`output-of` names message {of} of {}", verdicts.len()),
            Some(verdict) => {
                broken!("message {of} has an output and the verdict {verdict:?} instead of `emit`")
            }
        }
    }
    if output_of.len() > per_message
        && let Some(most) = output_of.chunk_by(|a, b| a == b).map(<[u32]>::len).max()
        && most > per_message
    {
        return Err(Fault::TooManyOutputs { outputs: most, limit: per_message });
    }
    Ok(())
}

fn check_reasons(reasons: &[(u32, String)], verdicts: &[Verdict]) -> Result<(), Fault> {
    if !reasons.is_sorted_by(|(before, _), (after, _)| before < after) {
        broken!("`reasons` is not ascending with one reason for each message");
    }
    for (of, _) in reasons {
        match verdicts.get(*of as usize) {
            Some(Verdict::Reject) => {}
            None => broken!("`reasons` names message {of} of {}", verdicts.len()),
            Some(verdict) => {
                broken!("message {of} has a reason and the verdict {verdict:?} instead of `reject`")
            }
        }
    }
    Ok(())
}

/// Checks topics, keys and values of `outputs` outputs. What counts against the limit is what the host keeps: the bytes, the
/// offsets, and `more`.
fn check_columns(
    outputs: usize,
    columns: [&OutputColumn; 3],
    more: usize,
    limits: &Limits,
) -> Result<(), Fault> {
    let [topics, keys, values] = columns;
    let bytes: usize = columns.iter().map(|column| column.data.len() + size_of_val(&column.ends[..])).sum();
    if bytes + more > limits.output_bytes {
        return Err(Fault::OutputTooLarge { limit: limits.output_bytes });
    }
    if values.ends.len() != outputs {
        broken!("`values` has {} items for {outputs} outputs", values.ends.len());
    }
    for (name, column) in [("topics", topics), ("keys", keys), ("values", values)] {
        if !column.ends.is_empty() && column.ends.len() != outputs {
            broken!("`{name}` has {} items for {outputs} outputs", column.ends.len());
        }
        if !column.ends.is_sorted() {
            broken!("`{name}.ends` falls");
        }
        if let Some(last) = column.ends.last().filter(|last| **last as usize > column.data.len()) {
            broken!("`{name}.ends` goes to {last}, beyond its {} bytes of data", column.data.len());
        }
    }
    if let Some(last) = topics.ends.last() {
        let text = std::str::from_utf8(topics.data.get(..*last as usize).unwrap_or_default());
        let Ok(text) = text else { broken!("`topics` is not UTF-8") };
        if !topics.ends.iter().all(|end| text.is_char_boundary(*end as usize)) {
            broken!("an item of `topics` ends inside a UTF-8 character");
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Verdict::*;

    fn column(items: &[&[u8]]) -> OutputColumn {
        let mut ends = Vec::new();
        let mut data = Vec::new();
        for item in items {
            data.extend_from_slice(item);
            ends.push(data.len() as u32);
        }
        OutputColumn { data: data.into(), ends }
    }

    fn raw(data: &[u8], ends: &[u32]) -> OutputColumn {
        OutputColumn { data: data.to_vec().into(), ends: ends.to_vec() }
    }

    /// Three messages, two outputs of the second, the third rejected.
    fn good() -> Results {
        Results {
            verdicts: vec![Pass, Emit, Reject],
            output_of: vec![1, 1],
            topics: column(&[b"a", b""]),
            keys: OutputColumn::default(),
            values: column(&[b"one", b"two"]),
            reasons: vec![(2, "bad".into())],
        }
    }

    fn broken(change: impl FnOnce(&mut Results)) -> String {
        let mut results = good();
        change(&mut results);
        results.check(3, false, &Limits::default()).unwrap_err().to_string()
    }

    #[test]
    fn what_keeps_the_rules_is_taken_as_it_is() {
        let outcome = good().check(3, false, &Limits::default()).unwrap();
        assert_eq!(outcome.verdicts, [Pass, Emit, Reject]);
        assert_eq!(outcome.outputs.of, [1, 1]);
        assert_eq!((outcome.outputs.values.get(1), outcome.outputs.topics.get(0)), (&b"two"[..], &b"a"[..]));
        assert_eq!(outcome.reasons, [(2, "bad".to_owned())]);
        let silent = Results { verdicts: vec![Emit, Drop, Reject], ..Results::default() };
        assert!(silent.check(3, false, &Limits::default()).unwrap().outputs.is_empty());
    }

    #[test]
    fn a_long_reason_is_cut_where_a_character_ends() {
        let reasons = vec![(2, format!("-{}", "\u{20ac}".repeat(100_000)))];
        let outcome = Results { reasons, ..good() }.check(3, false, &Limits::default()).unwrap();
        let (_, reason) = &outcome.reasons[0];
        assert!((MAX_REASON - 2..=MAX_REASON).contains(&reason.len()), "{}", reason.len());
        assert!(reason.capacity() <= 2 * MAX_REASON && reason.ends_with('\u{20ac}'));
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Break = fn(&mut Results);
        let cases: [(&str, Break); 18] = [
            ("`verdicts` has 2 items for 3 messages", |r| r.verdicts.truncate(2)),
            ("`verdicts` has 4 items for 3 messages", |r| r.verdicts.push(Pass)),
            ("`hold` comes from a plugin that does not export `aggregate`", |r| r.verdicts[0] = Hold),
            ("`output-of` falls", |r| (r.verdicts[0], r.output_of) = (Emit, vec![1, 0])),
            ("`output-of` names message 3 of 3", |r| r.output_of = vec![1, 3]),
            ("message 1 has an output and the verdict Drop", |r| r.verdicts[1] = Drop),
            ("message 2 has an output and the verdict Reject", |r| r.output_of = vec![1, 2]),
            ("`reasons` is not ascending", |r| r.reasons.push((2, "again".into()))),
            ("`reasons` names message 9 of 3", |r| r.reasons[0].0 = 9),
            ("message 0 has a reason and the verdict Pass", |r| r.reasons[0].0 = 0),
            ("`values` has 1 items for 2 outputs", |r| r.values = column(&[b"one"])),
            ("`values` has 0 items for 2 outputs", |r| r.values = OutputColumn::default()),
            ("`topics` has 1 items for 2 outputs", |r| r.topics = column(&[b"a"])),
            ("`keys` has 3 items for 2 outputs", |r| r.keys = column(&[b"", b"", b""])),
            ("`values.ends` falls", |r| r.values = raw(b"abc", &[3, 1])),
            ("`keys.ends` goes to 4, beyond its 3 bytes", |r| r.keys = raw(b"abc", &[0, 4])),
            ("`topics` is not UTF-8", |r| r.topics = raw(b"a\xff", &[1, 2])),
            ("ends inside a UTF-8 character", |r| r.topics = raw("é".as_bytes(), &[1, 2])),
        ];
        for (expected, change) in cases {
            let said = broken(change);
            assert!(said.contains(expected), "{said:?} instead of {expected:?}");
        }
    }

    #[test]
    fn hold_is_for_plugins_that_aggregate() {
        let held = Results { verdicts: vec![Hold], ..Results::default() };
        assert_eq!(held.check(1, true, &Limits::default()).unwrap().verdicts, [Hold]);
    }

    #[test]
    fn outputs_are_bounded_by_number_and_by_bytes() {
        let limits = Limits { outputs_per_message: 1, ..Limits::default() };
        assert_eq!(
            good().check(3, false, &limits).unwrap_err(),
            Fault::TooManyOutputs { outputs: 2, limit: 1 }
        );
        // 1 byte of topics, 6 of values, 3 of reasons, four ends of 4 bytes.
        let exact = Limits { output_bytes: 26, ..Limits::default() };
        assert!(good().check(3, false, &exact).is_ok());
        let less = Limits { output_bytes: 25, ..Limits::default() };
        assert_eq!(good().check(3, false, &less).unwrap_err(), Fault::OutputTooLarge { limit: 25 });
    }

    #[test]
    fn a_flush_keeps_the_same_rules() {
        let flushed = |values| Flushed { topics: column(&[b"t"]), keys: OutputColumn::default(), values };
        let outputs = flushed(column(&[b"v"])).check(&Limits::default()).unwrap();
        assert_eq!((outputs.len(), outputs.of.len()), (1, 0));
        let said = flushed(raw(b"v", &[2])).check(&Limits::default()).unwrap_err().to_string();
        assert!(said.contains("`values.ends` goes to 2"), "{said}");
    }

    fn any_column() -> impl Strategy<Value = OutputColumn> {
        let ends = prop::collection::vec(prop_oneof![0..8u32, Just(u32::MAX)], 0..4);
        (prop::collection::vec(any::<u8>(), 0..8), ends)
            .prop_map(|(data, ends)| OutputColumn { data: data.into(), ends })
    }

    proptest! {
        /// Whatever passes the check can be read without a surprise, and nothing makes the check panic.
        #[test]
        fn what_is_taken_can_be_read(
            verdicts in prop::collection::vec(prop::sample::select(vec![Pass, Drop, Emit, Reject, Hold]), 0..4),
            output_of in prop::collection::vec(0..4u32, 0..4),
            columns in [any_column(), any_column(), any_column()],
            reasons in prop::collection::vec((0..4u32, "[a-z]{0,3}"), 0..3),
        ) {
            let [topics, keys, values] = columns;
            let messages = verdicts.len();
            let results = Results { verdicts, output_of, topics, keys, values, reasons };
            if let Ok(outcome) = results.check(messages, true, &Limits::default()) {
                let outputs = &outcome.outputs;
                prop_assert_eq!(outputs.len(), outputs.of.len());
                for i in 0..outputs.len() {
                    prop_assert!(std::str::from_utf8(outputs.topics.get(i)).is_ok());
                    prop_assert_eq!(outcome.verdicts[outputs.of[i] as usize], Emit);
                }
                let total: usize = (0..outputs.len()).map(|i| outputs.values.get(i).len()).sum();
                prop_assert_eq!(total, outputs.values.ends.last().copied().unwrap_or(0) as usize);
            }
        }
    }
}
