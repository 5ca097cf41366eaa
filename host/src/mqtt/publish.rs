//! PUBLISH, decoded where it was read (MQTT 3.1.1 and 5.0, section 3.3): the read buffer, fixed headers, and topics, payloads
//! and properties as slices of the buffer, so that each byte is copied once, into the columns of a batch.

use super::filter::validate_topic_name;

/// What is read at once, and what the buffer keeps.
const BUFFER: usize = 256 << 10;

/// The type of a PUBLISH, the upper half of its first byte.
pub(super) const PUBLISH: u8 = 3;

/// Also what a topic alias looks like that we did not allow.
pub(super) const EMPTY_TOPIC: &str = "the topic name is empty";

/// Bytes read and not decoded. One buffer for the life of a source: a fresh one for each read costs more than the decoding.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// Size of the packet that is at the front and not complete.
    needed: usize,
    /// The front of an oversized packet whose rest is thrown away as it comes.
    pub skipped: Option<Skipped>,
}

/// An oversized PUBLISH: all but its payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    pub first: u8,
    pub topic: String,
    pub packet_id: u16,
    /// The whole packet, in bytes.
    pub size: usize,
    /// What has not come yet, in bytes.
    pub remaining: usize,
}

impl ReadBuffer {
    pub fn new() -> Self {
        ReadBuffer { data: vec![0; BUFFER], start: 0, end: 0, needed: 0, skipped: None }
    }

    /// Forgets everything: another connection.
    pub fn clear(&mut self) {
        (self.start, self.end, self.needed, self.skipped) = (0, 0, 0, None);
        self.fit();
    }

    /// Room for the next read. A packet greater than the buffer makes it grow with what really comes, to the packet's size
    /// at most; afterwards it shrinks again.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.needed > self.data.len() && self.end == self.data.len() {
            self.data.resize(self.needed.min(2 * self.data.len()), 0);
        } else {
            self.fit();
        }
        self.data.get_mut(self.end..).unwrap_or_default()
    }

    fn fit(&mut self) {
        if self.data.len() > BUFFER && self.needed <= BUFFER && self.end <= BUFFER {
            self.data.truncate(BUFFER);
            self.data.shrink_to_fit();
        }
    }

    /// `n` bytes were read into [`space`](Self::space).
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.data.len());
    }

    /// What is not decoded.
    pub fn unread(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }

    /// `n` bytes of [`unread`](Self::unread) are decoded; the packet after them has `needed` bytes, 0 if that is unknown.
    pub fn advance(&mut self, n: usize, needed: usize) {
        self.start = (self.start + n).min(self.end);
        self.needed = needed;
    }

    /// Throws away what has come of the oversized packet. Whether all of it has come.
    pub fn skip(&mut self) -> bool {
        let unread = self.end - self.start;
        let Some(skipped) = &mut self.skipped else { return false };
        let n = unread.min(skipped.remaining);
        skipped.remaining -= n;
        let complete = skipped.remaining == 0;
        self.advance(n, 0);
        complete
    }
}

/// A fixed header (section 2.2 of 3.1.1, 2.1 of 5.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Type and flags.
    pub first: u8,
    /// Length of the fixed header itself.
    pub length: usize,
    /// Length of the whole packet.
    pub total: usize,
}

/// The fixed header at the front of `bytes`; `None` if it has not all come.
#[inline(always)]
pub(super) fn head(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((remaining, length)) = variable_integer(rest, "the remaining length has more than 4 bytes")?
    else {
        return Ok(None);
    };
    let length = 1 + length;
    Ok(Some(Head { first, length, total: length + remaining }))
}

/// A variable byte integer (section 1.5.5 of 5.0) and its length; `None` if it has not all come.
#[inline(always)]
fn variable_integer(bytes: &[u8], too_long: &'static str) -> Result<Option<(usize, usize)>, &'static str> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(too_long) }
}

/// A PUBLISH, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    /// Not checked for UTF-8 and wildcards: [`legal_topics`] does that for many at once.
    pub topic: &'a [u8],
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// The block without its length; empty on 3.1.1.
    pub properties: &'a [u8],
    pub payload: &'a [u8],
}

/// Decodes what follows the fixed header.
#[inline(always)]
pub(super) fn publish(first: u8, body: &[u8], v5: bool) -> Result<Publish<'_>, &'static str> {
    let cut = "it ends inside of the topic name";
    let (length, rest) = body.split_first_chunk::<2>().ok_or(cut)?;
    let (topic, mut rest) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(cut)?;
    if topic.is_empty() {
        // No alias is possible either: we announce a topic alias maximum of 0 (5.0 section 3.1.2.11.5).
        return Err(EMPTY_TOPIC);
    }
    let mut packet_id = 0;
    match first >> 1 & 3 {
        0 => {}
        3 => return Err("QoS 3"),
        _ => {
            let (id, after) =
                rest.split_first_chunk::<2>().ok_or("it ends inside of the packet identifier")?;
            (packet_id, rest) = (u16::from_be_bytes(*id), after);
            if packet_id == 0 {
                return Err("the packet identifier is 0");
            }
        }
    }
    let mut properties: &[u8] = &[];
    if v5 {
        let (length, at) = variable_integer(rest, "the property length has more than 4 bytes")?
            .ok_or("it ends inside of the property length")?;
        (properties, rest) = rest
            .get(at..)
            .and_then(|rest| rest.split_at_checked(length))
            .ok_or("the properties are longer than the packet")?;
    }
    Ok(Publish { topic, packet_id, properties, payload: rest })
}

/// The front of a PUBLISH that is greater than is taken; `None` if topic and packet identifier have not all come. `bytes` is
/// what has come of the packet, from its first byte on.
pub(super) fn oversized(head: Head, bytes: &[u8]) -> Result<Option<(Skipped, usize)>, String> {
    let Some(body) = bytes.get(head.length..) else { return Ok(None) };
    let Some((length, _)) = body.split_first_chunk::<2>() else { return Ok(None) };
    let topic_length = usize::from(u16::from_be_bytes(*length));
    let id_length = if head.first >> 1 & 3 == 0 { 0 } else { 2 };
    let variable = 2 + topic_length + id_length;
    if head.length + variable > head.total {
        return Err("it ends inside of the topic name or the packet identifier".into());
    }
    let Some(front) = body.get(..variable) else { return Ok(None) };
    let publish = publish(head.first, front, false)?;
    let topic = std::str::from_utf8(publish.topic).map_err(|_| "the topic name is not UTF-8")?;
    validate_topic_name(topic)?;
    let taken = head.length + variable;
    let skipped = Skipped {
        first: head.first,
        topic: topic.to_owned(),
        packet_id: publish.packet_id,
        size: head.total,
        remaining: head.total - taken,
    };
    Ok(Some((skipped, taken)))
}

/// Whether all topic names in `data` are legal: UTF-8 (MQTT-1.5.3-1), without NUL (MQTT-1.5.3-2) and without wildcards
/// (MQTT-3.3.2-2). `ends` are the ends of the topics in the column that `data` is the last part of, from `offset` on.
/// One pass for many topics, because one for each topic costs several times as much.
pub(super) fn legal_topics(data: &[u8], ends: &[u32], offset: usize) -> bool {
    let (mut wrong, mut seen) = (0u8, 0u8);
    for &byte in data {
        wrong |= u8::from(byte == 0) | u8::from(byte == b'+') | u8::from(byte == b'#');
        seen |= byte;
    }
    if wrong != 0 {
        return false;
    }
    seen < 0x80
        || std::str::from_utf8(data).is_ok_and(|text| {
            ends.iter().all(|&end| text.is_char_boundary((end as usize).saturating_sub(offset)))
        })
}

/// The same for one topic.
pub(super) fn legal_topic(topic: &[u8]) -> bool {
    legal_topics(topic, &[], 0)
}
