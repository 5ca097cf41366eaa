//! What is in a topic of Rivven, read as it comes: how often each number is there.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rivven_client::Client;

use crate::rivven::Rivven;

/// Records asked for in one request.
const FETCH: u32 = 2_000;
/// When nothing new has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Reads one topic from its beginning.
#[derive(Debug)]
pub struct Follower {
    topic: String,
    /// By partition.
    next: HashMap<u32, u64>,
    /// How often each number is in the topic.
    pub found: BTreeMap<u64, u32>,
    /// Records.
    pub records: u64,
}

impl Follower {
    /// Nothing is read yet.
    pub fn new(topic: &str) -> Self {
        Follower { topic: topic.to_owned(), next: HashMap::new(), found: BTreeMap::new(), records: 0 }
    }

    /// Reads what is new.
    pub async fn poll(&mut self, rivven: &Rivven) -> Result<()> {
        let mut client = rivven.client().await?;
        if !client.list_topics().await?.contains(&self.topic) {
            return Ok(());
        }
        let (_, partitions) = client.get_metadata(&self.topic).await?;
        for partition in 0..partitions {
            self.poll_partition(&mut client, partition).await?;
        }
        Ok(())
    }

    async fn poll_partition(&mut self, client: &mut Client, partition: u32) -> Result<()> {
        let (_, latest) = client.get_offset_bounds(&self.topic, partition).await?;
        let next = self.next.entry(partition).or_default();
        while *next < latest {
            let fetched = client.consume(&self.topic, partition, *next, FETCH).await?;
            let last = fetched.last().with_context(|| format!("rivvend withholds {partition}@{next}"))?;
            *next = last.offset + 1;
            for message in &fetched {
                let number = number(&message.value)
                    .with_context(|| format!("a record that nobody published: {message:?}"))?;
                *self.found.entry(number).or_default() += 1;
                self.records += 1;
            }
        }
        Ok(())
    }

    /// Waits until the numbers up to `count` are there, or until nothing comes any more; those that are missing.
    pub async fn wait_for(&mut self, rivven: &Rivven, count: u64) -> Result<Vec<u64>> {
        let (mut records, mut last) = (self.records, Instant::now());
        loop {
            self.poll(rivven).await?;
            if self.found.range(..count).count() as u64 == count {
                return Ok(Vec::new());
            }
            if self.records > records {
                (records, last) = (self.records, Instant::now());
            } else if last.elapsed() > PATIENCE {
                return Ok((0..count).filter(|number| !self.found.contains_key(number)).collect());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Records beyond the first of each number.
    pub fn duplicates(&self) -> u64 {
        self.records - self.found.len() as u64
    }
}

/// The number of a payload, or of the payload in a JSON event.
fn number(value: &[u8]) -> Option<u64> {
    let value = serde_json::from_slice::<serde_json::Value>(value).ok()?;
    value["value"].as_u64().or_else(|| value["payload"]["value"].as_u64())
}
