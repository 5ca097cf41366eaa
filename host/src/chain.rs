//! Several plugins in a row: a batch goes through them in order, with one call of each, and what they decide becomes one verdict
//! for each message.
//!
//! What a plugin passes or emits are the parts that the next one sees as messages. A message is forwarded when all plugins
//! pass it; it is dropped when no part is left; rejected as a whole when any part is; held while any plugin holds a part of it,
//! and its other parts wait for that flush, which acknowledges it. A fault is one of the whole list: all instances begin anew.

use std::mem;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::error::Fault;
use crate::message::{
    Batch, Column, Flags, NO_MESSAGE, Outcome, OutputColumn, Outputs, QoS, StateWrites, Verdict,
};
use crate::processor::Transform;

/// Bytes of parts of held messages that may wait for a flush.
const WAITING: usize = 16 << 20;

/// The plugins of a list, one instance of each.
pub struct Chain {
    links: Vec<Link>,
    at_fault: usize,
    /// Messages that are held since the last flush.
    held: u32,
    /// Parts of held messages that no plugin holds; `of` counts held messages.
    waiting: Columns,
}

struct Link {
    transform: Box<dyn Transform>,
    /// How many parts it got for each message of the last batch, rounded up.
    parts: usize,
}

/// A part of a message on its way.
struct Part {
    /// Index of the message.
    of: u32,
    /// `None`: the message as it came.
    emitted: Option<Emitted>,
}

struct Emitted {
    topic: Bytes,
    key: Bytes,
    value: Bytes,
}

/// What is decided about a message before the end of the list.
enum Fate {
    Rejected { reason: Option<String>, by: usize },
    Held,
}

/// A batch on its way through the plugins.
struct Course {
    messages: usize,
    /// The parts that are left, in the order of their messages. `None`: all messages as they came.
    parts: Option<Vec<Part>>,
    /// By message, with the latest decision; empty until there is one.
    fates: Vec<Option<Fate>>,
}

impl Chain {
    /// The plugins in their order, at least one.
    pub fn new(links: Vec<Box<dyn Transform>>) -> Self {
        let links = links.into_iter().map(|transform| Link { transform, parts: 1 }).collect();
        Chain { links, at_fault: 0, held: 0, waiting: Columns::default() }
    }

    /// Takes the parts of `batch` through the plugins from place `from` on.
    fn walk(&mut self, from: usize, batch: &mut Batch, course: &mut Course) -> Result<(), Fault> {
        for (place, link) in self.links.iter_mut().enumerate().skip(from) {
            let outcome = match &course.parts {
                Some(parts) if parts.is_empty() => break,
                Some(parts) => link.transform.process(&mut gather(batch, parts)),
                None => link.transform.process(batch),
            };
            link.parts = course.len().div_ceil(course.messages.max(1)).max(1);
            match outcome {
                Ok(outcome) => course.apply(outcome, place),
                Err(fault) => {
                    self.at_fault = place;
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    /// The verdicts about the messages of a batch that has come to its end.
    fn compose(&mut self, course: Course) -> Result<Outcome, Fault> {
        let Course { messages, parts, mut fates } = course;
        let Some(parts) = parts else { return Ok(Outcome::default()) };
        fates.resize_with(messages, || None);
        let mut outcome = Outcome { verdicts: Vec::with_capacity(messages), ..Outcome::default() };
        let mut outputs = Columns::default();
        let mut parts = parts.into_iter().peekable();
        for (index, fate) in (0..).zip(fates) {
            let of_message = std::iter::from_fn(|| parts.next_if(|part| part.of == index));
            let verdict = match fate {
                Some(Fate::Rejected { reason, by }) => {
                    outcome
                        .reasons
                        .push((index, reason.unwrap_or_else(|| "rejected without a reason".into())));
                    outcome.rejected_by.push(by);
                    Verdict::Reject
                }
                Some(Fate::Held) => {
                    of_message.flat_map(|part| part.emitted).for_each(|it| self.waiting.push(self.held, &it));
                    self.held += 1;
                    Verdict::Hold
                }
                None => of_message.fold(Verdict::Drop, |_, part| match part.emitted {
                    Some(emitted) => {
                        outputs.push(index, &emitted);
                        Verdict::Emit
                    }
                    None => Verdict::Pass,
                }),
            };
            outcome.verdicts.push(verdict);
        }
        outcome.outputs = outputs.finish()?;
        Ok(outcome)
    }

    fn process_all(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        let mut course = Course { messages: batch.len(), parts: None, fates: Vec::new() };
        self.walk(0, batch, &mut course)?;
        self.compose(course)
    }

    /// What each plugin held goes through those behind it, which may hold it in turn until they are flushed.
    fn flush_all(&mut self) -> Result<Outputs, Fault> {
        let mut flushed = mem::take(&mut self.waiting);
        self.held = 0;
        for place in 0..self.links.len() {
            let Some(link) = self.links.get_mut(place) else { break };
            let outputs = link.transform.flush().inspect_err(|_| self.at_fault = place)?;
            if outputs.is_empty() {
                continue;
            }
            let mut batch = as_messages(&outputs);
            let parts = (0..outputs.len())
                .map(|index| Part { of: index as u32, emitted: Some(Emitted::new(&outputs, index)) });
            let mut course =
                Course { messages: outputs.len(), parts: Some(parts.collect()), fates: Vec::new() };
            self.walk(place + 1, &mut batch, &mut course)?;
            // There is no message that could be rejected for it.
            if let Some((reason, by)) = course.fates.iter().find_map(|fate| match fate {
                Some(Fate::Rejected { reason, by }) => {
                    Some((reason.as_deref().unwrap_or("no reason given"), *by))
                }
                _ => None,
            }) {
                self.at_fault = by;
                return Err(Fault::BrokenRule(format!(
                    "it rejected what an earlier plugin gave in a flush: {reason}"
                )));
            }
            for part in course.parts.into_iter().flatten() {
                part.emitted.iter().for_each(|emitted| flushed.push(NO_MESSAGE, emitted));
            }
        }
        flushed.finish()
    }

    /// After a fault of one, all begin anew: what they hold and remember of the batch is offered again.
    fn begin_anew<T>(&mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        if result.is_err() {
            self.restart();
        }
        result
    }
}

impl Transform for Chain {
    fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        let outcome = self.process_all(batch);
        self.begin_anew(outcome)
    }

    fn flush(&mut self) -> Result<Outputs, Fault> {
        let outputs = self.flush_all();
        self.begin_anew(outputs)
    }

    fn publish(&mut self, writes: &mut Vec<StateWrites>) {
        self.links.iter_mut().for_each(|link| link.transform.publish(writes));
    }

    fn unpublished(&self) -> usize {
        self.links.iter().map(|link| link.transform.unpublished()).sum()
    }

    fn is_full(&self) -> bool {
        self.waiting.bytes() > WAITING
    }

    fn roll_back(&mut self) {
        self.links.iter_mut().for_each(|link| link.transform.roll_back());
    }

    fn at_a_time(&self) -> usize {
        let of_link = |link: &Link| (link.transform.at_a_time() / link.parts).max(1);
        self.links.iter().map(of_link).min().unwrap_or(usize::MAX)
    }

    fn restart(&mut self) {
        self.links.iter_mut().for_each(|link| link.transform.restart());
        self.held = 0;
        self.waiting = Columns::default();
    }

    fn at_fault(&self) -> usize {
        self.at_fault
    }
}

impl Course {
    fn len(&self) -> usize {
        self.parts.as_ref().map_or(self.messages, Vec::len)
    }

    /// Takes over what the plugin at `place` decided about the parts.
    fn apply(&mut self, outcome: Outcome, place: usize) {
        let Outcome { verdicts, outputs, reasons, .. } = outcome;
        if verdicts.iter().all(|verdict| *verdict == Verdict::Pass) {
            return;
        }
        let whole = (0..self.messages as u32).map(|of| Part { of, emitted: None });
        let parts = self.parts.take().unwrap_or_else(|| whole.collect());
        let mut left = Vec::with_capacity(parts.len());
        let mut outputs_of = outputs.of.iter().copied().enumerate().peekable();
        let mut reasons = reasons.into_iter().peekable();
        for ((index, part), verdict) in (0..).zip(parts).zip(verdicts) {
            let of = part.of;
            match verdict {
                Verdict::Pass => left.push(part),
                Verdict::Drop => {}
                Verdict::Emit => {
                    while let Some((output, _)) = outputs_of.next_if(|(_, of)| *of == index) {
                        left.push(Part { of, emitted: Some(Emitted::new(&outputs, output)) });
                    }
                }
                Verdict::Reject => {
                    let reason = reasons.next_if(|(of, _)| *of == index).map(|(_, reason)| reason);
                    self.decide(of, Fate::Rejected { reason, by: place });
                }
                Verdict::Hold => self.decide(of, Fate::Held),
            }
        }
        // Nothing of a rejected message goes on.
        let fates = &self.fates;
        left.retain(|part| !matches!(fates.get(part.of as usize), Some(Some(Fate::Rejected { .. }))));
        self.parts = Some(left);
    }

    /// What was rejected first stays so.
    fn decide(&mut self, of: u32, fate: Fate) {
        self.fates.resize_with(self.messages, || None);
        if let Some(decided) = self.fates.get_mut(of as usize)
            && !matches!(decided, Some(Fate::Rejected { .. }))
        {
            *decided = Some(fate);
        }
    }
}

impl Emitted {
    fn new(outputs: &Outputs, index: usize) -> Self {
        Emitted {
            topic: outputs.topics.share(index),
            key: outputs.keys.share(index),
            value: outputs.values.share(index),
        }
    }
}

/// The parts as a batch of their own. An emitted part has the topic of its output, if there is one, and its value as payload;
/// all else is that of its message.
fn gather(batch: &Batch, parts: &[Part]) -> Batch {
    let mut gathered = Batch::default();
    for part in parts {
        let of = part.of as usize;
        match &part.emitted {
            None => gathered.push_from(batch, of),
            Some(Emitted { topic, value, .. }) => {
                let topic = if topic.is_empty() { batch.topics.get(of) } else { topic };
                gathered.push_as(batch, of, topic, value);
            }
        }
    }
    gathered
}

/// What a flush gave, as messages of this moment.
fn as_messages(outputs: &Outputs) -> Batch {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let received_at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let mut topics = Column::default();
    let mut payloads = Column::default();
    for index in 0..outputs.len() {
        topics.push(outputs.topics.get(index));
        payloads.push(outputs.values.get(index));
    }
    Batch {
        topics: topics.into(),
        payloads: payloads.into(),
        packet_ids: vec![0; outputs.len()],
        flags: vec![Flags::new(QoS::AtLeastOnce, false, false); outputs.len()],
        received_at: vec![received_at; outputs.len()],
        ..Batch::default()
    }
}

/// Outputs being gathered.
#[derive(Default)]
struct Columns {
    of: Vec<u32>,
    topics: Column,
    keys: Column,
    values: Column,
}

impl Columns {
    fn bytes(&self) -> usize {
        self.topics.data.len() + self.keys.data.len() + self.values.data.len()
    }

    fn push(&mut self, of: u32, emitted: &Emitted) {
        self.of.push(of);
        self.topics.push(&emitted.topic);
        self.keys.push(&emitted.key);
        self.values.push(&emitted.value);
    }

    fn finish(self) -> Result<Outputs, Fault> {
        // The limit of each plugin is below, but what several pass on may add up.
        let greatest = self.topics.data.len().max(self.keys.data.len()).max(self.values.data.len());
        if greatest > u32::MAX as usize {
            return Err(Fault::OutputTooLarge { limit: u32::MAX as usize });
        }
        let column = |column: Column| OutputColumn { data: column.data.into(), ends: column.ends };
        let (topics, keys, values) = (column(self.topics), column(self.keys), column(self.values));
        Ok(Outputs { of: self.of, topics, keys, values })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
