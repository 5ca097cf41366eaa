//! Records that Rivven can never take.

use super::*;

/// The server never takes the value `bad`, alone or among others.
fn picky(request: &Request) -> Reply {
    match request {
        Request::PublishBatch { records, .. } if records.iter().any(|record| record.value == "bad") => {
            Reply::Answer(error("MESSAGE_TOO_LARGE: 3 bytes exceeds limit"))
        }
        _ => Reply::Usual,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_bad_record_of_a_request_is_dead_lettered() {
    let server = Server::start(picky).await;
    let sink = start(&server, 1);
    let messages = [("a", &b"1"[..]), ("a", b"bad"), ("a", b"3")];
    let (delivery, settled) = delivery(&messages);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 2, dropped: 0, dead_lettered: 1 });
    assert_eq!(server.values("events"), ["1", "3"]);
    let letters = server.values("events.dlq");
    assert_eq!(letters.len(), 1);
    let letter: serde_json::Value = serde_json::from_str(&letters[0]).unwrap();
    assert_eq!((&letter["stage"], &letter["payload_base64"]), (&"sink".into(), &"YmFk".into()));
    assert_eq!(letter["reason"], "Rivven refuses the record: MESSAGE_TOO_LARGE: 3 bytes exceeds limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_the_frame_limit_never_leaves() {
    let server = Server::start(|_| Reply::Usual).await;
    let sink = start(&server, 2);
    let greatest = vec![b'x'; writer::MAX_RECORD - 1];
    let (mut delivery, settled) = delivery(&[("a", &greatest), ("b", b"2")]);
    delivery.outcome.verdicts = vec![Verdict::Emit, Verdict::Pass];
    delivery.outcome.outputs.of = vec![0, 0, 0];
    let (fits, over) = (text(&greatest), text(&greatest) + "x");
    delivery.outcome.outputs.values = column(&[&over, &fits, &over]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 1, dropped: 0, dead_lettered: 1 });
    let mut sizes: Vec<_> = server.values("events").iter().map(String::len).collect();
    sizes.sort();
    assert_eq!(sizes, [1, writer::MAX_RECORD - 1]);
    let letters = server.values("events.dlq");
    assert_eq!(letters.len(), 1, "one dead letter for each message");
    assert!(letters[0].contains(r#""payload_base64":null,"payload_omitted":"too large"#), "{}", letters[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_fault_drops_or_stops_where_it_says_so() {
    let server = Server::start(picky).await;
    let sink = start(&server, 1);
    let (drop_it, _) = shape(record("events", Format::Raw), BadMessage::Drop);
    let (delivery, settled) = delivery_of(drop_it, &[("a", b"bad"), ("b", b"2")]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 1, dropped: 0, dead_lettered: 1 });
    let (stop, mut stopped) = shape(record("events", Format::Raw), BadMessage::Stop);
    let (delivery, mut settled) = delivery_of(stop, &[("a", b"bad"), ("b", b"3")]);
    deliver(&sink, delivery).await.unwrap();
    assert!(soon(stopped.recv()).await.unwrap().contains("MESSAGE_TOO_LARGE"));
    assert!(soon(settled.recv()).await.is_none());
    assert_eq!(server.values("events.dlq"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_illegal_topic_of_a_plugin_is_dead_lettered() {
    let server = Server::start(|_| Reply::Usual).await;
    let sink = start(&server, 1);
    let (mut delivery, settled) = delivery(&[("a", b"1")]);
    delivery.outcome.verdicts = vec![Verdict::Emit];
    delivery.outcome.outputs.of = vec![0];
    delivery.outcome.outputs.topics = column(&["not/legal"]);
    delivery.outcome.outputs.values = column(&["x"]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 0, dropped: 0, dead_lettered: 1 });
    assert!(server.values("events.dlq")[0].contains("the plugin named the topic `not/legal`"));
}
