//! The properties of an MQTT 5 PUBLISH (MQTT 5.0 section 3.3.2.3), read only where somebody asks for them.

/// Properties of a message.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Properties {
    /// MIME type of the payload.
    pub content_type: Option<String>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// What the answer has to carry.
    pub correlation_data: Option<Vec<u8>>,
    /// Seconds that the message has left to live.
    pub message_expiry: Option<u32>,
    /// The sender says that the payload is UTF-8 text.
    pub payload_is_utf8: bool,
    /// User properties, in order; names may repeat.
    pub user: Vec<(String, String)>,
}

/// Reads a property block, without its length; `None` where it is malformed.
pub fn parse_properties(block: &[u8]) -> Option<Properties> {
    let mut properties = Properties::default();
    let mut rest = block;
    while let Some((&identifier, after)) = rest.split_first() {
        rest = after;
        match identifier {
            0x01 => properties.payload_is_utf8 = take(&mut rest, 1)? == [1],
            0x02 => {
                properties.message_expiry = Some(u32::from_be_bytes(take(&mut rest, 4)?.try_into().ok()?))
            }
            0x03 => properties.content_type = Some(string(&mut rest)?),
            0x08 => properties.response_topic = Some(string(&mut rest)?),
            0x09 => properties.correlation_data = Some(binary(&mut rest)?.to_vec()),
            // Subscription identifier: a variable byte integer.
            0x0b => while take(&mut rest, 1)?.first()? & 0x80 != 0 {},
            // Topic alias.
            0x23 => drop(take(&mut rest, 2)?),
            0x26 => properties.user.push((string(&mut rest)?, string(&mut rest)?)),
            _ => return None,
        }
    }
    Some(properties)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn binary<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    take(rest, length.into())
}

fn string(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(binary(rest)?.to_vec()).ok()
}
