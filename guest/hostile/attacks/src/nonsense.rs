//! Results that no SDK would give.

use rivven_plugin_sdk::raw::plugin::exports::rivven::connect::transform::{Results, Verdict};
use rivven_plugin_sdk::raw::plugin::rivven::connect::source::{Batch, Column};

/// If a message of the batch says `nonsense:RULE`, results that break this rule and no other. All messages have the verdict
/// `pass` and there is no output, except for what is said here.
///
/// | rule | results |
/// |---|---|
/// | `missing-verdict`, `spare-verdict` | one too few; one too many |
/// | `hold` | a verdict that only plugins with `aggregate` may give |
/// | `output-of-passed`, `output-of-nobody` | an output for a message that is not emitted; for one that does not exist |
/// | `falling-output-of` | outputs of messages 1 and 0, in this order (needs two messages) |
/// | `missing-value`, `missing-key`, `spare-topic` | an output without a value; one key for two outputs; three topics for two |
/// | `falling-ends`, `overrun` | ends of values that fall; that go beyond the data |
/// | `topic-not-utf8` | a destination topic of the byte ff |
/// | `reason-of-passed`, `falling-reasons` | a reason for a message that passes; reasons of 1 and 0 (needs two messages) |
pub fn nonsense(batch: &Batch) -> Option<Results> {
    let payloads = batch.payloads();
    let mut start = 0;
    let mut items = payloads.ends.iter().map(|&end| {
        let item = &payloads.data[start..end as usize];
        start = end as usize;
        item
    });
    let rule = str::from_utf8(items.find_map(|item| item.strip_prefix(b"nonsense:"))?).ok()?;

    let messages = payloads.ends.len();
    let mut results = Results {
        verdicts: vec![Verdict::Pass; messages],
        output_of: Vec::new(),
        topics: column(b"", &[]),
        keys: column(b"", &[]),
        values: column(b"", &[]),
        reasons: Vec::new(),
    };
    match rule {
        "missing-verdict" => {
            results.verdicts.pop();
        }
        "spare-verdict" => results.verdicts.push(Verdict::Pass),
        "hold" => results.verdicts[0] = Verdict::Hold,
        "output-of-passed" => {
            results.output_of = vec![0];
            results.values = column(b"v", &[1]);
        }
        "output-of-nobody" => {
            results.output_of = vec![messages as u32];
            results.values = column(b"v", &[1]);
        }
        "falling-output-of" => {
            results.verdicts.fill(Verdict::Emit);
            results.output_of = vec![1, 0];
            results.values = column(b"vw", &[1, 2]);
        }
        "reason-of-passed" => results.reasons = vec![(0, "passed".to_owned())],
        "falling-reasons" => {
            results.verdicts.fill(Verdict::Reject);
            results.reasons = vec![(1, "later".to_owned()), (0, "sooner".to_owned())];
        }
        _ => {
            // Two outputs of the first message, and something wrong with their columns.
            results.verdicts[0] = Verdict::Emit;
            results.output_of = vec![0, 0];
            results.values = column(b"vw", &[1, 2]);
            match rule {
                "missing-value" => results.values = column(b"v", &[1]),
                "missing-key" => results.keys = column(b"k", &[1]),
                "spare-topic" => results.topics = column(b"tuv", &[1, 2, 3]),
                "falling-ends" => results.values = column(b"vw", &[2, 1]),
                "overrun" => results.values = column(b"vw", &[1, 3]),
                "topic-not-utf8" => results.topics = column(b"\xfft", &[1, 2]),
                _ => return None,
            }
        }
    }
    Some(results)
}

fn column(data: &[u8], ends: &[u32]) -> Column {
    Column { data: data.to_vec(), ends: ends.to_vec() }
}
