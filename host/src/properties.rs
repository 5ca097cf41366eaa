//! The properties of an MQTT 5 PUBLISH (section 3.3.2.3), parsed from the block that a batch keeps as it came.

/// The properties that matter to an application. Topic alias and subscription identifiers belong to the connection and
/// are left out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Properties<'a> {
    /// What kind of content the payload is, often a MIME type.
    pub content_type: Option<&'a str>,
    /// Where a response is expected.
    pub response_topic: Option<&'a str>,
    /// What a response has to carry.
    pub correlation_data: Option<&'a [u8]>,
    /// Seconds that the message has left to live.
    pub message_expiry: Option<u32>,
    /// The payload format indicator: the sender says that the payload is UTF-8 text.
    pub payload_is_utf8: bool,
    /// User properties, in order; names may repeat.
    pub user: Vec<(&'a str, &'a str)>,
}

/// Parses a property block without its length, as [`crate::message::Batch::properties`] keeps it. `None` where the block is
/// malformed: an unknown property, one that PUBLISH may not have or that comes twice, text that is not UTF-8, an end
/// before the last value.
pub fn parse_properties(block: &[u8]) -> Option<Properties<'_>> {
    let mut rest = block;
    let mut found = Properties::default();
    let (mut format, mut alias) = (None, None);
    while let Some((&identifier, after)) = rest.split_first() {
        rest = after;
        match identifier {
            0x01 => once(&mut format, take::<1>(&mut rest)?[0])?,
            0x02 => once(&mut found.message_expiry, u32::from_be_bytes(take(&mut rest)?))?,
            0x03 => once(&mut found.content_type, text(&mut rest)?)?,
            0x08 => once(&mut found.response_topic, text(&mut rest)?)?,
            0x09 => once(&mut found.correlation_data, binary(&mut rest)?)?,
            0x0b => variable_integer(&mut rest)?,
            0x23 => once(&mut alias, take::<2>(&mut rest)?)?,
            0x26 => found.user.push((text(&mut rest)?, text(&mut rest)?)),
            _ => return None,
        }
    }
    found.payload_is_utf8 = match format {
        None | Some(0) => false,
        Some(1) => true,
        Some(_) => return None,
    };
    Some(found)
}

/// A property that may come once.
fn once<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (value, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*value)
}

fn binary<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_be_bytes(take(rest)?);
    let (value, after) = rest.split_at_checked(length.into())?;
    *rest = after;
    Some(value)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(binary(rest)?).ok()
}

fn variable_integer(rest: &mut &[u8]) -> Option<()> {
    for _ in 0..4 {
        if take::<1>(rest)?[0] & 0x80 == 0 {
            return Some(());
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;
    use rumqttc::v5::mqttbytes::v5::PublishProperties;

    use super::*;

    /// The block as rumqttc's codec writes it, without its length.
    fn block(properties: &PublishProperties) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        properties.write(&mut bytes).unwrap();
        let length = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        bytes[length..].to_vec()
    }

    proptest! {
        #[test]
        fn what_the_codec_writes_is_read_back(
            content_type in proptest::option::of(".{0,9}"),
            response_topic in proptest::option::of(".{0,9}"),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
            message_expiry_interval in any::<Option<u32>>(),
            utf8 in any::<Option<bool>>(),
            user_properties in proptest::collection::vec((".{0,9}", ".{0,9}"), 0..4),
            identifiers in proptest::collection::vec(1usize..268_435_455, 0..3),
        ) {
            let properties = PublishProperties {
                payload_format_indicator: utf8.map(u8::from),
                message_expiry_interval,
                topic_alias: None,
                response_topic: response_topic.clone(),
                correlation_data: correlation.clone().map(Bytes::from),
                user_properties: user_properties.clone(),
                subscription_identifiers: identifiers,
                content_type: content_type.clone(),
            };
            let block = block(&properties);
            let user = user_properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let expected = Properties {
                content_type: content_type.as_deref(),
                response_topic: response_topic.as_deref(),
                correlation_data: correlation.as_deref(),
                message_expiry: message_expiry_interval,
                payload_is_utf8: utf8 == Some(true),
                user,
            };
            prop_assert_eq!(parse_properties(&block), Some(expected));
            for end in 0..block.len() {
                // A cut never panics; between two properties it is a block of its own.
                let _ = parse_properties(&block[..end]);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_properties(&bytes);
        }
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for block in [
            &[0x03][..],
            &[0x03, 0, 2, b'x'],
            &[0x03, 0, 1, 0xff],
            &[0x01, 2],
            &[0x02, 0, 0, 0, 1, 0x02, 0, 0, 0, 1],
            &[0x11, 0, 0, 0, 0],
            &[0x0b, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert_eq!(parse_properties(block), None, "{block:?}");
        }
    }
}
