//! What the broker's log says about each message that was published to `fleet/NUMBER`.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};

/// What mosquitto did with the messages for one client.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// How often it sent each number to the client.
    pub sent: BTreeMap<u64, u32>,
    /// How often the client acknowledged each number: PUBACK or PUBREC.
    pub acknowledged: BTreeMap<u64, u32>,
    /// Most messages that were not acknowledged at a time.
    pub most_open: usize,
}

impl Deliveries {
    /// Reads a log with `log_type all`. A packet id names the message that was sent last with it.
    pub fn read(log: &str, client: &str, topic: &str) -> Result<Self> {
        let sending = format!("Sending PUBLISH to {client} (");
        let acknowledging = ["PUBACK", "PUBREC"].map(|kind| format!("Received {kind} from {client} (Mid: "));
        let mut numbers = HashMap::new();
        let mut open = HashSet::new();
        let mut deliveries = Deliveries::default();
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once(&sending) {
                let (id, number) = publish(rest, topic).with_context(|| format!("cannot read: {line}"))?;
                numbers.insert(id, number);
                open.insert(id);
                deliveries.most_open = deliveries.most_open.max(open.len());
                *deliveries.sent.entry(number).or_default() += 1;
            } else if let Some((_, rest)) = acknowledging.iter().find_map(|start| line.split_once(start)) {
                let id = digits(rest).with_context(|| format!("cannot read: {line}"))?;
                open.remove(&id);
                if let Some(number) = numbers.get(&id) {
                    *deliveries.acknowledged.entry(*number).or_default() += 1;
                }
            }
        }
        Ok(deliveries)
    }

    /// Copies beyond the first of each message: more records than that may not come twice.
    pub fn sent_again(&self) -> u64 {
        self.sent.values().map(|copies| u64::from(*copies) - 1).sum()
    }
}

/// Packet id and number of `d0, q1, r0, m12, 'fleet/34', ... (5 bytes))`.
fn publish(text: &str, topic: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.split_once(", m")?;
    let (_, name) = rest.split_once(&format!("'{topic}/"))?;
    Some((digits(rest)?, digits(name)?))
}

fn digits(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}
