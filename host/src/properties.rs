//! The properties of an MQTT 5 PUBLISH.

/// The properties of a message (MQTT 5 section 3.3.2.3) that concern its reader.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Content type.
    pub content_type: Option<String>,
    /// Response topic.
    pub response_topic: Option<String>,
    /// Correlation data.
    pub correlation_data: Option<Vec<u8>>,
    /// Seconds that the message has left to live.
    pub message_expiry: Option<u32>,
    /// The payload format indicator: UTF-8 text.
    pub payload_is_utf8: bool,
    /// User properties, in order.
    pub user: Vec<(String, String)>,
}

/// Reads a property block without its length; `None` when it is malformed.
pub fn parse_properties(mut block: &[u8]) -> Option<Properties> {
    let mut properties = Properties::default();
    while let Some((id, rest)) = block.split_first() {
        block = rest;
        match id {
            0x01 => properties.payload_is_utf8 = take(&mut block, 1)? == [1],
            0x02 => {
                properties.message_expiry = Some(u32::from_be_bytes(take(&mut block, 4)?.try_into().ok()?))
            }
            0x03 => properties.content_type = Some(text(&mut block)?),
            0x08 => properties.response_topic = Some(text(&mut block)?),
            0x09 => properties.correlation_data = Some(binary(&mut block)?.to_vec()),
            0x26 => properties.user.push((text(&mut block)?, text(&mut block)?)),
            0x23 => _ = take(&mut block, 2)?,
            0x0b => while take(&mut block, 1)?.first()? & 0x80 != 0 {},
            _ => return None,
        }
    }
    Some(properties)
}

fn take<'a>(block: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    block.split_off(..len)
}

fn binary<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u16::from_be_bytes(take(block, 2)?.try_into().ok()?);
    take(block, len.into())
}

fn text(block: &mut &[u8]) -> Option<String> {
    Some(std::str::from_utf8(binary(block)?).ok()?.to_owned())
}
