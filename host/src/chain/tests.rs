use std::sync::{Arc, Mutex};

use super::*;
use crate::message::Verdict::{Drop, Emit, Hold, Pass, Reject};

/// Decides by what follows its own name in the payload: `a=drop b=pass` is dropped by `a`. Without a word of its own a message
/// passes. What it holds is gone with a fault, as in a real instance.
struct Script {
    name: char,
    held: Vec<String>,
    seen: Arc<Mutex<Vec<String>>>,
    at_a_time: usize,
}

impl Transform for Script {
    fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        let mut outcome = Outcome::default();
        let mut outputs = Columns::default();
        let mut seen = Vec::new();
        for message in batch.messages() {
            let index = message.index() as u32;
            let payload = String::from_utf8_lossy(message.payload()).into_owned();
            seen.push(format!("{}:{payload}", message.topic()));
            let word = payload.split(' ').find_map(|word| word.strip_prefix(&format!("{}=", self.name)));
            outcome.verdicts.push(match word {
                None | Some("pass") => Pass,
                Some("drop") => Drop,
                Some("reject") => {
                    outcome.reasons.push((index, format!("{} says no", self.name)));
                    Reject
                }
                Some("hold") => {
                    self.held.push(payload.clone());
                    Hold
                }
                Some("fault") => return Err(Fault::Trap(format!("in {}", self.name))),
                Some(values) => {
                    // `TOPIC/KEY/VALUE`, several with `+` between; `_` is a space.
                    for value in values.split('+').filter(|value| !value.is_empty()) {
                        let mut of_value = value.splitn(3, '/').map(|it| Bytes::from(it.replace('_', " ")));
                        let (topic, key) = (of_value.next().unwrap(), of_value.next().unwrap());
                        outputs.push(index, &Emitted { topic, key, value: of_value.next().unwrap() });
                    }
                    Emit
                }
            });
        }
        self.seen.lock().unwrap().push(format!("{} {}", self.name, seen.join(", ")));
        outcome.outputs = outputs.finish().unwrap();
        Ok(outcome)
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        let mut outputs = Columns::default();
        let held = mem::take(&mut self.held);
        if held.iter().any(|held| held.contains("flush-fault")) {
            return Err(Fault::Trap(format!("in the flush of {}", self.name)));
        }
        if !held.is_empty() {
            let own = format!("{}=hold", self.name);
            let words = held.iter().flat_map(|held| held.split(' ')).filter(|word| *word != own);
            let value = ["sum"].into_iter().chain(words).collect::<Vec<_>>().join(" ").into();
            outputs.push(NO_MESSAGE, &Emitted { topic: Bytes::from("sums"), key: Bytes::new(), value });
        }
        outputs.of.clear();
        outputs.finish()
    }

    fn at_a_time(&self) -> usize {
        self.at_a_time
    }

    fn restart(&mut self) {
        self.held.clear();
        self.seen.lock().unwrap().push(format!("{} begins anew", self.name));
    }
}

struct Bench {
    chain: Chain,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(names: &str) -> Self {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let link = |name| -> Box<dyn Transform> {
            Box::new(Script { name, held: Vec::new(), seen: seen.clone(), at_a_time: usize::MAX })
        };
        Bench { chain: Chain::new(names.chars().map(link).collect()), seen }
    }

    fn process(&mut self, payloads: &[&str]) -> Result<Outcome, Fault> {
        let mut batch = batch(payloads);
        let before = (batch.topics.clone(), batch.payloads.clone(), batch.flags.clone());
        let outcome = self.chain.process(&mut batch);
        assert_eq!((batch.topics, batch.payloads, batch.flags), before, "the batch is the same afterwards");
        outcome
    }

    /// What the plugins saw since the last question: a call each.
    fn seen(&self) -> Vec<String> {
        mem::take(&mut self.seen.lock().unwrap())
    }
}

fn batch(payloads: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for (index, payload) in payloads.iter().enumerate() {
        Arc::make_mut(&mut batch.topics).push(b"t");
        Arc::make_mut(&mut batch.payloads).push(payload.as_bytes());
        batch.packet_ids.push(index as u16 + 1);
        batch.flags.push(Flags::new(QoS::ExactlyOnce, true, false));
        batch.received_at.push(index as u64);
        batch.sequences.push(index as u64);
    }
    batch
}

/// `INDEX TOPIC/KEY/VALUE` of each output; `-` for one that belongs to no message.
fn shown(outputs: &Outputs) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let show = |index: usize| {
        let of = outputs.of.get(index).filter(|of| **of != NO_MESSAGE).map_or("-".into(), u32::to_string);
        let (topic, key) = (text(outputs.topics.get(index)), text(outputs.keys.get(index)));
        format!("{of} {topic}/{key}/{}", text(outputs.values.get(index)))
    };
    (0..outputs.len()).map(show).collect()
}

#[test]
fn a_batch_is_one_call_of_each_plugin() {
    let mut bench = Bench::new("abc");
    let outcome = bench.process(&["x", "y"]).unwrap();
    assert!(outcome.verdicts.is_empty() && outcome.outputs.is_empty());
    assert_eq!(bench.seen(), ["a t:x, t:y", "b t:x, t:y", "c t:x, t:y"]);

    bench.process(&["a=drop 1", "2", "b=drop 3"]).unwrap();
    assert_eq!(bench.seen(), ["a t:a=drop 1, t:2, t:b=drop 3", "b t:2, t:b=drop 3", "c t:2"]);

    let outcome = bench.process(&["a=drop", "a=drop"]).unwrap();
    assert_eq!((outcome.verdicts, bench.seen()), (vec![Drop, Drop], vec!["a t:a=drop, t:a=drop".to_owned()]));
}

#[test]
fn verdicts_compose() {
    for (payload, verdict, outputs) in [
        ("x", Pass, vec![]),
        ("a=drop", Drop, vec![]),
        ("b=drop", Drop, vec![]),
        ("a=reject b=drop", Reject, vec![]),
        ("b=reject", Reject, vec![]),
        ("b=hold", Hold, vec![]),
        // Emitted by the first and passed by the second, with what the first gave it.
        ("a=T/k/v", Emit, vec!["1 T/k/v"]),
        ("b=T/k/v+//w", Emit, vec!["1 T/k/v", "1 //w"]),
        // A part is dropped, and one made of the other.
        ("a=//b=drop+T/k/b=U//z", Emit, vec!["1 U//z"]),
        ("a=//b=drop+//b=drop", Drop, vec![]),
        ("a=+", Drop, vec![]),
        // One part is rejected, so nothing of the message is written.
        ("a=//v+//b=reject+//w", Reject, vec![]),
    ] {
        let outcome = Bench::new("ab").process(&["first", payload, "last"]).unwrap();
        let expected = if verdict == Pass { vec![] } else { vec![Pass, verdict, Pass] };
        assert_eq!(outcome.verdicts, expected, "{payload}");
        assert_eq!(shown(&outcome.outputs), outputs, "{payload}");
        let rejected = outcome.reasons.len();
        assert_eq!(rejected, usize::from(verdict == Reject), "{payload}");
        assert_eq!(outcome.rejected_by.len(), rejected, "{payload}");
    }
}

#[test]
fn a_later_plugin_sees_a_part_as_a_message() {
    let mut bench = Bench::new("ab");
    bench.process(&["a=T/k/v+//w", "x"]).unwrap();
    // The topic of the output if there is one, else the message's own.
    assert_eq!(bench.seen()[1], "b T:v, t:w, t:x");

    let mut whole = batch(&["p", "q"]);
    whole.properties.push((1, vec![1, 0].into()));
    let parts =
        [Part { of: 1, emitted: Some(Emitted { topic: "T".into(), key: "k".into(), value: "v".into() }) }];
    let gathered = gather(&whole, &parts);
    let message = gathered.message(0);
    assert_eq!((message.topic(), message.payload(), message.received_at()), ("T", &b"v"[..], 1));
    assert_eq!((message.flags(), message.properties()), (whole.flags[1], Some(&[1, 0][..])));
}

#[test]
fn a_rejection_names_its_plugin() {
    let outcome = Bench::new("abc").process(&["c=reject", "x", "a=reject", "b=reject"]).unwrap();
    let said: Vec<_> = outcome.reasons.iter().map(|(of, reason)| (*of, reason.as_str())).collect();
    assert_eq!(said, [(0, "c says no"), (2, "a says no"), (3, "b says no")]);
    assert_eq!(outcome.rejected_by, [2, 0, 1]);
}

#[test]
fn a_fault_makes_all_begin_anew_and_names_its_plugin() {
    let mut bench = Bench::new("abc");
    bench.process(&["a=hold", "c=hold"]).unwrap();
    bench.seen();
    let fault = bench.process(&["x", "b=fault"]).unwrap_err();
    assert_eq!((fault, bench.chain.at_fault()), (Fault::Trap("in b".into()), 1));
    assert_eq!(bench.seen()[1..], ["a begins anew", "b begins anew", "c begins anew"]);
    assert!(bench.chain.flush().unwrap().is_empty(), "what was held is offered again, and not given twice");
}

#[test]
fn what_is_held_goes_through_the_plugins_behind() {
    let mut bench = Bench::new("abc");
    let outcome = bench.process(&["a=hold 1", "2", "a=hold 3", "b=hold 4"]).unwrap();
    assert_eq!(outcome.verdicts, [Hold, Pass, Hold, Hold]);
    bench.seen();
    let outputs = bench.chain.flush().unwrap();
    assert_eq!(shown(&outputs), ["- sums//sum 1 3", "- sums//sum 4"]);
    // The flush of a passes b and c; that of b passes c.
    assert_eq!(bench.seen(), ["b sums:sum 1 3", "c sums:sum 1 3", "c sums:sum 4"]);
    assert!(bench.chain.flush().unwrap().is_empty());
}

#[test]
fn a_later_plugin_may_hold_what_an_earlier_one_flushed() {
    let mut bench = Bench::new("ab");
    bench.process(&["a=hold b=hold"]).unwrap();
    assert_eq!(shown(&bench.chain.flush().unwrap()), ["- sums//sum sum"]);
}

#[test]
fn the_other_parts_of_a_held_message_wait_for_the_flush() {
    let mut bench = Bench::new("ab");
    let first = bench.process(&["x", "b=hold 1"]).unwrap();
    assert_eq!(first.verdicts, [Pass, Hold]);
    let second = bench.process(&["a=T/k/v+//b=hold_2", "a=U//u"]).unwrap();
    assert_eq!((second.verdicts, shown(&second.outputs)), (vec![Hold, Emit], vec!["1 U//u".to_owned()]));
    // The second of the held messages has it; behind it comes what belongs to none.
    assert_eq!(shown(&bench.chain.flush().unwrap()), ["1 T/k/v", "- sums//sum 1 2"]);
}

#[test]
fn a_flush_that_a_later_plugin_rejects_or_faults_on_is_a_fault_of_that_one() {
    let mut bench = Bench::new("ab");
    bench.process(&["a=hold flush-fault"]).unwrap();
    assert_eq!(bench.chain.flush().unwrap_err(), Fault::Trap("in the flush of a".into()));
    assert_eq!(bench.chain.at_fault(), 0);
    bench.process(&["a=hold b=reject"]).unwrap();
    let fault = bench.chain.flush().unwrap_err().to_string();
    assert!(fault.ends_with("it rejected what an earlier plugin gave in a flush: b says no"), "{fault}");
    assert_eq!(bench.chain.at_fault(), 1);
}

#[test]
fn the_slowest_plugin_sets_the_pace() {
    let link = |at_a_time| -> Box<dyn Transform> {
        Box::new(Script { name: 'a', held: Vec::new(), seen: Arc::default(), at_a_time })
    };
    let mut chain = Chain::new(vec![link(usize::MAX), link(30)]);
    assert_eq!(chain.at_a_time(), 30);
    // The first makes three parts of a message, so the second can take a third of the messages.
    chain.process(&mut batch(&["a=//1+//2+//3", "a=//4+//5+//6"])).unwrap();
    assert_eq!(chain.at_a_time(), 10);
    assert_eq!(Chain::new(vec![link(0)]).at_a_time(), 1);
}

#[test]
fn what_waits_for_a_flush_is_bounded() {
    let mut bench = Bench::new("ab");
    // One part of the message is held, and the other, which is large, waits for it.
    let waits = format!("a=//b=hold+//{}", "x".repeat(WAITING / 2 + 1));
    for full in [false, true] {
        bench.process(&[&waits]).unwrap();
        assert_eq!(bench.chain.is_full(), full);
    }
    bench.chain.flush().unwrap();
    assert!(!bench.chain.is_full());
}
