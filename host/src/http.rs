//! What an operator asks over HTTP: `/metrics`, `/health`, `/ready`, `/status` as JSON, and `/` as a page for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::config::Http;
use crate::error::HttpError;
use crate::exposition::{self, CONTENT_TYPE, Sample};
use crate::metrics::{SourceMetrics, Subscription};
use crate::plugin::{LimitUse, PluginHost, PluginSample};
use crate::sink::Sink;
use crate::status::Status;

const TEXT: &str = "text/plain; charset=utf-8";

/// A source as the endpoints see it.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// What it counts.
    pub metrics: Arc<SourceMetrics>,
    /// Whether it is ready.
    pub status: Status,
    /// What its plugins use and report.
    pub plugins: Vec<PluginHost>,
}

impl Watched {
    fn sample(&self) -> Sample<'_> {
        Sample {
            source: &self.name,
            counts: self.metrics.snapshot(),
            ready: self.status.reasons().is_empty(),
            plugins: self.plugins.iter().map(PluginHost::sample).collect(),
        }
    }
}

/// What the endpoints tell about.
#[derive(Clone)]
struct Host {
    sources: Arc<[Watched]>,
    sink: Arc<dyn Sink>,
}

/// Takes the address. A default that another program has is gone without, with a warning: `None`.
///
/// # Errors
/// An address of the configuration that cannot be listened on.
pub async fn bind(http: Http) -> Result<Option<TcpListener>, HttpError> {
    match TcpListener::bind(http.listen).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) if http.configured => Err(HttpError { address: http.listen, source }),
        Err(error) => {
            warn!(address = %http.listen, %error, "no /metrics, /health and /ready: set settings.http.listen to another address");
            Ok(None)
        }
    }
}

/// Answers until `shutdown` completes.
pub async fn serve(
    listener: TcpListener,
    sources: Vec<Watched>,
    sink: Arc<dyn Sink>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    match listener.local_addr() {
        Ok(address) => info!(%address, "serving /metrics, /health and /ready"),
        Err(error) => warn!(%error, "the HTTP listener has no address"),
    }
    let router = Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(Host { sources: sources.into(), sink });
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown).await {
        error!(%error, "HTTP has ended");
    }
}

async fn health() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT)], "ok\n")
}

async fn ready(State(host): State<Host>) -> impl IntoResponse {
    let mut reasons = String::new();
    for source in host.sources.iter() {
        for reason in source.status.reasons() {
            // Writing into a string cannot fail.
            let _ = writeln!(reasons, "{}: {reason}", source.name);
        }
    }
    match reasons.is_empty() {
        true => (StatusCode::OK, [(header::CONTENT_TYPE, TEXT)], "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, TEXT)], reasons),
    }
}

async fn metrics(State(host): State<Host>) -> impl IntoResponse {
    let samples: Vec<_> = host.sources.iter().map(Watched::sample).collect();
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], exposition::render(&samples, host.sink.sample()))
}

async fn status(State(host): State<Host>) -> impl IntoResponse {
    let sources: Vec<_> = host.sources.iter().map(source_status).collect();
    let body = serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "sources": sources }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], body)
}

fn source_status(source: &Watched) -> serde_json::Value {
    let counts = source.metrics.snapshot();
    let reasons = source.status.reasons();
    let settled = counts.ledger.settled;
    serde_json::json!({
        "name": &*source.name,
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "received": counts.ledger.received,
        "committed": settled.committed,
        "dropped": settled.dropped,
        "dead_lettered": settled.dead_lettered,
        "in_flight": counts.ledger.in_flight(),
        "records_written": counts.records_written,
        "plugin_faults": counts.plugin_faults,
        "plugins": source.plugins.iter().map(|plugin| plugin_status(&plugin.sample())).collect::<Vec<_>>(),
        "connections": counts.mqtt.connections,
        "oldest_unacknowledged_seconds": counts.link.oldest.as_secs_f64(),
        "last_commit_timestamp_seconds": counts.last_commit,
        "subscriptions": counts.link.subscriptions.iter().map(subscription).collect::<serde_json::Map<_, _>>(),
        "reconnects": counts.link.reconnects.iter().filter(|(_, count)| *count > 0).copied().collect::<BTreeMap<_, _>>(),
    })
}

fn subscription((filter, state): &(String, Subscription)) -> (String, serde_json::Value) {
    let state = match state {
        Subscription::Granted(qos) => (*qos as u8).into(),
        Subscription::Refused => "refused".into(),
        Subscription::Unanswered => serde_json::Value::Null,
    };
    (filter.clone(), state)
}

fn plugin_status(plugin: &PluginSample) -> serde_json::Value {
    let limit = |limit: &LimitUse| {
        let LimitUse { name, limit, used } = *limit;
        (name.to_owned(), serde_json::json!({ "limit": limit, "used": used }))
    };
    serde_json::json!({
        "name": &*plugin.name,
        "sha256": plugin.sha256.as_deref(),
        "loads": plugin.loads.0,
        "failed_loads": plugin.loads.1,
        "calls": plugin.calls,
        "call_ms_p50": plugin.p50.as_secs_f64() * 1e3,
        "call_ms_p99": plugin.p99.as_secs_f64() * 1e3,
        "outputs": plugin.outputs,
        "state_bytes": plugin.state_bytes,
        "log_lines_dropped": plugin.log_lines_dropped,
        "limits": plugin.limits.iter().map(limit).collect::<serde_json::Map<_, _>>(),
    })
}

async fn page(State(host): State<Host>) -> Html<String> {
    let mut rows = String::new();
    for source in host.sources.iter() {
        let counts = source.metrics.snapshot();
        let settled = counts.ledger.settled;
        let reasons = source.status.reasons();
        let state = if reasons.is_empty() { "ready".to_owned() } else { escape(&reasons.join("; ")) };
        // Writing into a string cannot fail.
        let _ = write!(
            rows,
            "<tr><td>{}<td>{state}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            escape(&source.name),
            counts.ledger.received,
            settled.committed,
            settled.dropped,
            settled.dead_lettered,
            counts.ledger.in_flight(),
            counts.records_written,
        );
    }
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2><title>rivven-mqtt</title>\
         <style>body{{font:16px sans-serif;margin:2em}}td,th{{padding:.3em 1em;text-align:left;border-bottom:1px solid #ccc}}</style>\
         <h1>rivven-mqtt {}</h1><table><tr><th>source<th>state<th>received<th>committed<th>dropped<th>dead-lettered\
         <th>in flight<th>records written{rows}</table>\
         <p><a href=/ready>/ready</a> <a href=/metrics>/metrics</a> <a href=/status>/status</a>",
        env!("CARGO_PKG_VERSION")
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::Limits;
    use crate::message::Tally;
    use crate::sink::Discard;
    use crate::status::Part;

    async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    fn any_port(configured: bool) -> Http {
        Http { listen: ([127, 0, 0, 1], 0).into(), configured }
    }

    #[tokio::test]
    async fn the_endpoints_say_how_it_is() {
        let listener = bind(any_port(true)).await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        let iot = Watched {
            name: "iot".into(),
            metrics: Arc::default(),
            status: Status::default(),
            plugins: vec![PluginHost::named("iot", "filter", &Limits::default())],
        };
        iot.status.ready(Part::Plugin);
        iot.status.not_ready(Part::Mqtt, "cannot connect to <broker>");
        iot.status.not_ready(Part::Sink, "connection refused");
        iot.metrics.received(3, 30);
        iot.metrics.settled(Tally { committed: 1, dropped: 1, dead_lettered: 0 });
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, vec![iot.clone()], Arc::new(Discard), async {
            drop(stopped.await)
        }));

        let (code, head, body) = get(address, "/ready").await;
        assert_eq!(
            (code, body.as_str()),
            (503, "iot: mqtt: cannot connect to <broker>\niot: sink: connection refused\n")
        );
        assert!(head.contains("content-type: text/plain; charset=utf-8"), "{head}");
        assert!(get(address, "/").await.2.contains("mqtt: cannot connect to &lt;broker&gt;"));
        iot.status.ready(Part::Mqtt);
        iot.status.ready(Part::Sink);
        assert_eq!(get(address, "/ready").await.0, 200);
        assert_eq!(get(address, "/health").await.0, 200);
        assert_eq!(get(address, "/nothing").await.0, 404);

        let (code, head, body) = get(address, "/metrics").await;
        assert_eq!(code, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let series = exposition::tests::parse(&body);
        assert_eq!(series.get("rivven_mqtt_source_messages_in_flight{source=\"iot\"}"), Some(&1.0));

        let status: serde_json::Value = serde_json::from_str(&get(address, "/status").await.2).unwrap();
        assert_eq!(status["sources"][0]["received"], 3);
        assert_eq!(status["sources"][0]["in_flight"], 1);
        let memory = &status["sources"][0]["plugins"][0]["limits"]["memory_mb"];
        assert_eq!(memory, &serde_json::json!({ "limit": 64.0, "used": 0.0 }));

        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn only_a_configured_address_has_to_be_free() {
        let taken = bind(any_port(true)).await.unwrap().unwrap();
        let listen = taken.local_addr().unwrap();
        assert!(bind(Http { listen, configured: false }).await.unwrap().is_none());
        let error = bind(Http { listen, configured: true }).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {listen} (settings.http.listen)")), "{error}");
    }
}
