//! What is fuzzed: everything that reads bytes which somebody else wrote. cargo-fuzz runs these with coverage (`host/fuzz`); the
//! tests below run them on mutations of the same corpus, so many and from the same seed each time:
//!
//! ```sh
//! FUZZ_RUNS=1000000 FUZZ_SEED=7 cargo test --workspace --locked --lib -- fuzzing
//! ```

use crate::config::Version;

/// MQTT 3.1.1, as a broker sends it.
pub fn packets_v4(data: &[u8]) {
    crate::mqtt::fuzz::packets(Version::V4, data);
}

/// MQTT 5.0, as a broker sends it.
pub fn packets_v5(data: &[u8]) {
    crate::mqtt::fuzz::packets(Version::V5, data);
}

/// A configuration file, and limits from the command line.
pub fn config(data: &[u8]) {
    crate::config::fuzz(data);
}

/// A file of messages for `plugin test`.
pub fn messages(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(batch) = crate::jsonl::parse("m.jsonl".as_ref(), text)
    {
        assert!(!batch.is_empty() && batch.sequences.len() == batch.len() as u64);
        assert!(batch.messages().all(|message| !message.topic().is_empty()));
    }
}

/// A file, or a record, of dead letters.
pub fn dead_letters(data: &[u8]) {
    crate::dlq::fuzz(data);
}

/// What a Rivven server answers.
pub fn answers(data: &[u8]) {
    crate::sink::fuzz_answer(data);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rivven_protocol::{Response, WireFormat};

    use super::*;

    /// What changes a mutation makes at most.
    const CHANGES: usize = 6;
    /// Nothing grows beyond this.
    const LENGTH: usize = 8 << 10;

    fn number(variable: &str, default: u64) -> u64 {
        std::env::var(variable).map_or(default, |value| value.parse().unwrap())
    }

    /// The files of `host/fuzz/corpus/NAME`, in the order of their names.
    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// Changes `data` as a careless or a malicious hand would, with pieces of `others`.
    fn mutate(random: &mut fastrand::Rng, data: &mut Vec<u8>, others: &[Vec<u8>]) {
        const BYTES: [u8; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, b'"', b'{', b'}', b'\n', b'#', 0x30];
        let at = random.usize(..=data.len());
        let length = random.usize(..=(data.len() - at).min(40));
        match random.u8(..8) {
            0 if at < data.len() => data[at] ^= 1 << random.u8(..8),
            1 if at < data.len() => data[at] = random.choice(BYTES).unwrap(),
            2 if at < data.len() => data[at] = random.u8(..),
            3 => drop(data.drain(at..at + length)),
            4 => data.truncate(at),
            5 => {
                let piece = data[at..at + length].to_vec();
                data.splice(at..at, piece);
            }
            6 => {
                let other = random.choice(others).unwrap();
                let from = random.usize(..=other.len());
                let piece = other[from..(from + random.usize(..=200)).min(other.len())].to_vec();
                data.splice(at..at + length, piece);
            }
            _ => data.insert(at, random.u8(..)),
        }
        data.truncate(LENGTH);
    }

    /// Shows what the target did not survive.
    struct Input<'a>(&'a str, u64, &'a [u8]);

    impl Drop for Input<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let Input(name, run, data) = self;
                #[allow(clippy::print_stderr)] // The test harness shows it with the test that failed.
                {
                    eprintln!(
                        "{name}, run {run}, on {}:\n{data:?}\n{}",
                        data.len(),
                        String::from_utf8_lossy(data)
                    );
                }
            }
        }
    }

    /// Runs `target` on the corpus, then on `runs` mutations of it.
    fn run(name: &str, runs: u64, others: Vec<Vec<u8>>, mut target: impl FnMut(&[u8])) {
        let mut corpus = corpus(name);
        corpus.extend(others);
        let mut random = fastrand::Rng::with_seed(number("FUZZ_SEED", 1));
        for data in &corpus {
            let _shown = Input(name, 0, data);
            target(data);
        }
        for run in 1..=number("FUZZ_RUNS", runs) {
            let mut data = random.choice(&corpus).unwrap().clone();
            for _ in 0..random.usize(1..=CHANGES) {
                mutate(&mut random, &mut data, &corpus);
            }
            let _shown = Input(name, run, &data);
            target(&data);
        }
    }

    fn packets(name: &str, version: Version) {
        let (mut packets, mut seen_alike) = (0, 0);
        run(name, 30_000, Vec::new(), |data| {
            let checked = crate::mqtt::fuzz::packets(version, data);
            packets += checked.packets;
            seen_alike += checked.seen_alike;
        });
        // Mutations that are only noise would show nothing.
        let runs = number("FUZZ_RUNS", 30_000);
        assert!(packets > runs && seen_alike > runs / 2, "{packets} packets only, {seen_alike} of them good");
        #[allow(clippy::print_stdout)] // For whoever asks for ten million.
        {
            println!(
                "{name}: {packets} packets, {seen_alike} of them taken, and seen alike by another codec"
            );
        }
    }

    #[test]
    fn fuzzing_packets_v4() {
        packets("packets_v4", Version::V4);
    }

    #[test]
    fn fuzzing_packets_v5() {
        packets("packets_v5", Version::V5);
    }

    #[test]
    fn fuzzing_config() {
        run("config", 10_000, Vec::new(), config);
    }

    #[test]
    fn fuzzing_messages() {
        run("messages", 30_000, Vec::new(), messages);
    }

    #[test]
    fn fuzzing_dead_letters() {
        run("dead_letters", 30_000, Vec::new(), dead_letters);
    }

    #[test]
    fn fuzzing_answers() {
        // The codec is that of another crate, so what it writes is made here and not kept.
        let answers = [
            Response::PublishedBatch { base_offset: 7, partition: 1, record_count: 2 },
            Response::Error { message: "NOT_LEADER_FOR_PARTITION: Leader is node 'b'".into() },
            Response::Topics { topics: vec!["a".into(), "b".into()] },
            Response::OffsetBounds { earliest: 1, latest: 9 },
            Response::Pong,
        ];
        let answers = answers.iter().map(|answer| answer.to_wire(WireFormat::Postcard, 7).unwrap());
        run("answers", 30_000, answers.collect(), super::answers);
    }
}
