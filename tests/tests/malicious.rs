//! A broker that means harm. Whatever it sends: a named error, the connection closed and tried again with backoff, memory and
//! processor time within bounds, and another source of the same host that does not notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use rivven_integration_tests::config;
use rivven_integration_tests::host::Host;
use rivven_integration_tests::peer::Peer;
use rivven_integration_tests::scripted::{Scripted, Session};
use rivven_integration_tests::usage::Usage;
use rivven_integration_tests::wait::wait_for;
use rumqttc::QoS;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Nothing here makes a host greater than this, in bytes.
const MEMORY: u64 = 150 << 20;
/// How long a flood waits for a client that has stopped reading.
const PATIENCE: Duration = Duration::from_secs(2);

/// A host with one source at a broker that means harm, and one at a good broker.
struct Siege {
    host: Host,
    attacker: Scripted,
    good: Scripted,
    /// The good broker's session.
    session: Session,
    five: bool,
    messages: u16,
    begun: (Instant, Duration),
}

impl Siege {
    async fn begin(five: bool, keys: Value) -> Siege {
        let (attacker, good) = (Scripted::listen().await.unwrap(), Scripted::listen().await.unwrap());
        let mut victim = config::source(&attacker.url(), &["a/#"]);
        victim["config"]["qos"] = "exactly_once".into();
        victim["config"]["mqtt_version"] = if five { "5.0" } else { "3.1.1" }.into();
        for (key, value) in keys.as_object().unwrap() {
            victim["config"][key] = value.clone();
        }
        let sources =
            json!({ "sources": { "victim": victim, "other": config::source(&good.url(), &["a/#"]) } });
        let host = Host::start_with(&sources, &["--sink", "discard"]).unwrap();
        let (session, ..) = good.accept_fresh().await.unwrap();
        let cpu = Usage::of(host.id()).unwrap().cpu;
        Siege { host, attacker, good, session, five, messages: 0, begun: (Instant::now(), cpu) }
    }

    async fn open(&self) -> Peer {
        Peer::open(&self.attacker, self.five).await.unwrap()
    }

    async fn welcome(&self) -> Peer {
        Peer::welcome(&self.attacker, self.five).await.unwrap()
    }

    async fn accept(&self) -> Peer {
        Peer::accept(&self.attacker, self.five).await.unwrap()
    }

    /// `/ready` or the log says so.
    async fn named(&self, reason: &str) {
        let said = async || {
            let ready = self.host.get("/ready").await.map(|answer| answer.body).unwrap_or_default();
            ready.contains(reason) || self.host.log().contains(reason)
        };
        wait_for(&format!("an error says {reason}"), TIMEOUT, said).await.unwrap();
    }

    /// Messages of the other source arrive and are acknowledged.
    async fn other_works(&mut self) {
        for _ in 0..10 {
            self.messages += 1;
            self.session.publish(QoS::AtLeastOnce, self.messages, "a/1", b"x").await.unwrap();
            self.session.puback(self.messages).await.unwrap();
        }
    }

    /// The host lives, has not grown, and has used no more than `cpu` of the processor since the siege began; its victim comes
    /// back and works with a broker that behaves.
    async fn end(mut self, cpu: Duration) {
        self.other_works().await;
        let mut peer = self.accept().await;
        self.host.ready().await.unwrap();
        let packet = peer.publish(1, 7, b"fine");
        peer.send(&packet).await.unwrap();
        peer.expect(&[[0x40, 2, 0, 7]]).await.unwrap();
        self.within_bounds(cpu);
        assert!(
            self.good.nobody_connects(Duration::from_millis(1)).await,
            "the other source had to connect again"
        );
    }

    fn within_bounds(&self, cpu: Duration) {
        let usage = Usage::of(self.host.id()).unwrap();
        let (begun, before) = self.begun;
        let used = usage.cpu - before;
        assert!(used < cpu, "{used:?} of the processor in {:?}", begun.elapsed());
        assert!(usage.peak < MEMORY, "{} bytes", usage.peak);
    }

    /// Delays before the next attempt, as the log tells them.
    fn delays(&self) -> Vec<u64> {
        let log = self.host.log();
        let values = log.split(" next_attempt_in_ms=").skip(1);
        values.map(|rest| rest.split([' ', '\n']).next().unwrap().parse().unwrap()).collect()
    }
}

/// A byte now and then, before CONNACK and instead of a message: no timer is fooled by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_loris_is_given_up() {
    let siege = Siege::begin(true, json!({ "connect_timeout_secs": 1, "keep_alive_secs": 5 })).await;
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut peer = siege.open().await;
    // A CONNACK with so many properties that it does not end, of which none are wrong so far.
    let mut connack = vec![0x20, 0xff, 0x7f, 0, 0, 0xfc, 0x7f];
    connack.extend([0x26, 0, 1, b'k', 0, 1, b'v'].repeat(1_000));
    for byte in connack.chunks(1) {
        if !peer.flood(byte, PATIENCE).await {
            break;
        }
        pace.tick().await;
    }
    siege.named("did not answer within 1000 ms: still waiting for CONNACK").await;
    peer.closed().await.unwrap();

    let mut peer = siege.accept().await;
    let packet = peer.publish(0, 0, &[b'x'; 200_000]);
    for byte in packet.chunks(1).take(400) {
        if !peer.flood(byte, PATIENCE).await {
            break;
        }
        pace.tick().await;
    }
    siege.named("the MQTT broker did not answer a ping within 2500 ms").await;
    siege.end(Duration::from_secs(3)).await;
}

/// What is announced and never comes takes neither memory nor, for long, the connection, whether it would be taken or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_packet_of_256_mib_is_announced_and_never_sent() {
    let greatest =
        json!({ "keep_alive_secs": 5, "max_packet_size": 268_435_460, "max_inflight_bytes": 268_435_460 });
    let one = async |five, keys| {
        let siege = Siege::begin(five, keys).await;
        let mut peer = siege.accept().await;
        peer.send(&[0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a', 0, 9, 0]).await.unwrap();
        siege.named("the MQTT broker did not answer a ping within 2500 ms").await;
        peer.closed().await.unwrap();
        // Of any other type it is not even waited for.
        for first in [0x90, 0xb0, 0x62, 0xd0] {
            let mut peer = siege.accept().await;
            peer.send(&[first, 0xff, 0xff, 0xff, 0x7f]).await.unwrap();
            siege.named("it is longer than 64 KiB").await;
            peer.closed().await.unwrap();
        }
        siege.end(Duration::from_secs(3)).await;
    };
    tokio::join!(one(false, json!({ "keep_alive_secs": 5 })), one(true, greatest));
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_subacks() {
    for five in [false, true] {
        let siege = Siege::begin(five, json!({})).await;
        let suback = if five { &[0x90, 4, 0, 1, 0, 2][..] } else { &[0x90, 3, 0, 1, 2] };
        let mut peer = siege.accept().await;
        peer.flood(&suback.repeat(1_000_000), PATIENCE).await;
        siege.named("SUBACK from the MQTT broker: nothing was asked for").await;
        peer.closed().await.unwrap();
        // One after the other for what was asked, each for another packet.
        let mut peer = siege.welcome().await;
        let mut other = suback.to_vec();
        other[3] = 9;
        peer.flood(&other.repeat(1_000_000), PATIENCE).await;
        siege.named("SUBACK from the MQTT broker: unknown packet identifier 9").await;
        peer.closed().await.unwrap();
        siege.end(Duration::from_secs(3)).await;
    }
}

/// Sections 1.5.3 and 4.7: none of these is a topic name, and nothing that follows it in the same packet or read enters.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_none() {
    const TOPICS: [&[u8]; 9] = [
        b"",
        b"a/+",
        b"#",
        b"a/\0",
        b"\xff",
        b"a/\xc3",
        // A surrogate, an overlong form, and a character beyond the last one.
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf4\x90\x80\x80",
    ];
    for five in [false, true] {
        let siege = Siege::begin(five, json!({ "retry_max_ms": 100 })).await;
        for topic in TOPICS {
            for payload in [&b"x"[..], &[0; 300_000]] {
                let mut peer = siege.accept().await;
                let mut packets = peer.publish(1, 1, b"good");
                packets.extend(peer.publish_to(topic, 2, 2, payload));
                packets.extend(peer.publish(1, 3, b"never"));
                peer.flood(&packets, PATIENCE).await;
                peer.closed().await.unwrap();
            }
        }
        let reasons = [
            "PUBLISH from the MQTT broker: the topic name is empty",
            "PUBLISH from the MQTT broker: the topic name is not UTF-8",
            "PUBLISH from the MQTT broker: a topic name has no wildcards",
            "PUBLISH from the MQTT broker: a topic name has no NUL character",
        ];
        for reason in reasons {
            siege.named(reason).await;
        }
        let ledger = siege.host.ledger().await.unwrap();
        assert_eq!((ledger.received, ledger.dead_lettered), (2 * TOPICS.len() as u64, 0));
        siege.end(Duration::from_secs(5)).await;
    }
}

/// A packet of each type, also of those that are none, before CONNACK, before SUBACK, and when all is up. What may come does not
/// hurt, all else ends the connection with an error that names the packet.
#[tokio::test(flavor = "multi_thread")]
async fn unsolicited_packets_of_every_type_in_every_state() {
    const NAMES: [&str; 16] = [
        "a packet of type 0",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    for five in [false, true] {
        let siege = Siege::begin(five, json!({ "retry_initial_ms": 10, "retry_max_ms": 100 })).await;
        let mut harmless = 0;
        for state in 0..3 {
            for kind in 0..16u8 {
                let mut peer = match state {
                    0 => siege.open().await,
                    1 => siege.welcome().await,
                    _ => siege.accept().await,
                };
                let packet: &[u8] = match kind {
                    1 => &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 0],
                    2 if state == 0 && five => &[0x20, 3, 0, 0x80, 0],
                    2 if state == 0 => &[0x20, 2, 0, 3],
                    2 if five => &[0x20, 3, 0, 0, 0],
                    2 => &[0x20, 2, 0, 0],
                    3 if five => &[0x30, 4, 0, 1, b'a', 0],
                    3 => &[0x30, 3, 0, 1, b'a'],
                    6 => &[0x62, 2, 0, 1],
                    8 => &[0x82, 6, 0, 1, 0, 1, b'a', 0],
                    9 => &[0x90, 3, 0, 7, 1],
                    10 => &[0xa2, 5, 0, 1, 0, 1, b'a'],
                    12..=14 => &[kind << 4, 0],
                    _ => &[kind << 4, 2, 0, 1],
                };
                peer.send(packet).await.unwrap();
                let may_come = state > 0 && matches!(kind, 3 | 6 | 13);
                if may_come {
                    harmless += 1;
                    // It reads on: what follows is what ends the connection.
                    peer.send(&[0, 0]).await.unwrap();
                }
                peer.closed().await.unwrap();
                let name = NAMES[usize::from(if may_come { 0 } else { kind })];
                match kind {
                    2 if state == 0 => siege.named("the MQTT broker refused the connection").await,
                    14 if state > 0 => siege.named("the MQTT broker disconnected").await,
                    _ => siege.named(&format!("{name} from the MQTT broker: ")).await,
                }
            }
        }
        assert_eq!(harmless, 6);
        wait_for("all are logged", TIMEOUT, async || siege.delays().len() >= 48).await.unwrap();
        let metrics = siege.host.metrics().await.unwrap();
        assert_eq!(metrics.sum("rivven_mqtt_source_errors_total").unwrap(), 48);
        let delays = siege.delays();
        assert!(delays.len() == 48 && delays.iter().all(|delay| (5..=100).contains(delay)), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay > 20), "no backoff: {delays:?}");
        siege.end(Duration::from_secs(5)).await;
    }
}

/// A million of what is allowed: it is taken as it comes, and nothing piles up.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_tiny_packets() {
    const MILLION: usize = 1_000_000;
    let mut siege = Siege::begin(false, json!({})).await;
    let mut peer = siege.accept().await;
    peer.send(&[0xd0, 0].repeat(MILLION)).await.unwrap();
    let messages = peer.publish_to(b"a", 0, 0, b"");
    for _ in 0..10 {
        peer.send(&messages.repeat(MILLION / 10)).await.unwrap();
        siege.other_works().await;
    }
    let packet = peer.publish(1, 1, b"");
    peer.send(&packet).await.unwrap();
    peer.expect(&[[0x40, 2, 0, 1]]).await.unwrap();
    let ledger = siege.host.ledger().await.unwrap();
    assert_eq!(ledger.received, MILLION as u64 + 1 + 100);
    drop(peer);
    siege.end(Duration::from_secs(20)).await;
}

/// PUBRELs, and a QoS 2 message that comes again and again, from a broker that reads none of the answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_answers_and_does_not_read_them() {
    for persistent in [false, true] {
        let keys = match persistent {
            false => json!({ "keep_alive_secs": 5 }),
            true => json!({ "keep_alive_secs": 5, "clean_session": false, "client_id": "persists" }),
        };
        let mut siege = Siege::begin(false, keys).await;
        let mut peer = siege.accept().await;
        let mut packets = peer.publish(2, 1, b"");
        packets.extend([0x62, 2, 0, 1, 0x62, 2, 0, 2]);
        let packets = packets.repeat(10_000);
        let mut floods = 0;
        while peer.flood(&packets, PATIENCE).await {
            floods += 1;
            assert!(floods < 10_000, "nothing stops the flood");
        }
        siege.other_works().await;
        siege.within_bounds(Duration::from_secs(20));
        siege.named("the MQTT broker did not answer a ping within 2500 ms").await;
        drop(peer);
        siege.end(Duration::from_secs(20)).await;
    }
}

/// Noise in every state, of a seed that is told when it fails.
#[tokio::test(flavor = "multi_thread")]
async fn random_bytes() {
    const CONNECTIONS: usize = 150;
    for five in [false, true] {
        let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        let mut random = fastrand::Rng::with_seed(seed);
        let siege = Siege::begin(five, json!({ "retry_initial_ms": 10, "retry_max_ms": 100 })).await;
        let said = format!("SEED={seed}");
        for n in 0..CONNECTIONS {
            let mut peer = match n % 3 {
                0 => siege.open().await,
                1 => siege.welcome().await,
                _ => siege.accept().await,
            };
            let mut noise: Vec<u8> = (0..4_096).map(|_| random.u8(..)).collect();
            if n % 2 == 0 {
                // Heads that are right more often.
                noise[0] = random.choice([0x30, 0x32, 0x34, 0x62, 0x90, 0xb0, 0xd0, 0xe0]).unwrap();
                noise[1] = random.u8(..128);
            }
            peer.flood(&noise, PATIENCE).await;
            // If it waits for more, there is none.
            drop(peer);
        }
        let errors = async || {
            let metrics = siege.host.metrics().await.unwrap();
            metrics.sum("rivven_mqtt_source_errors_total").unwrap() >= CONNECTIONS as u64 - 1
        };
        wait_for(&format!("each ends in an error; {said}"), TIMEOUT, errors).await.unwrap();
        siege.end(Duration::from_secs(5)).await;
    }
}
