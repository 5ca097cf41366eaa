//! Threads with a runtime of their own.

use std::io;

/// Runs `future` on a new thread and a runtime of its own, and calls `at_end` with what came out when nothing of the two is left
/// but the thread.
///
/// On a shared runtime each arrival of data wakes whichever thread waits for the socket, though the driver is at work on another
/// already: that cost more than all of the decoding. And whatever blocks the other runtime, here pings are sent on time.
///
/// # Errors
/// The system starts no more threads, or has no more descriptors.
pub fn run_alone<F: Future + Send + 'static>(
    name: String,
    future: F,
    at_end: impl FnOnce(F::Output) + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name).spawn(move || {
        let output = runtime.block_on(future);
        drop(runtime);
        at_end(output);
    })?;
    Ok(())
}
