//! A TCP proxy that knows nothing of what it carries: a bad network between the host and a server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::wait::wait_for;

/// Bytes of one read, and chunks that may be under way in one direction.
const CHUNK: usize = 16 << 10;
const UNDER_WAY: usize = 64;
/// Bytes of one write at a limited rate.
const DROPLET: usize = 1 << 10;

/// How the network is, for all connections, from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Good.
    None,
    /// Each chunk takes this long, half as much less or half as much more.
    Delay(Duration),
    /// Each byte is a segment of its own.
    OneByte,
    /// So many bytes a second in each direction of each connection.
    Rate(u32),
    /// Nothing arrives, and new connections are not answered. What was sent arrives when it is over, as TCP sees to it.
    BlackHole,
}

/// A listening proxy; its connections end with it.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    network: Arc<Network>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Network {
    server: u16,
    fault: watch::Sender<Fault>,
    /// Connections with a number below this one are half-open: both ends believe in them.
    dead: AtomicU64,
    /// Bytes that are carried until the connection that carries the last of them is cut.
    until_cut: Mutex<Option<usize>>,
    cut: Notify,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 for clients of the server on `server`, another one.
    pub async fn listen(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let network = Arc::new(Network {
            server,
            fault: watch::Sender::new(Fault::None),
            dead: AtomicU64::new(0),
            until_cut: Mutex::default(),
            cut: Notify::new(),
        });
        let task = tokio::spawn(accept(listener, network.clone()));
        Ok(FaultProxy { port, network, task })
    }

    /// The port of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes the network bad, or good again.
    pub fn set(&self, fault: Fault) {
        self.network.fault.send_replace(fault);
    }

    /// Cuts the connection that carries the `bytes`th byte from now on, behind that byte, whichever that is.
    pub fn cut_after(&self, bytes: usize) {
        *self.network.until_cut() = Some(bytes);
    }

    /// Waits until it is cut.
    pub async fn has_cut(&self, timeout: Duration) -> Result<()> {
        wait_for("the connection is cut", timeout, async || self.network.until_cut().is_none()).await
    }

    /// Cuts all connections now. New ones are accepted.
    pub fn cut(&self) {
        self.network.cut.notify_waiters();
    }

    /// Leaves the connections of the present half-open: what either end sends is lost, and neither hears of it. New ones are
    /// good.
    pub fn half_open(&self) {
        self.network.dead.store(u64::MAX, Ordering::Relaxed);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Network {
    fn until_cut(&self) -> MutexGuard<'_, Option<usize>> {
        self.until_cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of `n` bytes may be carried, if the connection is to be cut behind them.
    fn cut_within(&self, n: usize) -> Option<usize> {
        let mut until_cut = self.until_cut();
        match *until_cut {
            Some(left) if left > n => *until_cut = Some(left - n),
            Some(_) => return until_cut.take(),
            None => {}
        }
        None
    }

    /// When what is read now arrives.
    fn due(&self) -> Instant {
        match *self.fault.borrow() {
            Fault::Delay(mean) => Instant::now() + mean.mul_f64(0.5 + fastrand::f64()),
            _ => Instant::now(),
        }
    }

    async fn not_a_black_hole(&self) {
        // An error would be that the sender is gone, which is ours.
        let _ = self.fault.subscribe().wait_for(|fault| *fault != Fault::BlackHole).await;
    }
}

async fn accept(listener: TcpListener, network: Arc<Network>) {
    // Dropped with this task, and with them their connections.
    let mut connections = JoinSet::new();
    let mut number = 0;
    while let Ok((client, _)) = listener.accept().await {
        // Whatever came before is half-open, this one is not.
        let _ = network.dead.compare_exchange(u64::MAX, number, Ordering::Relaxed, Ordering::Relaxed);
        let line = Line { network: network.clone(), number };
        number += 1;
        connections.spawn(async move {
            // Errors are those of connections that end, which both sides see.
            let _ = line.serve(client).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Line {
    network: Arc<Network>,
    number: u64,
}

impl Line {
    fn is_dead(&self) -> bool {
        self.number < self.network.dead.load(Ordering::Relaxed)
    }

    /// Carries bytes both ways until one side ends or the cut comes; both connections end then. A half-open one ends when both
    /// sides have closed it.
    async fn serve(&self, mut client: TcpStream) -> Result<()> {
        self.network.not_a_black_hole().await;
        let server = TcpStream::connect(("127.0.0.1", self.network.server)).await;
        let mut server = server.context("no server behind the proxy")?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (up, down) = (self.carry(from_client, to_server), self.carry(from_server, to_client));
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        tokio::select! {
            result = &mut up => match result {
                Ok(()) if self.is_dead() => down.await,
                result => result,
            },
            result = &mut down => match result {
                Ok(()) if self.is_dead() => up.await,
                result => result,
            },
            () = self.network.cut.notified() => Ok(()),
        }
    }

    /// Carries bytes one way.
    async fn carry(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<()> {
        let (send, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let read = async move {
            let mut buffer = vec![0; CHUNK];
            let mut last = Instant::now();
            loop {
                let n = match from.read(&mut buffer).await {
                    // The other side does not hear of it.
                    Err(_) if self.is_dead() => 0,
                    n => n?,
                };
                if n == 0 {
                    return anyhow::Ok(());
                }
                if self.is_dead() {
                    continue;
                }
                // Nothing overtakes in TCP.
                last = last.max(self.network.due());
                let chunk = buffer.get(..n).unwrap_or_default().to_vec();
                if send.send((last, chunk)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let write = async {
            while let Some((due, bytes)) = under_way.recv().await {
                sleep_until(due).await;
                self.network.not_a_black_hole().await;
                if self.is_dead() {
                    continue;
                }
                let cut = self.network.cut_within(bytes.len());
                self.deliver(&mut to, bytes.get(..cut.unwrap_or(bytes.len())).unwrap_or_default()).await?;
                if cut.is_some() {
                    anyhow::bail!("cut");
                }
            }
            if !self.is_dead() {
                to.shutdown().await?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(read, write).map(drop)
    }

    async fn deliver(&self, to: &mut WriteHalf<'_>, bytes: &[u8]) -> Result<()> {
        let fault = *self.network.fault.borrow();
        match fault {
            Fault::OneByte => {
                for byte in bytes {
                    to.write_all(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
            }
            Fault::Rate(rate) => {
                for droplet in bytes.chunks(DROPLET) {
                    to.write_all(droplet).await?;
                    sleep(Duration::from_secs_f64(droplet.len() as f64 / f64::from(rate))).await;
                }
            }
            _ => to.write_all(bytes).await?,
        }
        Ok(())
    }
}
