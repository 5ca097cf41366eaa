//! The floor under every component call: the work of `bench-guest` in a core module, with fixed buffers, raw pointers and
//! no allocation, driven without the component model.
//!
//! The caller writes a batch at [`input`], each part following the one before: the ends of topics and of payloads (u32,
//! little-endian), the bytes of topics, the bytes of payloads. [`process`] writes at [`output`]: one byte per message for
//! its verdict (as in `wit/connect.wit`: 0 pass, 1 drop, 2 emit), padding to a multiple of 4, the ends of values, values.
#![cfg_attr(target_arch = "wasm32", no_std)]

/// The size of each buffer in bytes: 1 MiB.
pub const SIZE: usize = 1 << 20;

static mut INPUT: [u64; SIZE / 8] = [0; SIZE / 8];
static mut OUTPUT: [u64; SIZE / 8] = [0; SIZE / 8];

/// Where the caller writes a batch.
#[unsafe(no_mangle)]
pub extern "C" fn input() -> *mut u8 {
    (&raw mut INPUT).cast()
}

/// Where the caller finds what became of it.
#[unsafe(no_mangle)]
pub extern "C" fn output() -> *const u8 {
    (&raw const OUTPUT).cast()
}

/// Decides about a batch of `messages`: those whose topic ends in `temperature` pass, or with `echo` are emitted, the others
/// are dropped. Gives the number of bytes of values.
///
/// # Safety
/// The batch at [`input`] is whole and well-formed, it and its output fit the buffers, and no other call runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn process(
    echo: bool,
    messages: usize,
    topic_bytes: usize,
    payload_bytes: usize,
) -> usize {
    use core::slice::{from_raw_parts, from_raw_parts_mut};

    let input: *const u8 = (&raw const INPUT).cast();
    let output: *mut u8 = (&raw mut OUTPUT).cast();
    let value_ends_at = messages.next_multiple_of(4);
    // SAFETY: all lie within the buffers, as the caller vouches, and nothing else refers to these; 4-byte items are aligned,
    // because the buffers are and only multiples of 4 bytes come before them.
    let (topic_ends, payload_ends, topics, payloads, verdicts, value_ends, values) = unsafe {
        (
            from_raw_parts(input.cast::<u32>(), messages),
            from_raw_parts(input.cast::<u32>().add(messages), messages),
            from_raw_parts(input.add(messages * 8), topic_bytes),
            from_raw_parts(input.add(messages * 8 + topic_bytes), payload_bytes),
            from_raw_parts_mut(output, messages),
            from_raw_parts_mut(output.add(value_ends_at).cast::<u32>(), messages),
            from_raw_parts_mut(output.add(value_ends_at + messages * 4), payload_bytes),
        )
    };
    let (mut topic_start, mut payload_start, mut written, mut emitted) = (0, 0, 0, 0);
    for message in 0..messages {
        let (topic_end, payload_end) = (topic_ends[message] as usize, payload_ends[message] as usize);
        verdicts[message] = if !topics[topic_start..topic_end].ends_with(b"temperature") {
            1
        } else if echo {
            let payload = &payloads[payload_start..payload_end];
            values[written..written + payload.len()].copy_from_slice(payload);
            written += payload.len();
            value_ends[emitted] = written as u32;
            emitted += 1;
            2
        } else {
            0
        };
        (topic_start, payload_start) = (topic_end, payload_end);
    }
    written
}

#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
