#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc::error::TryRecvError;

use super::*;
use crate::config::Format;
use crate::message::{Tally, Verdict};
use crate::record::tests::{column, delivery, delivery_of, record, shape};

fn line(payload: &str) -> String {
    format!("{{\"topic\":\"events\",\"key\":\"a\",\"value\":\"{payload}\"}}\n")
}

fn sink(folder: &tempfile::TempDir) -> (std::path::PathBuf, FileSink) {
    let file = folder.path().join("out.jsonl");
    let sink = FileSink::open(&file, true).unwrap();
    (file, sink)
}

#[test]
fn deliveries_are_appended_and_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (file, sink) = sink(&folder);
    let status = Status::default();
    sink.attach(status.clone());
    for payload in ["1", "2"] {
        let (delivery, mut settled) = delivery(&[("a", payload.as_bytes()), ("a", b"x")]);
        let shape = delivery.shape.clone();
        sink.deliver(delivery).unwrap();
        assert_eq!(settled.try_recv().unwrap().tally, Tally { committed: 2, ..Tally::default() });
        assert_eq!(shape.metrics.records_written.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), [line("1"), line("x"), line("2"), line("x")].concat());
    assert!(status.reasons().is_empty());
}

#[test]
fn a_torn_line_is_cut_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.jsonl");
    let long = "x".repeat(10_000);
    for (before, after) in [
        (line("1") + "{\"topic\":\"ev", line("1")),
        (line("1") + &long, line("1")),
        (line(&long), line(&long)),
        (long.clone(), String::new()),
        (String::new(), String::new()),
    ] {
        std::fs::write(&file, before).unwrap();
        let sink = FileSink::open(&file, false).unwrap();
        sink.deliver(delivery(&[("a", b"2")]).0).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), after + &line("2"));
    }
}

#[test]
fn two_hosts_cannot_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _sink) = sink(&folder);
    assert!(matches!(FileSink::open(&file, false), Err(SinkError::InUse { .. })));
}

#[test]
fn nothing_is_settled_while_nothing_can_be_written() {
    let sink = Arc::new(FileSink::open(Path::new("/dev/full"), false).unwrap());
    let status = Status::default();
    sink.attach(status.clone());
    let (delivery, mut settled) = delivery(&[("a", b"1")]);
    let writer = thread::spawn({
        let sink = sink.clone();
        move || sink.deliver(delivery)
    });
    while status.reasons().is_empty() {
        thread::yield_now();
    }
    assert!(
        status.reasons()[0].starts_with("sink: cannot write records: No space left"),
        "{:?}",
        status.reasons()
    );
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Empty);
    drop(sink.close());
    assert!(matches!(writer.join().unwrap(), Err(SinkError::Closed)));
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

/// Takes `room` bytes, then fails `failures` times, then has room again.
#[derive(Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: usize,
    failures: usize,
}

impl Write for Disk {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = from.len().min(self.room);
        if n == 0 {
            self.failures -= 1;
            self.room = if self.failures == 0 { usize::MAX } else { 10 };
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= n;
        self.bytes.lock().unwrap().extend_from_slice(&from[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for Disk {
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_is_never_left_torn() {
    for length in [Some(0), None] {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let disk = Disk { bytes: bytes.clone(), room: 70, failures: 2 };
        let sink = FileSink::new(Output { length, ..Output::stream(Box::new(disk)) });
        for payload in ["1", "2", "3"] {
            sink.deliver(delivery(&[("a", payload.as_bytes())]).0).unwrap();
        }
        let written = String::from_utf8(bytes.lock().unwrap().clone()).unwrap();
        assert_eq!(written, [line("1"), line("2"), line("3")].concat());
    }
}

#[test]
fn a_reader_that_is_gone_ends_the_sink() {
    let (reader, writer) = io::pipe().unwrap();
    let writer = File::from(std::os::fd::OwnedFd::from(writer));
    let sink = FileSink::new(Output::stream(Box::new(writer)));
    drop(reader);
    let (delivery, mut settled) = delivery(&[("a", b"1")]);
    assert!(matches!(sink.deliver(delivery), Err(SinkError::ReaderGone)));
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn a_record_that_no_sink_can_take_goes_where_on_fault_says() {
    let tally = |dropped, dead_lettered| Some(Tally { committed: 1, dropped, dead_lettered });
    for (on_fault, expected, lines) in [
        (BadMessage::DeadLetter, tally(0, 1), 2),
        (BadMessage::Drop, tally(1, 0), 1),
        (BadMessage::Stop, None, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (file, sink) = sink(&folder);
        let (shape, mut stopped) = shape(record("events", Format::Raw), on_fault);
        let (mut delivery, mut settled) = delivery_of(shape, &[("a", b"1"), ("a", b"2")]);
        delivery.outcome.verdicts = vec![Verdict::Emit, Verdict::Pass];
        delivery.outcome.outputs.of = vec![0, 0];
        delivery.outcome.outputs.topics = column(&["not/legal", "not/legal"]);
        delivery.outcome.outputs.values = column(&["x", "y"]);
        sink.deliver(delivery).unwrap();
        match expected {
            Some(tally) => assert_eq!(settled.try_recv().unwrap().tally, tally),
            None => {
                assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Disconnected);
                assert!(stopped.try_recv().unwrap().starts_with("the plugin named the topic `not/legal`"));
            }
        }
        let written = std::fs::read_to_string(file).unwrap();
        assert_eq!(written.lines().count(), lines, "{written}");
        let letters = written.lines().filter(|line| line.starts_with(r#"{"topic":"events.dlq""#)).count();
        assert_eq!(letters, usize::from(on_fault == BadMessage::DeadLetter));
    }
}
