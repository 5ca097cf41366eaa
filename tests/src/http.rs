//! A GET over HTTP/1.1, as much as the host's own endpoints need.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields and their values, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks 127.0.0.1.
pub async fn get(port: u16, path: &str) -> Result<Response> {
    let answer = tokio::time::timeout(Duration::from_secs(5), async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = answer.await.with_context(|| format!("no answer to GET {path} on port {port}"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without a body")?;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        bail!("GET {path}: a chunked body is more than this client understands");
    }
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no status in an HTTP answer")?;
    Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
}

/// One scrape of `/metrics`: the value of each series, under its name with its labels.
#[derive(Debug, Clone, Default)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Result<Self> {
        let mut series = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("not a metric: {line}"))?;
            let value = value.parse().with_context(|| format!("not a number: {line}"))?;
            if series.insert(name.to_owned(), value).is_some() {
                bail!("the series {name} appears twice in one scrape");
            }
        }
        Ok(Metrics(series))
    }

    /// The sum of all series of a name; an error when there is none.
    pub fn sum(&self, name: &str) -> Result<u64> {
        let of_name = self.0.iter().filter(|(series, _)| series.split('{').next() == Some(name));
        let values: Vec<f64> = of_name.map(|(_, value)| *value).collect();
        if values.is_empty() {
            bail!("no metric {name} among {:?}", self.0.keys().collect::<Vec<_>>());
        }
        Ok(values.iter().sum::<f64>() as u64)
    }

    /// The terms of the loss equation, over all sources.
    pub fn ledger(&self) -> Result<Ledger> {
        let term = |name: &str| self.sum(&format!("rivven_mqtt_source_{name}"));
        Ok(Ledger {
            received: term("messages_received_total")?,
            committed: term("messages_committed_total")?,
            dropped: term("messages_dropped_total")?,
            dead_lettered: term("messages_dead_lettered_total")?,
            in_flight: term("messages_in_flight")?,
        })
    }
}

/// The loss equation in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Messages that entered the host.
    pub received: u64,
    /// Messages whose records are committed.
    pub committed: u64,
    /// Messages that the plugin dropped.
    pub dropped: u64,
    /// Messages that went to the dead-letter topic.
    pub dead_lettered: u64,
    /// Messages that are none of these yet.
    pub in_flight: u64,
}

impl Ledger {
    /// Reads the line that `run` ends with: `NAME: received 9 = committed 7 + dropped 1 + dead-lettered 1 + in flight 0`.
    pub fn parse(line: &str) -> Result<Self> {
        let term = |name: &str| {
            let (_, rest) =
                line.split_once(&format!("{name} ")).with_context(|| format!("no {name} in: {line}"))?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().with_context(|| format!("no number after {name} in: {line}"))
        };
        Ok(Ledger {
            received: term("received")?,
            committed: term("committed")?,
            dropped: term("dropped")?,
            dead_lettered: term("dead-lettered")?,
            in_flight: term("in flight")?,
        })
    }

    /// Whether nothing is missing and nothing counted twice.
    pub fn balances(&self) -> bool {
        self.received == self.committed + self.dropped + self.dead_lettered + self.in_flight
    }
}
