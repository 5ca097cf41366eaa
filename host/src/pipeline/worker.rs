//! The thread of a worker.

use std::future::pending;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::error::HostError;
use crate::live::Swap;
use crate::message::Work;
use crate::processor::{Processor, Stop};

/// Runs `job` on a thread of its own with so much `stack`, within the runtime of the caller.
pub(super) fn spawn<T: Send + 'static>(
    name: String,
    stack: usize,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<(JoinHandle<()>, oneshot::Receiver<T>), HostError> {
    let (end, ended) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name(name).stack_size(stack).spawn(move || {
        let _runtime = runtime.enter();
        // Whoever waits for it may be gone.
        let _ = end.send(job());
    });
    Ok((thread.map_err(HostError::Thread)?, ended))
}

/// What a worker does until its channel is closed: batches in, deliveries out, a flush whenever something has been held for
/// as long as the interval, and other plugins between two calls.
pub(super) fn work_off(
    processor: &mut Processor,
    work: &mut mpsc::Receiver<Work>,
    flush_interval: Duration,
) -> Result<(), Stop> {
    let runtime = Handle::current();
    let mut flush_at: Option<Instant> = None;
    loop {
        match runtime.block_on(next(processor, work, flush_at)) {
            Next::Swap(swap) => processor.swap(swap)?,
            Next::Work(Work::Batch(batch)) => processor.process(batch)?,
            Next::Work(Work::Flush) => processor.flush()?,
            Next::End => return processor.flush(),
        }
        flush_at = match processor.holds() {
            true => flush_at.or_else(|| Some(Instant::now() + flush_interval)),
            false => None,
        };
    }
}

enum Next {
    Swap(Swap),
    Work(Work),
    End,
}

async fn next(processor: &mut Processor, work: &mut mpsc::Receiver<Work>, flush_at: Option<Instant>) -> Next {
    let due = async {
        match flush_at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    };
    tokio::select! {
        // Neither has to wait for a pause in the messages.
        biased;
        swap = processor.next_plugins() => Next::Swap(swap),
        () = due => Next::Work(Work::Flush),
        work = work.recv() => work.map_or(Next::End, Next::Work),
    }
}
