use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;

use bytes::Bytes;

use super::*;
use crate::config::{Format, Record, Template, TemplatePart};
use crate::delivery::Origin;
use crate::error::SinkError;
use crate::live::Quarantine;
use crate::message::{Flags, OutputColumn, QoS, StateChange, StateWrites, Tally};
use crate::record::{EventShape, Provenance};
use crate::status::Status;

/// Decides by payload, and holds in its own memory as a real instance does: a fault loses it.
#[derive(Default)]
struct Script {
    held: Vec<Vec<u8>>,
    calls: Vec<usize>,
    flush_faults: usize,
    /// 0: as many as there are.
    at_a_time: usize,
    /// What was written to state and not yet published: each payload, as a key.
    written: Vec<StateChange>,
    /// Asks to be flushed.
    full: bool,
    /// Bytes that it says it has written.
    unpublished: usize,
}

impl Transform for Script {
    fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        self.calls.push(batch.len());
        let mut outcome = Outcome::default();
        let mut values = Vec::new();
        for message in batch.messages() {
            let index = message.index() as u32;
            self.written.push((text(message.payload()).into(), None));
            let verdict = match message.payload() {
                b"pass" => Verdict::Pass,
                b"drop" => Verdict::Drop,
                b"reject" => {
                    outcome.reasons.push((index, "no".into()));
                    Verdict::Reject
                }
                b"two" => {
                    for value in [&b"1"[..], b"2"] {
                        values.extend_from_slice(value);
                        outcome.outputs.of.push(index);
                        outcome.outputs.values.ends.push(values.len() as u32);
                    }
                    Verdict::Emit
                }
                b"none" => Verdict::Emit,
                b"fault" => {
                    self.held.clear();
                    return Err(Fault::Trap("scripted".into()));
                }
                b"broken" => return Err(Fault::Init("no start".into())),
                held => {
                    self.held.push(held.to_vec());
                    Verdict::Hold
                }
            };
            outcome.verdicts.push(verdict);
        }
        outcome.outputs.values.data = values.into();
        Ok(outcome)
    }

    fn publish(&mut self, writes: &mut Vec<StateWrites>) {
        let changes = std::mem::take(&mut self.written);
        if !changes.is_empty() {
            writes.push(StateWrites { plugin: "script".into(), changes });
        }
    }

    fn roll_back(&mut self) {
        self.written.clear();
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        self.written.push(("flush".into(), None));
        if self.flush_faults > 0 {
            self.flush_faults -= 1;
            self.held.clear();
            return Err(Fault::Trap("in flush".into()));
        }
        let value = std::mem::take(&mut self.held).concat();
        let ends = vec![value.len() as u32];
        let values = OutputColumn { data: Bytes::from(value), ends };
        let topics = OutputColumn { data: Bytes::from_static(b"sums"), ends: vec![4] };
        Ok(Outputs { values, topics, ..Outputs::default() })
    }

    fn unpublished(&self) -> usize {
        self.unpublished
    }

    fn is_full(&self) -> bool {
        self.full && !self.held.is_empty()
    }

    fn at_a_time(&self) -> usize {
        if self.at_a_time == 0 { usize::MAX } else { self.at_a_time }
    }
}

/// Commits at once and remembers what the records were.
#[derive(Default)]
struct Memory(Mutex<Vec<String>>);

impl Sink for Memory {
    fn deliver(&self, delivery: Delivery) -> Result<(), SinkError> {
        for origin in delivery.records() {
            let record = match origin {
                Origin::Message(index) => {
                    format!("forward {}", text(delivery.batch.message(index as usize).payload()))
                }
                Origin::Output(index) => {
                    format!("output {}", text(delivery.outcome.outputs.values.get(index as usize)))
                }
                Origin::DeadLetter(index) => {
                    let letter = &delivery.dead_letters[index as usize];
                    let payload = delivery.batch.message(letter.message as usize).payload();
                    format!("dead {} {}: {}", letter.stage.name(), text(payload), letter.reason)
                }
            };
            self.0.lock().unwrap().push(record);
        }
        delivery.settle();
        Ok(())
    }

    fn attach(&self, _: Status) {}

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {})
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A processor, and both of its ends.
struct Bench {
    processor: Processor,
    sink: Arc<Memory>,
    settled: mpsc::UnboundedReceiver<Box<Batch>>,
    next: u64,
}

impl Bench {
    fn new(script: Script, on_reject: BadMessage, on_fault: BadMessage) -> Self {
        let record = Record {
            topic: Template(vec![TemplatePart::Text("out".into())]),
            key: None,
            format: Format::Raw,
            dead_letter_topic: "out.dlq".into(),
            partitions: None,
        };
        let from =
            Provenance { source: "s".into(), client_id: "c".into(), broker: "b".into(), plugins: vec![] };
        let (stop, _) = mpsc::unbounded_channel();
        let shape = Shape::new(record, EventShape::default(), from, on_fault, Arc::default(), stop);
        let sink = Arc::new(Memory::default());
        let (back, settled) = mpsc::unbounded_channel();
        let context = Context::new(Arc::new(shape), on_reject, sink.clone(), back);
        Bench { processor: Processor::new(Box::new(script), context), sink, settled, next: 0 }
    }

    /// Has batches go by way of a journal, which lets all of them pass and makes nothing durable.
    fn journaled(mut self) -> Self {
        let settled = self.processor.context.back.clone();
        self.processor.context.journal = Some(StateQueue { settled, durable: Arc::default() });
        self
    }

    fn batch(&mut self, payloads: &[&str]) -> Box<Batch> {
        let mut batch = Box::<Batch>::default();
        for payload in payloads {
            Arc::make_mut(&mut batch.topics).push(b"t");
            Arc::make_mut(&mut batch.payloads).push(payload.as_bytes());
            batch.packet_ids.push(self.next as u16 + 1);
            batch.flags.push(Flags::new(QoS::AtLeastOnce, false, false));
            batch.received_at.push(0);
            batch.sequences.push(self.next);
            self.next += 1;
        }
        batch
    }

    fn process(&mut self, payloads: &[&str]) -> Result<(), Stop> {
        let batch = self.batch(payloads);
        self.processor.process(batch)
    }

    fn records(&self) -> Vec<String> {
        std::mem::take(&mut self.sink.0.lock().unwrap())
    }

    /// Settled sequences, each at most once, and what became of them.
    fn settled(&mut self) -> (Vec<u64>, Tally) {
        let (mut sequences, mut sum) = (BTreeMap::new(), Tally::default());
        while let Ok(batch) = self.settled.try_recv() {
            for sequence in batch.sequences.iter() {
                assert_eq!(sequences.insert(sequence, ()), None, "{sequence} was settled twice");
            }
            sum.committed += batch.tally.committed;
            sum.dropped += batch.tally.dropped;
            sum.dead_lettered += batch.tally.dead_lettered;
        }
        (sequences.into_keys().collect(), sum)
    }
}

fn keep(script: Script) -> Bench {
    Bench::new(script, BadMessage::DeadLetter, BadMessage::DeadLetter)
}

#[test]
fn each_verdict_becomes_what_it_says() {
    let mut bench = keep(Script::default());
    bench.process(&["pass", "drop", "reject", "two", "none"]).unwrap();
    assert_eq!(bench.records(), ["forward pass", "output 1", "output 2", "dead plugin reject: no"]);
    let tally = Tally { committed: 2, dropped: 2, dead_lettered: 1 };
    assert_eq!(bench.settled(), (vec![0, 1, 2, 3, 4], tally));
}

#[test]
fn only_the_message_at_fault_is_taken_out() {
    let mut bench = keep(Script::default());
    bench.process(&["pass", "fault", "two"]).unwrap();
    let fault = "dead plugin fault: the plugin trapped: scripted";
    assert_eq!(bench.records(), ["forward pass", fault, "output 1", "output 2"]);
    assert_eq!(bench.settled(), (vec![0, 1, 2], Tally { committed: 2, dropped: 0, dead_lettered: 1 }));
}

#[test]
fn what_a_batch_wrote_to_state_goes_with_it_and_what_failed_wrote_is_gone() {
    let mut bench = keep(Script { flush_faults: 1, ..Script::default() }).journaled();
    bench.process(&["pass", "hold"]).unwrap();
    bench.process(&["drop", "fault", "two"]).unwrap();
    bench.processor.flush().unwrap();
    let mut oversized = bench.batch(&[""]);
    oversized.oversized = Some(1 << 20);
    bench.processor.process(oversized).unwrap();
    let mut commits = Vec::new();
    while let Ok(batch) = bench.settled.try_recv() {
        let keys = batch.state.into_iter().flat_map(|commit| {
            let changes = commit.writes.into_iter().flat_map(|writes| writes.changes);
            changes.map(|(key, _)| key.to_string()).chain([format!("#{}", commit.number)]).collect::<Vec<_>>()
        });
        commits.push((batch.sequences.iter().collect::<Vec<_>>(), keys.collect::<Vec<_>>().join(" ")));
    }
    let expected: [(&[u64], &str); 9] = [
        (&[0], "pass hold #0"),
        // The second batch faults as a whole; then comes again what was held, and each message by itself.
        (&[], "hold #1"),
        (&[2], "drop #2"),
        // What wrote nothing may have read what is not durable yet, so it waits for it.
        (&[3], "#3"),
        // That fault made a third instance, and what it has to take over is first again.
        (&[], "hold #3"),
        (&[4], "two #4"),
        // The first flush faults, the second succeeds.
        (&[], "hold #5"),
        (&[1], "flush #6"),
        (&[5], "#7"),
    ];
    assert_eq!(commits, expected.map(|(sequences, keys)| (sequences.to_vec(), keys.to_owned())));
}

#[test]
fn only_what_may_have_read_something_that_is_not_durable_waits_for_it() {
    let mut bench = keep(Script::default());
    bench.process(&["pass"]).unwrap();
    assert!(bench.settled.try_recv().unwrap().state.is_none(), "no state is kept");

    let mut bench = keep(Script::default()).journaled();
    let durable = bench.processor.context.journal.as_ref().unwrap().durable.clone();
    // A fault leaves nothing written, so its message only waits.
    let mut number = |payload: &str| {
        bench.process(&[payload]).unwrap();
        let state = bench.settled.try_recv().unwrap().state;
        state.map(|commit| (commit.number, commit.writes.len()))
    };
    assert_eq!(number("fault"), None);
    assert_eq!(number("pass"), Some((0, 1)));
    assert_eq!(number("fault"), Some((1, 0)));
    durable.store(1, std::sync::atomic::Ordering::Release);
    assert_eq!(number("fault"), None);
    assert_eq!(number("pass"), Some((1, 1)));
}

#[test]
fn what_was_written_to_state_is_room_that_others_wait_for_until_it_is_durable() {
    let mut bench = keep(Script { unpublished: 1 << 20, ..Script::default() }).journaled();
    let room = |bench: &Bench| bench.processor.context.budget.available_permits();
    bench.process(&["pass"]).unwrap();
    assert_eq!(room(&bench), BUDGET - (1 << 20));
    // More than all there is takes all there is: else it would wait for ever.
    let batch = bench.settled.try_recv().unwrap();
    drop(batch);
    assert_eq!(room(&bench), BUDGET);
    let mut bench = keep(Script { unpublished: 2 * BUDGET, ..Script::default() }).journaled();
    bench.process(&["two"]).unwrap();
    assert_eq!(room(&bench), 0);
    drop(bench.settled.try_recv().unwrap());
    assert_eq!(room(&bench), BUDGET);
}

#[test]
fn a_plugin_whose_list_keeps_too_much_is_flushed() {
    let mut bench = keep(Script { full: true, ..Script::default() });
    bench.process(&["a", "pass"]).unwrap();
    assert!(!bench.processor.holds());
    assert_eq!(bench.records(), ["forward pass", "output a"]);
    assert_eq!(bench.settled(), (vec![0, 1], Tally { committed: 2, ..Tally::default() }));
}

/// Faults on everything. At its second call there is another plugin.
struct Bad(usize, mpsc::Sender<Swap>, Option<Swap>);

impl Transform for Bad {
    fn process(&mut self, _: &mut Batch) -> Result<Outcome, Fault> {
        self.0 += 1;
        if let Some(swap) = self.2.take_if(|_| self.0 == 2) {
            self.1.try_send(swap).ok().unwrap();
        }
        Err(Fault::Trap("scripted".into()))
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        Ok(Outputs::default())
    }
}

#[test]
fn a_plugin_is_replaced_while_its_faults_are_worked_off() {
    let mut bench = keep(Script::default());
    let (sender, swaps) = mpsc::channel(1);
    let quarantine = Arc::new(Quarantine::new("s", 0, Status::default(), Arc::default()));
    let (taken, _) = mpsc::channel(1);
    let shape = bench.processor.context.shape.clone();
    let swap = Swap { transform: Box::new(PassAll), shape, generation: quarantine.renew(), taken };
    bench.processor.transform = Box::new(Bad(0, sender, Some(swap)));
    bench.processor.live = Some(Live::new(quarantine, swaps));
    bench.process(&["a", "b", "c"]).unwrap();
    let fault = "dead plugin a: the plugin trapped: scripted";
    assert_eq!(bench.records(), [fault, "forward b", "forward c"]);
    assert_eq!(bench.settled(), (vec![0, 1, 2], Tally { committed: 2, dropped: 0, dead_lettered: 1 }));
}

#[test]
fn a_slow_plugin_gets_a_batch_in_pieces() {
    let mut bench = keep(Script { at_a_time: 2, ..Script::default() });
    bench.process(&["pass", "two", "a", "fault", "drop"]).unwrap();
    bench.processor.flush().unwrap();
    let fault = "dead plugin fault: the plugin trapped: scripted";
    assert_eq!(bench.records(), ["forward pass", "output 1", "output 2", fault, "output a"]);
    let mut sizes = Vec::new();
    while let Ok(batch) = bench.settled.try_recv() {
        sizes.push(batch.sequences.iter().collect::<Vec<_>>());
    }
    // The second piece faulted and was offered message by message. What it held before the fault was offered again, and is
    // settled by the flush.
    assert_eq!(sizes, [vec![0, 1], vec![], vec![3], vec![], vec![4], vec![2]]);
}

#[test]
fn held_messages_are_settled_by_the_flush_that_has_them() {
    let mut bench = keep(Script::default());
    bench.process(&["a", "pass", "b"]).unwrap();
    assert!(bench.processor.holds());
    assert_eq!(bench.settled(), (vec![1], Tally { committed: 1, ..Tally::default() }));
    bench.processor.flush().unwrap();
    assert_eq!(bench.records(), ["forward pass", "output ab"]);
    assert_eq!(bench.settled(), (vec![0, 2], Tally { committed: 2, ..Tally::default() }));
    assert!(!bench.processor.holds());
    bench.processor.flush().unwrap();
    assert!(bench.records().is_empty(), "nothing is held, so nothing is flushed");
}

#[test]
fn a_fault_loses_nothing_that_is_held() {
    let mut bench = keep(Script::default());
    bench.process(&["a", "b"]).unwrap();
    bench.process(&["c", "fault", "d", "fault"]).unwrap();
    bench.processor.flush().unwrap();
    let records = bench.records();
    assert_eq!(records.last().unwrap(), "output abcd");
    assert_eq!(records.len(), 3);
    let tally = Tally { committed: 4, dropped: 0, dead_lettered: 2 };
    assert_eq!(bench.settled(), (vec![0, 1, 2, 3, 4, 5], tally));
}

#[test]
fn a_flush_that_faults_once_is_asked_again_and_twice_gives_the_messages_up() {
    let mut bench = keep(Script { flush_faults: 1, ..Script::default() });
    bench.process(&["a", "b"]).unwrap();
    bench.processor.flush().unwrap();
    assert_eq!(bench.records(), ["output ab"]);
    assert_eq!(bench.settled().1, Tally { committed: 2, ..Tally::default() });

    let mut bench = keep(Script { flush_faults: 2, ..Script::default() });
    bench.process(&["a", "b"]).unwrap();
    bench.processor.flush().unwrap();
    let reason = "in flush: the plugin trapped: in flush";
    assert_eq!(bench.records(), [format!("dead plugin a: {reason}"), format!("dead plugin b: {reason}")]);
    assert_eq!(bench.settled(), (vec![0, 1], Tally { dead_lettered: 2, ..Tally::default() }));
}

#[test]
fn the_policy_drops_or_stops() {
    let mut bench = Bench::new(Script::default(), BadMessage::Drop, BadMessage::Stop);
    bench.process(&["pass", "reject"]).unwrap();
    assert_eq!(bench.records(), ["forward pass"]);
    assert_eq!(bench.settled(), (vec![0, 1], Tally { committed: 1, dropped: 1, dead_lettered: 0 }));

    let Stop(reason) = bench.process(&["fault", "pass"]).unwrap_err();
    assert_eq!(reason, "a message on t cannot go on: the plugin trapped: scripted");
    assert_eq!(
        bench.settled().0,
        [0u64; 0],
        "what caused the stop stays unacknowledged, and what came after it too"
    );
}

#[test]
fn a_plugin_that_does_not_start_again_stops_the_source_and_blames_no_message() {
    let mut bench = keep(Script::default());
    let Stop(reason) = bench.process(&["broken"]).unwrap_err();
    assert_eq!(reason, "the plugin does not start again: no start");
    assert!(bench.records().is_empty());
    assert_eq!(bench.settled().0, [0u64; 0]);
}

#[test]
fn an_oversized_packet_goes_past_the_plugin() {
    let mut bench = keep(Script::default());
    let mut batch = bench.batch(&[""]);
    batch.oversized = Some(300_000);
    bench.processor.process(batch).unwrap();
    let reason = "the packet of 300000 bytes is greater than max_packet_size";
    assert_eq!(bench.records(), [format!("dead oversized : {reason}")]);
    assert_eq!(bench.settled(), (vec![0], Tally { dead_lettered: 1, ..Tally::default() }));
}
