//! rivvend as a process of its own (the benchmark's executable, started again), and writers that go to it directly.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Parser;
use rivven_client::Client;
use rivven_protocol::{BatchRecord, Request, Response, WireFormat};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Process, free_port};
use crate::support::messages::{payload, topic};

/// The first argument of the process that is rivvend.
const ROLE: &str = "--become-rivvend";
/// Partitions of every topic here.
pub const PARTITIONS: u32 = 16;

/// A running rivvend.
pub struct Rivvend {
    /// `host:port`.
    pub address: String,
    /// Its process.
    pub process: Process,
}

impl Rivvend {
    /// Starts rivvend with its files in `directory`.
    pub fn start(directory: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let api = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ROLE, "--bind", &address, "--api-bind", &api, "--no-dashboard", "--no-require-auth"]);
        command
            .args(["--log-level", "warn", "--rate-limit-per-ip", "0", "--data-dir"])
            .arg(directory.join("rivvend"));
        let mut process = Process::start("rivvend", &mut command, directory)?;
        process
            .wait_for("open port", Duration::from_secs(20), || std::net::TcpStream::connect(&address).ok())?;
        Ok(Rivvend { address, process })
    }

    /// Creates `topic`.
    pub async fn create_topic(&self, topic: &str) -> Result<()> {
        Client::connect(&self.address).await?.create_topic(topic, Some(PARTITIONS)).await?;
        Ok(())
    }

    /// Records in `topic`.
    pub async fn count(&self, topic: &str) -> Result<u64> {
        let mut client = Client::connect(&self.address).await?;
        let mut records = 0;
        for partition in 0..PARTITIONS {
            let (first, next) = client.get_offset_bounds(topic, partition).await?;
            records += next - first;
        }
        Ok(records)
    }
}

/// In the process that is to be rivvend: runs it, and says that this was that process.
pub fn become_rivvend() -> Result<bool> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_none_or(|role| role != ROLE) {
        return Ok(false);
    }
    arguments.remove(1);
    tokio::runtime::Runtime::new()?.block_on(async {
        let server = rivvend::ClusterServer::new(rivvend::Cli::try_parse_from(arguments)?).await?;
        server.start().await
    })?;
    Ok(true)
}

/// Records a second of `connections` writers, each with one `PublishBatch` of `batch` records in flight, that write `records`
/// records together. Connecting is not timed.
pub async fn write_directly(
    address: &str,
    destination: &str,
    connections: usize,
    batch: usize,
    records: usize,
) -> Result<f64> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = Client::connect(address).await?.into_stream()?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let share = records / connections;
    let writers = streams.into_iter().enumerate().map(|(writer, stream)| {
        // The remainder is the first writer's.
        let records = if writer == 0 { records - share * (connections - 1) } else { share };
        tokio::spawn(write(stream, destination.to_owned(), writer, batch, records))
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    Ok(records as f64 / start.elapsed().as_secs_f64())
}

async fn write(
    mut stream: TcpStream,
    destination: String,
    writer: usize,
    batch: usize,
    records: usize,
) -> Result<()> {
    let partition = Some(writer as u32 % PARTITIONS);
    let mut answer = Vec::new();
    for start in (0..records).step_by(batch) {
        let end = (start + batch).min(records);
        let records =
            (start..end).map(|i| BatchRecord { key: Some(topic(i).into()), value: Bytes::from(payload(i)) });
        let request = Request::PublishBatch {
            topic: destination.clone(),
            partition,
            records: records.collect(),
            leader_epoch: None,
        };
        let body = request.to_wire(WireFormat::Postcard, start as u32 + 1)?;
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend(body);
        stream.write_all(&frame).await?;
        // The server's answer comes in two small segments; a delayed acknowledgement of the first costs 40 ms.
        SockRef::from(&stream).set_tcp_quickack(true)?;
        let length = stream.read_u32().await.context("rivvend closed the connection")?;
        SockRef::from(&stream).set_tcp_quickack(true)?;
        answer.resize(length as usize, 0);
        stream.read_exact(&mut answer).await?;
        if let Response::Error { message } = Response::from_wire(&answer)?.0 {
            bail!("rivvend: {message}");
        }
    }
    Ok(())
}
