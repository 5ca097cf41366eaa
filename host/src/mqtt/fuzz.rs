//! The read path on any bytes: framing, PUBLISH, all other packets, and batches; and whether rumqttc's codec, and another one, see
//! the same in them.

use std::path::Path;
use std::task::{Context, Waker};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::intake::{Intake, Stop};
use super::packet::{self, Incoming};
use super::publish::{self, PUBLISH, ReadBuffer, legal_topic};
use super::second_opinion::{self, Said};
use super::testing::{Pipeline, driver, pipeline, settings};
use crate::config::{Retained, Version};
use crate::message::Work;
use crate::properties::parse_properties;

/// Packets that are greater are skipped.
const MAX_PACKET: usize = 1_024;

/// A PUBLISH, from whoever decoded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plain {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub packet_id: u16,
    /// QoS, RETAIN and DUP, as on the wire.
    pub flags: u8,
}

/// How many whole packets there were, all of which were taken or refused without harm.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub packets: u64,
    /// Those which the other codec takes as we do, and sees the same in.
    pub seen_alike: u64,
}

/// Reads `data` as it may come from a broker.
pub(crate) fn packets(version: Version, data: &[u8]) -> Checked {
    let mut rest = data;
    let mut checked = Checked::default();
    while let Ok(Some(head)) = publish::head(rest) {
        let Some((frame, after)) = rest.split_at_checked(head.total) else { break };
        checked.packets += 1;
        checked.seen_alike += u64::from(check_frame(version, frame));
        rest = after;
    }
    stream(version, data);
    checked
}

/// What we make of a whole PUBLISH: nothing where it, its topic name or its properties are malformed.
pub(crate) fn ours(version: Version, frame: &[u8]) -> Option<Plain> {
    let head = publish::head(frame).ok()??;
    let body = frame.get(head.length..)?;
    let publish = publish::publish(head.first, body, version == Version::V5).ok()?;
    let good = legal_topic(publish.topic) && parse_properties(publish.properties).is_some();
    good.then(|| Plain {
        topic: publish.topic.to_vec(),
        payload: publish.payload.to_vec(),
        packet_id: publish.packet_id,
        flags: head.first & 0xf,
    })
}

fn codec(version: Version, frame: &[u8]) -> Option<Plain> {
    let mut bytes = BytesMut::from(frame);
    let plain = match version {
        Version::V4 => match v4::Packet::read(&mut bytes, usize::MAX).ok()? {
            v4::Packet::Publish(p) => Plain {
                topic: p.topic.into_bytes(),
                payload: p.payload.to_vec(),
                packet_id: p.pkid,
                flags: (p.qos as u8 * 2) | u8::from(p.retain) | (u8::from(p.dup) << 3),
            },
            other => panic!("{other:?} instead of a PUBLISH"),
        },
        Version::V5 => match v5::Packet::read(&mut bytes, None).ok()? {
            v5::Packet::Publish(p) => Plain {
                topic: p.topic.to_vec(),
                payload: p.payload.to_vec(),
                packet_id: p.pkid,
                flags: (p.qos as u8 * 2) | u8::from(p.retain) | (u8::from(p.dup) << 3),
            },
            other => panic!("{other:?} instead of a PUBLISH"),
        },
    };
    legal_topic(&plain.topic).then_some(plain).filter(|plain| !plain.topic.is_empty())
}

/// Whether another codec sees the same in this packet; false where one of us refuses it.
fn check_frame(version: Version, frame: &[u8]) -> bool {
    if frame.first().is_some_and(|first| first >> 4 == PUBLISH) {
        return check_publish(version, frame);
    }
    match packet::decode(version, frame) {
        Ok(incoming) => {
            if let Incoming::SubAck { granted, .. } = &incoming {
                assert!(granted.len() < frame.len());
            }
            seen_alike(version, frame, incoming.into())
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

fn check_publish(version: Version, frame: &[u8]) -> bool {
    let (ours, codec) = (ours(version, frame), codec(version, frame));
    let seen = ours.clone().is_some_and(|plain| seen_alike(version, frame, Said::Publish(plain)));
    let known = match (&ours, &codec) {
        // rumqttc takes some properties that no PUBLISH may have, or that may come once.
        (None, Some(_)) => version == Version::V5,
        // It counts a byte too many for each subscription identifier, so that its payload may begin too early. The other codec
        // is on our side, or refuses the packet, as where a length has more bytes than it needs.
        (Some(_), Some(_)) => {
            version == Version::V5 && (seen || second_opinion::of(version, frame).is_none())
        }
        _ => false,
    };
    assert!(ours == codec || known, "{version:?}: {frame:?}: {ours:?} instead of {codec:?}");
    seen
}

fn seen_alike(version: Version, frame: &[u8], ours: Said) -> bool {
    let Some(theirs) = second_opinion::of(version, frame) else { return false };
    assert_eq!(ours, theirs, "{version:?}: {frame:?}");
    true
}

/// The same bytes as a connection reads them, in pieces: what enters is whole, is settled and leaves nothing behind.
fn stream(version: Version, data: &[u8]) {
    let mut random = fastrand::Rng::with_seed(
        data.iter().fold(7, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)),
    );
    let mut settings = settings(1);
    settings.version = version;
    settings.max_packet_size = MAX_PACKET;
    settings.max_inflight = random.usize(1..50);
    settings.max_batch = random.usize(1..20);
    settings.retained = random.choice([Retained::All, Retained::Skip]).unwrap_or_default();
    let (outlet, mut pipeline) = pipeline(random.usize(1..3));
    let driver = driver(settings, Path::new("/nonexistent"));
    let Ok(mut intake) = Intake::new(&driver, outlet) else { panic!("a clean session needs no store") };
    intake.session.connected(false);
    let mut buffer = ReadBuffer::new();
    let mut rest = data;
    'reads: while !rest.is_empty() {
        let space = buffer.space();
        let n = random.usize(1..200).min(rest.len()).min(space.len());
        space[..n].copy_from_slice(&rest[..n]);
        buffer.filled(n);
        rest = &rest[n..];
        loop {
            let stop = intake.decode(&mut buffer);
            let (Ok(settled), Ok(stop)) = (intake.finish(1), stop) else { break 'reads };
            match stop {
                Stop::Read => break,
                Stop::Full => {
                    let taken = take(version, &mut intake, &mut pipeline);
                    assert!(taken > 0 || settled, "full, and nothing to hand on");
                }
                Stop::Oversized(skipped) => intake.oversized(skipped, 1),
                Stop::Other(length) => {
                    let incoming = packet::decode(version, &buffer.unread()[..length]);
                    buffer.advance(length, 0);
                    match incoming {
                        Ok(Incoming::PubRel { packet_id }) => intake.session.release(packet_id),
                        Ok(_) => {}
                        Err(_) => break 'reads,
                    }
                }
            }
        }
    }
    while take(version, &mut intake, &mut pipeline) > 0 {}
    let ledger = driver.metrics.ledger();
    assert_eq!((ledger.in_flight(), intake.session.messages(), intake.session.bytes()), (0, 0, 0));
    assert_eq!(intake.session.unacknowledged(), 0);
    // Each acknowledgement has four bytes, and answers a packet that has at least as many.
    assert!(intake.session.out.len() <= data.len());
}

/// Settles one batch of each worker; how many messages that were.
fn take(version: Version, intake: &mut Intake, pipeline: &mut Pipeline) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(intake.progress(&mut cx).is_ok());
    let mut taken = 0;
    for worker in 0..pipeline.work.len() {
        if let Ok(Work::Batch(batch)) = pipeline.work[worker].try_recv() {
            assert_eq!((batch.received_at.len(), batch.packet_ids.len()), (batch.len(), batch.len()));
            assert_eq!(batch.sequences.len(), batch.len() as u64);
            for message in batch.messages() {
                assert!(!message.topic().is_empty() && message.payload().len() <= MAX_PACKET);
                assert_eq!(message.packet_id() == 0, message.flags().qos() as u8 == 0);
                assert!(version == Version::V5 || message.properties().is_none());
            }
            taken += batch.len();
            pipeline.settle(batch);
        }
    }
    assert!(intake.progress(&mut cx).is_ok());
    taken
}
