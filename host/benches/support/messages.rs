//! The messages of every benchmark: a topic of 26 bytes out of 1,000, a payload of exactly 100 bytes, a JSON reading.

/// Bytes of a payload.
pub const PAYLOAD: usize = 100;
/// Different topics.
pub const TOPICS: usize = 1_000;

/// Topic `i`; they end alike, because that is what the bench plugin looks at.
pub fn topic(i: usize) -> String {
    format!("sensor/room{:03}/temperature", i % TOPICS)
}

/// Payload `i`.
pub fn payload(i: usize) -> Vec<u8> {
    let (device, degrees) = (i % 100_000, 10 + i % 80);
    let mut text = format!(
        "{{\"device\":\"dev-{device:05}\",\"temp\":{degrees}.5,\"unit\":\"celsius\",\"ts\":1700000000,\"pad\":\""
    );
    text.extend(std::iter::repeat_n('x', PAYLOAD - 2 - text.len()));
    text.push_str("\"}");
    text.into_bytes()
}

/// Appends an MQTT 3.1.1 PUBLISH (section 3.3) and returns where its packet identifier stands; 0 at QoS 0.
pub fn encode_publish(out: &mut Vec<u8>, qos: u8, topic: &str, payload: &[u8]) -> usize {
    let id = if qos > 0 { 2 } else { 0 };
    out.push(0x30 | qos << 1);
    encode_length(out, 2 + topic.len() + id + payload.len());
    encode_string(out, topic);
    let id_at = if qos > 0 { out.len() } else { 0 };
    out.extend(&[0, 1][..id]);
    out.extend(payload);
    id_at
}

/// Appends a remaining length (section 2.2.3).
pub fn encode_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let more = length >= 128;
        out.push((length % 128) as u8 | u8::from(more) << 7);
        length /= 128;
        if !more {
            return;
        }
    }
}

/// Appends a string with its length (section 1.5.3).
pub fn encode_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// The packet identifier after `id`: 1 to 65,535.
pub fn next_id(id: u16) -> u16 {
    id.checked_add(1).unwrap_or(1)
}
