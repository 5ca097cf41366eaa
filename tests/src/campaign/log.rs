//! What the broker's log says about each message that was published to `fleet/NUMBER`.

use std::collections::{BTreeMap, HashMap};

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
    /// Reads a log with `log_type all`. Mosquitto 2.0.11 goes far beyond its `max_inflight_messages` while a client does not
    /// acknowledge, and gives a packet id again that is still in use: an acknowledgement then is for the oldest with this id.
    pub fn read(log: &str, client: &str, topic: &str) -> Result<Self> {
        let sending = format!("Sending PUBLISH to {client} (");
        let acknowledging = ["PUBACK", "PUBREC"].map(|kind| format!("Received {kind} from {client} (Mid: "));
        let mut open = HashMap::<u64, Vec<u64>>::new();
        let mut opened = 0;
        let mut deliveries = Deliveries::default();
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once(&sending) {
                let (id, number) = publish(rest, topic).with_context(|| format!("cannot read: {line}"))?;
                let with_id = open.entry(id).or_default();
                if !with_id.contains(&number) {
                    with_id.push(number);
                    opened += 1;
                    deliveries.most_open = deliveries.most_open.max(opened);
                }
                *deliveries.sent.entry(number).or_default() += 1;
            } else if let Some((_, rest)) = acknowledging.iter().find_map(|start| line.split_once(start)) {
                let id = digits(rest).with_context(|| format!("cannot read: {line}"))?;
                if let Some(with_id) = open.get_mut(&id).filter(|numbers| !numbers.is_empty()) {
                    *deliveries.acknowledged.entry(with_id.remove(0)).or_default() += 1;
                    opened -= 1;
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
