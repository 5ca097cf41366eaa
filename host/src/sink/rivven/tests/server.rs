//! A Rivven server whose answers a test decides.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rivven_protocol::{PROTOCOL_VERSION, Request, Response, WireFormat};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What the server does about a request.
pub enum Reply {
    /// Commits a `PublishBatch` and answers; answers everything else as a server with topics of four partitions does.
    Usual,
    /// Answers this.
    Answer(Response),
    /// Answers this, then closes.
    AnswerAndClose(Response),
    /// Closes without an answer.
    Close,
    /// Commits, then closes without an answer.
    CommitAndClose,
    /// Answers nothing.
    Silence,
}

/// A record that the server has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub topic: String,
    pub partition: u32,
    pub key: Option<Bytes>,
    pub value: Bytes,
}

type Script = Box<dyn FnMut(&Request) -> Reply + Send>;

pub struct Server {
    pub port: u16,
    log: Arc<Mutex<Vec<Committed>>>,
    requests: watch::Receiver<Vec<String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        Self::start_with(None, script).await
    }

    pub async fn start_with(
        tls: Option<TlsAcceptor>,
        script: impl FnMut(&Request) -> Reply + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (seen, requests) = watch::channel(Vec::new());
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let task = tokio::spawn({
            let log = log.clone();
            async move {
                let seen = Arc::new(seen);
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (tls, log, seen, script) = (tls.clone(), log.clone(), seen.clone(), script.clone());
                    connections.spawn(async move {
                        match tls {
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => serve(stream, log, seen, script).await,
                                Err(_) => None,
                            },
                            None => serve(stream, log, seen, script).await,
                        }
                    });
                }
            }
        });
        Server { port, log, requests, task }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What is committed.
    pub fn log(&self) -> Vec<Committed> {
        self.log.lock().unwrap().clone()
    }

    /// Values that are committed to a topic, as text.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let of_topic = |record: &Committed| record.topic == topic;
        self.log().into_iter().filter(of_topic).map(|record| text(&record.value)).collect()
    }

    /// Waits until so many requests that start with `name` have been seen.
    pub async fn seen(&self, name: &str, count: usize) {
        let enough = |requests: &Vec<String>| {
            requests.iter().filter(|request| request.starts_with(name)).count() >= count
        };
        let mut requests = self.requests.clone();
        super::soon(requests.wait_for(enough)).await.unwrap();
    }

    /// The requests that start with `name`, as their `Debug` shows them.
    pub fn requests(&self, name: &str) -> Vec<String> {
        self.requests.borrow().iter().filter(|request| request.starts_with(name)).cloned().collect()
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    log: Arc<Mutex<Vec<Committed>>>,
    seen: Arc<watch::Sender<Vec<String>>>,
    script: Arc<Mutex<Script>>,
) -> Option<()> {
    loop {
        let length = stream.read_u32().await.ok()?;
        let mut frame = vec![0; length as usize];
        stream.read_exact(&mut frame).await.ok()?;
        let (request, _, id) = Request::from_wire(&frame).unwrap();
        let reply = script.lock().unwrap()(&request);
        let (response, last) = match reply {
            Reply::Usual => (Some(usual(&request, &log)), false),
            Reply::Answer(response) => (Some(response), false),
            Reply::AnswerAndClose(response) => (Some(response), true),
            Reply::Close => (None, true),
            Reply::CommitAndClose => {
                usual(&request, &log);
                (None, true)
            }
            Reply::Silence => (None, false),
        };
        seen.send_modify(|seen| seen.push(format!("{request:?}")));
        if let Some(response) = response {
            let body = response.to_wire(WireFormat::Postcard, id).unwrap();
            // Two small segments, as rivvend does it.
            stream.write_u32(body.len() as u32).await.ok()?;
            stream.write_all(&body).await.ok()?;
            stream.flush().await.ok()?;
        }
        if last {
            return None;
        }
    }
}

fn usual(request: &Request, log: &Mutex<Vec<Committed>>) -> Response {
    match request {
        Request::Handshake { .. } => Response::HandshakeResult {
            server_version: PROTOCOL_VERSION,
            compatible: true,
            message: String::new(),
        },
        #[allow(deprecated)]
        Request::Authenticate { .. } => Response::Authenticated { session_id: "s".into(), expires_in: 60 },
        Request::Ping => Response::Pong,
        Request::GetMetadata { topic } => Response::Metadata { name: topic.clone(), partitions: 4 },
        Request::CreateTopic { name, partitions } => {
            Response::TopicCreated { name: name.clone(), partitions: partitions.unwrap_or(4) }
        }
        Request::CreatePartitions { topic, new_partition_count, .. } => {
            Response::PartitionsCreated { topic: topic.clone(), new_partition_count: *new_partition_count }
        }
        Request::PublishBatch { topic, partition, records, .. } => {
            let partition = partition.unwrap();
            log.lock().unwrap().extend(records.iter().map(|record| Committed {
                topic: topic.clone(),
                partition,
                key: record.key.clone(),
                value: record.value.clone(),
            }));
            Response::PublishedBatch { base_offset: 0, partition, record_count: records.len() as u32 }
        }
        other => panic!("the sink asked for {other:?}"),
    }
}
