//! Ports for servers that must keep theirs over a restart.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Ports that this process has given out.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port of 127.0.0.1 that nobody listens on and that no other call of this process has returned.
///
/// It lies below the range that the kernel takes the ports of outgoing connections from (32,768 and up on Linux), so that
/// it is still free when a server is started on it again a while later.
pub fn free_port() -> Result<u16> {
    const RANGE: std::ops::Range<u16> = 15_000..32_000;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_default();
    // Processes that run at the same time begin at different places.
    let start = (std::process::id() % 1_000) as u16 * 17;
    let span = RANGE.end - RANGE.start;
    for offset in 0..span {
        let port = RANGE.start + ((u32::from(start) + u32::from(offset)) % u32::from(span)) as u16;
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no free TCP port of 127.0.0.1 between {} and {}", RANGE.start, RANGE.end)
}
