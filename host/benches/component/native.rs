//! The same work without a sandbox: the code of the bench plugin on the host's own data.

use bytes::Bytes;
use rivven_mqtt::message::{Batch, Outcome, OutputColumn, Outputs, Verdict};
use serde::{Deserialize, Serialize};

use crate::Workload;

#[derive(Deserialize)]
struct Reading<'a> {
    device: &'a str,
    temp: f64,
}

#[derive(Serialize)]
struct Converted<'a> {
    device: &'a str,
    f: f64,
}

/// What becomes of `batch`.
pub fn process(workload: Workload, batch: &Batch) -> Outcome {
    let mut verdicts = Vec::with_capacity(batch.len());
    let mut outputs = Writer::default();
    let mut reasons = Vec::new();
    for index in 0..batch.len() {
        let payload = batch.payloads.get(index);
        let verdict = if !batch.topics.get(index).ends_with(b"temperature") {
            Verdict::Drop
        } else {
            match workload {
                Workload::Topics | Workload::Pass => Verdict::Pass,
                Workload::Echo => outputs.emit(index, b"", payload),
                Workload::Json => match serde_json::from_slice::<Reading<'_>>(payload) {
                    Ok(Reading { device, temp }) => {
                        let value = serde_json::to_vec(&Converted { device, f: temp * 1.8 + 32.0 });
                        outputs.emit(index, device.as_bytes(), &value.unwrap_or_default())
                    }
                    Err(error) => {
                        reasons.push((index as u32, error.to_string()));
                        Verdict::Reject
                    }
                },
            }
        };
        verdicts.push(verdict);
    }
    Outcome { verdicts, outputs: outputs.finish(), reasons, ..Outcome::default() }
}

/// Outputs being written.
#[derive(Default)]
struct Writer {
    of: Vec<u32>,
    keys: (Vec<u8>, Vec<u32>),
    values: (Vec<u8>, Vec<u32>),
}

impl Writer {
    fn emit(&mut self, of: usize, key: &[u8], value: &[u8]) -> Verdict {
        self.of.push(of as u32);
        for ((data, ends), item) in [(&mut self.keys, key), (&mut self.values, value)] {
            data.extend_from_slice(item);
            ends.push(data.len() as u32);
        }
        Verdict::Emit
    }

    fn finish(self) -> Outputs {
        let column = |(data, ends)| OutputColumn { data: Bytes::from(data), ends };
        Outputs {
            of: self.of,
            topics: OutputColumn::default(),
            keys: column(self.keys),
            values: column(self.values),
        }
    }
}
