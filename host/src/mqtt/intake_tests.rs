use std::path::Path;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes::{self as mqttbytes5, v5};

use super::super::testing::{Pipeline, driver, pipeline, publish, settings};
use super::*;
use crate::message::Work;
use crate::metrics::MqttSourceMetricsSnapshot;
use crate::mqtt::epoch_nanos;
use crate::properties::parse_properties;

struct Bench {
    intake: Intake,
    buffer: ReadBuffer,
    pipeline: Pipeline,
    metrics: Arc<SourceMetrics>,
}

fn bench(workers: usize, change: impl FnOnce(&mut Mqtt)) -> Bench {
    let mut settings = settings(1);
    settings.max_inflight = 100_000;
    change(&mut settings);
    let (outlet, pipeline) = pipeline(workers);
    let driver = driver(settings, Path::new("/nonexistent"));
    let mut intake = Intake::new(&driver, outlet).unwrap();
    intake.session.connected(false);
    Bench { intake, buffer: ReadBuffer::new(), pipeline, metrics: driver.metrics }
}

/// A message, as plain data.
#[derive(Debug, Clone, PartialEq)]
struct Plain {
    topic: String,
    payload: Vec<u8>,
    packet_id: u16,
    flags: u8,
    properties: Option<Vec<u8>>,
    oversized: Option<usize>,
}

fn plain(batch: &Batch) -> Vec<Plain> {
    assert_eq!(batch.received_at.len(), batch.len());
    assert_eq!(batch.sequences.iter().count(), batch.len());
    batch
        .messages()
        .map(|message| Plain {
            topic: message.topic().to_owned(),
            payload: message.payload().to_vec(),
            packet_id: message.packet_id(),
            flags: message.flags().bits(),
            properties: message.properties().map(<[u8]>::to_vec),
            oversized: batch.oversized,
        })
        .collect()
}

impl Bench {
    /// Reads `bytes` as far as the buffer has space for, decodes until more is needed, and takes what the workers get.
    fn read(&mut self, mut bytes: &[u8], to: &mut Vec<Plain>) -> Result<(), MqttError> {
        while !bytes.is_empty() {
            let space = self.buffer.space();
            assert!(!space.is_empty());
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.buffer.filled(n);
            bytes = &bytes[n..];
            loop {
                let stop = self.intake.decode(&mut self.buffer);
                self.intake.finish(7)?;
                match stop? {
                    Stop::Read => break,
                    Stop::Full => assert!(self.take(to) > 0, "full, and nothing to hand on"),
                    Stop::Other(length) => self.buffer.advance(length, 0),
                    Stop::Oversized(skipped) => self.intake.oversized(skipped, 7),
                }
            }
        }
        while self.take(to) > 0 {}
        Ok(())
    }

    /// Settles one batch of each worker.
    fn take(&mut self, to: &mut Vec<Plain>) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        self.intake.progress(&mut cx).unwrap();
        let mut taken = 0;
        for worker in 0..self.pipeline.work.len() {
            if let Ok(Work::Batch(batch)) = self.pipeline.work[worker].try_recv() {
                to.extend(plain(&batch));
                taken += batch.len();
                self.pipeline.settle(batch);
            }
        }
        self.intake.progress(&mut cx).unwrap();
        taken
    }
}

/// Topic, payload, QoS, RETAIN, DUP, content type.
type Packet = (String, Vec<u8>, u8, bool, bool, Option<String>);

fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let payload = prop_oneof![
        40 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => (250_000usize..300_000).prop_map(|n| vec![7; n]),
    ];
    let packet = (
        "[a-zäß/ ]{1,12}",
        payload,
        0u8..3,
        any::<bool>(),
        any::<bool>(),
        proptest::option::of("[a-z]{0,5}"),
    );
    proptest::collection::vec(packet, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the codecs encode, wherever reads cut it, becomes the same messages.
    #[test]
    fn decodes_as_the_codecs_do(
        packets in packets(),
        v5 in any::<bool>(),
        workers in 1usize..4,
        max_batch in 1usize..50,
        cuts in proptest::collection::vec(1usize..60_000, 1..20),
    ) {
        let mut bench = bench(workers, |settings| {
            settings.version = if v5 { Version::V5 } else { Version::V4 };
            settings.max_batch = max_batch;
            settings.max_packet_size = 290_000;
        });
        let mut stream = BytesMut::new();
        let mut expected = Vec::new();
        for (i, (topic, payload, qos, retain, dup, content_type)) in packets.into_iter().enumerate() {
            let pkid = i as u16 + 1;
            let before = stream.len();
            let mut properties = None;
            if v5 {
                let mut packet = v5::Publish::new(
                    topic.clone(), mqttbytes5::qos(qos).unwrap(), Bytes::from(payload.clone()), None,
                );
                (packet.retain, packet.dup, packet.pkid) = (retain, dup, pkid);
                if let Some(content_type) = content_type {
                    properties = Some([&[3, 0, content_type.len() as u8], content_type.as_bytes()].concat());
                    packet.properties =
                        Some(v5::PublishProperties { content_type: Some(content_type), ..Default::default() });
                }
                packet.write(&mut stream).unwrap();
            } else {
                let mut packet = v4::Publish::new(topic.clone(), mqttbytes::qos(qos).unwrap(), payload.clone());
                (packet.retain, packet.dup, packet.pkid) = (retain, dup, pkid);
                packet.write(&mut stream).unwrap();
            }
            let size = stream.len() - before;
            let oversized = (size > 290_000).then_some(size);
            expected.push(Plain {
                topic,
                payload: if oversized.is_some() { Vec::new() } else { payload },
                packet_id: if qos == 0 { 0 } else { pkid },
                flags: qos | u8::from(retain) << 2 | u8::from(dup) << 3,
                properties: properties.filter(|_| oversized.is_none()),
                oversized,
            });
            if i % 5 == 0 {
                stream.extend_from_slice(&[0xd0, 0]);
            }
        }
        let (mut got, mut rest, mut cuts) = (Vec::new(), &stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            bench.read(now, &mut got).unwrap();
            rest = later;
        }
        if workers > 1 {
            // Order is per topic.
            got.sort_by(|a, b| a.topic.cmp(&b.topic));
            expected.sort_by(|a, b| a.topic.cmp(&b.topic));
        }
        prop_assert_eq!(&got, &expected);
        let ledger = bench.metrics.ledger();
        prop_assert_eq!((ledger.received, ledger.in_flight()), (expected.len() as u64, 0));
        let bytes: usize = expected.iter().map(|plain| plain.topic.len() + plain.payload.len()).sum();
        prop_assert_eq!(ledger.received_bytes, bytes as u64);
        prop_assert_eq!((bench.intake.session.messages(), bench.intake.session.bytes()), (0, 0));
    }

    #[test]
    fn garbage_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..3_000), v5 in any::<bool>(), publish in any::<bool>(),
    ) {
        let mut bench = bench(2, |settings| settings.version = if v5 { Version::V5 } else { Version::V4 });
        let mut bytes = bytes;
        if publish && let Some(first) = bytes.first_mut() {
            *first = 0x30 | *first & 0xf;
        }
        let _ = bench.read(&bytes, &mut Vec::new());
    }

    /// A good packet with some bytes changed: we refuse what the codec refuses, and illegal topics besides.
    #[test]
    fn agrees_with_the_codecs_about_damage(
        payload in proptest::collection::vec(any::<u8>(), 0..20),
        qos in 0u8..3,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        v5 in any::<bool>(),
    ) {
        let mut packet = publish(v5, "a/bc", &payload, qos, 9);
        // The frame stays: type and length are those of a PUBLISH.
        for (index, byte) in damage {
            let at = index.index(packet.len() - 2) + 2;
            packet[at] = byte;
        }
        let mut bytes = BytesMut::from(packet.as_slice());
        let codec = if v5 {
            match v5::Packet::read(&mut bytes, None) {
                Ok(v5::Packet::Publish(p)) => String::from_utf8(p.topic.to_vec()).map_err(|e| e.to_string()),
                other => Err(format!("{other:?}")),
            }
        } else {
            match v4::Packet::read(&mut bytes, 1 << 20) {
                Ok(v4::Packet::Publish(p)) => Ok(p.topic),
                other => Err(format!("{other:?}")),
            }
        };
        let legal = codec.and_then(|topic| super::super::validate_topic_name(&topic));
        let mut bench = bench(1, |settings| settings.version = if v5 { Version::V5 } else { Version::V4 });
        let mut got = Vec::new();
        match bench.read(&packet, &mut got) {
            Ok(()) => {
                prop_assert_eq!(got.len(), 1);
                // The inside of the properties is looked at when it is asked for.
                let well_formed = got[0].properties.as_ref().is_none_or(|block| parse_properties(block).is_some());
                prop_assert!(legal.is_ok() || !well_formed, "we took what the codec refuses: {legal:?}");
            }
            Err(error) => prop_assert!(legal.is_err(), "we refused what the codec takes: {error}"),
        }
    }
}

#[test]
fn nothing_from_an_illegal_topic_on_enters_and_all_before_it_does() {
    for illegal in ["x/+", "#", "nul\0", "\u{e9}"] {
        let mut stream = Vec::new();
        for id in 1..=3 {
            stream.extend(publish(false, &format!("topic/{id}"), b"good", 1, id));
        }
        let mut bad = publish(false, illegal, b"bad", 2, 4);
        if illegal == "\u{e9}" {
            // The first byte of a character ends one topic, the second begins the next.
            bad = publish(false, "?", b"bad", 2, 4);
            bad[4] = 0xc3;
            let mut next = publish(false, "?", b"", 2, 5);
            next[4] = 0xa9;
            bad.extend(next);
        }
        stream.extend(bad);
        stream.extend(publish(false, "topic/6", b"late", 1, 6));
        for workers in 1..4 {
            let mut bench = bench(workers, |_| {});
            let mut got = Vec::new();
            let error = bench.read(&stream, &mut got).unwrap_err();
            assert!(matches!(error, MqttError::Malformed { packet: "PUBLISH", .. }), "{error}");
            while bench.take(&mut got) > 0 {}
            got.sort_by_key(|plain| plain.packet_id);
            assert_eq!(got.iter().map(|plain| plain.packet_id).collect::<Vec<_>>(), [1, 2, 3], "{illegal:?}");
            let ledger = bench.metrics.ledger();
            assert_eq!((ledger.received, ledger.in_flight()), (3, 0));
            assert_eq!(bench.intake.session.messages(), 0);
            assert!(!bench.intake.session.suppress(4), "an identifier is remembered that never entered");
        }
    }
}

#[test]
fn the_window_is_exact_in_messages_and_in_bytes() {
    let stream: Vec<u8> = (1..=20).flat_map(|id| publish(false, "t", &[0; 9], 1, id)).collect();
    for (messages, bytes, expected) in
        [(7, 1 << 20, 7), (100, 10 * 10, 10), (100, 10 * 10 + 9, 10), (100, 1, 1)]
    {
        let mut bench =
            bench(1, |settings| (settings.max_inflight, settings.max_inflight_bytes) = (messages, bytes));
        bench.buffer.space()[..stream.len()].copy_from_slice(&stream);
        bench.buffer.filled(stream.len());
        assert_eq!(bench.intake.decode(&mut bench.buffer).unwrap(), Stop::Full);
        bench.intake.finish(1).unwrap();
        assert_eq!(bench.intake.session.messages(), expected);
    }
}

#[test]
fn latency_is_counted_when_a_batch_is_handed_over() {
    const SECOND: u64 = 1_000_000_000;
    let mut bench = bench(1, |settings| settings.max_batch = 2);
    let mut cx = Context::from_waker(Waker::noop());
    let counts = bench.metrics.clone();
    let stream: Vec<u8> = (1..=3).flat_map(|id| publish(false, "t", b"x", 1, id)).collect();
    bench.buffer.space()[..stream.len()].copy_from_slice(&stream);
    bench.buffer.filled(stream.len());
    assert_eq!(bench.intake.decode(&mut bench.buffer).unwrap(), Stop::Full);
    bench.intake.finish(epoch_nanos() - 3 * SECOND).unwrap();
    assert_eq!(counts.mqtt.snapshot().receive_latency_us, 0);
    bench.intake.progress(&mut cx).unwrap();
    let of_two = counts.mqtt.snapshot();
    assert!((6_000_000..26_000_000).contains(&of_two.receive_latency_us), "{of_two:?}");
    assert_eq!(bench.intake.decode(&mut bench.buffer).unwrap(), Stop::Read);
    bench.intake.finish(epoch_nanos() - SECOND).unwrap();
    // The worker has not taken the first batch.
    bench.intake.progress(&mut cx).unwrap();
    assert_eq!(
        counts.mqtt.snapshot(),
        MqttSourceMetricsSnapshot { messages_received: 3, bytes_received: 6, ..of_two }
    );
    bench.take(&mut Vec::new());
    let all = counts.mqtt.snapshot();
    let last = all.receive_latency_us - of_two.receive_latency_us;
    assert!((1_000_000..21_000_000).contains(&last), "{all:?}");
    assert_eq!((all.batch_size_min, all.batch_size_max, all.batch_size_sum, all.batch_count), (1, 2, 3, 2));
}

/// What the metrics say is owed: messages, bytes, and the age in whole seconds.
fn owed(bench: &Bench) -> (u64, u64, u64) {
    let link = bench.metrics.snapshot().link;
    (link.unacknowledged, link.in_flight_bytes, link.oldest.as_secs())
}

#[test]
fn the_oldest_unacknowledged_message_is_known_also_over_a_reconnect() {
    const SECOND: u64 = 1_000_000_000;
    let mut bench = bench(1, |settings| settings.max_inflight = 8);
    let mut cx = Context::from_waker(Waker::noop());
    let mut read = |bench: &mut Bench, id: u16, age: u64| {
        let packet = publish(false, "t", b"x", 1, id);
        bench.buffer.space()[..packet.len()].copy_from_slice(&packet);
        bench.buffer.filled(packet.len());
        bench.intake.decode(&mut bench.buffer).unwrap();
        bench.intake.finish(epoch_nanos() - age * SECOND).unwrap();
        bench.intake.progress(&mut cx).unwrap();
        match bench.pipeline.work[0].try_recv() {
            Ok(Work::Batch(batch)) => batch,
            other => panic!("{other:?} instead of a batch"),
        }
    };
    assert_eq!(owed(&bench), (0, 0, 0));
    let first = read(&mut bench, 1, 300);
    let second = read(&mut bench, 2, 200);
    let third = read(&mut bench, 3, 100);
    assert_eq!(owed(&bench), (3, 6, 300));
    let settle = |bench: &mut Bench, batch| {
        bench.pipeline.settle(batch);
        bench.intake.progress(&mut Context::from_waker(Waker::noop())).unwrap();
    };
    // Settled, but not acknowledged before the first.
    settle(&mut bench, second);
    assert_eq!(owed(&bench), (3, 4, 300));
    settle(&mut bench, first);
    assert_eq!(owed(&bench), (1, 2, 100));
    bench.intake.disconnected();
    assert_eq!(owed(&bench), (0, 2, 100));
    bench.intake.session.connected(true);
    let again = read(&mut bench, 3, 50);
    assert_eq!(owed(&bench), (1, 4, 100));
    settle(&mut bench, third);
    assert_eq!(owed(&bench), (1, 2, 50));
    settle(&mut bench, again);
    assert_eq!(owed(&bench), (0, 0, 0));
    let last_commit = bench.metrics.snapshot().last_commit;
    assert!((epoch_nanos() as f64 / 1e9 - last_commit).abs() < 60.0, "{last_commit}");
}

#[test]
fn a_nearly_full_window_asks_an_aggregating_worker_once_to_flush() {
    let mut bench = bench(1, |settings| settings.max_inflight = 8);
    bench.intake.aggregating = Arc::new(true.into());
    let mut cx = Context::from_waker(Waker::noop());
    let mut works = Vec::new();
    for id in 1..=7 {
        let packet = publish(false, "t", b"", 1, id);
        bench.buffer.space()[..packet.len()].copy_from_slice(&packet);
        bench.buffer.filled(packet.len());
        assert_eq!(bench.intake.decode(&mut bench.buffer).unwrap(), Stop::Read);
        bench.intake.finish(1).unwrap();
        for _ in 0..3 {
            bench.intake.progress(&mut cx).unwrap();
            works.extend(bench.pipeline.work[0].try_recv());
        }
    }
    let kinds: Vec<bool> = works.iter().map(|work| matches!(work, Work::Flush)).collect();
    assert_eq!(kinds, [false, false, false, false, false, false, true, false]);
    // Something is settled, but the window is nearly full still.
    let Work::Batch(batch) = works.remove(0) else { panic!("no batch") };
    bench.pipeline.settle(batch);
    bench.intake.progress(&mut cx).unwrap();
    assert!(matches!(bench.pipeline.work[0].try_recv(), Ok(Work::Flush)));
    bench.intake.progress(&mut cx).unwrap();
    assert!(bench.pipeline.work[0].try_recv().is_err());
}

#[test]
fn shards_are_stable_and_in_range() {
    let mut seen = [0; 4];
    for i in 0..1_000 {
        let topic = format!("building/{i}/temperature");
        let shard = shard(topic.as_bytes(), 4);
        assert_eq!(shard, super::shard(topic.as_bytes(), 4));
        seen[shard] += 1;
    }
    assert!(seen.iter().all(|&n| n > 150), "{seen:?}");
    assert_eq!(shard(b"anything", 1), 0);
}

#[test]
fn settled_batches_are_kept_until_the_source_is_idle() {
    let mut bench = bench(1, |_| {});
    assert!(!bench.intake.keeps_memory());
    let mut taken = Vec::new();
    bench.read(&publish(false, "t", b"x", 1, 1), &mut taken).unwrap();
    assert!(bench.intake.keeps_memory());
    bench.intake.release_memory();
    assert!(!bench.intake.keeps_memory());
    bench.read(&publish(false, "t", b"y", 1, 2), &mut taken).unwrap();
    assert_eq!(taken.len(), 2);
}

#[test]
fn duplicates_are_bounded_too() {
    let mut bench = bench(1, |settings| settings.max_inflight = 10);
    let packet = publish(false, "t", b"", 2, 7);
    let room = bench.buffer.space().len() / packet.len();
    let read: Vec<u8> = packet.iter().copied().cycle().take(room * packet.len()).collect();
    let mut reads = 0;
    // The message itself is never settled, so each of its duplicates waits.
    loop {
        bench.buffer.space()[..read.len()].copy_from_slice(&read);
        bench.buffer.filled(read.len());
        let stop = bench.intake.decode(&mut bench.buffer).unwrap();
        bench.intake.finish(1).unwrap();
        if stop == Stop::Full {
            break;
        }
        reads += 1;
        assert!(reads < 100, "nothing stops the duplicates");
    }
    assert_eq!(bench.intake.session.unacknowledged(), 10 + MAX_DUPLICATES);
    assert_eq!(bench.intake.session.messages(), 1);
}

#[test]
fn a_window_that_waits_behind_a_held_message_asks_for_a_flush() {
    let mut bench = bench(1, |settings| settings.max_inflight = 8);
    bench.intake.aggregating = Arc::new(true.into());
    let mut cx = Context::from_waker(Waker::noop());
    for id in 1..=8 {
        let packet = publish(false, "t", b"", 1, id);
        bench.buffer.space()[..packet.len()].copy_from_slice(&packet);
        bench.buffer.filled(packet.len());
        bench.intake.decode(&mut bench.buffer).unwrap();
        bench.intake.finish(1).unwrap();
        bench.intake.progress(&mut cx).unwrap();
        while let Ok(work) = bench.pipeline.work[0].try_recv() {
            match work {
                Work::Batch(batch) if id == 1 => drop(batch),
                Work::Batch(batch) => bench.pipeline.settle(batch),
                Work::Flush => return,
            }
            bench.intake.progress(&mut cx).unwrap();
        }
    }
    panic!("all but the first are settled, none can be acknowledged, and nobody asks for a flush");
}
