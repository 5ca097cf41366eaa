//! Records that Rivven can never take.

use super::*;
use crate::delivery::{DeadLetter, Stage};

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
    assert_eq!(tally(settled).await, Tally { committed: 1, dropped: 1, dead_lettered: 0 });
    let (stop, mut stopped) = shape(record("events", Format::Raw), BadMessage::Stop);
    let (delivery, mut settled) = delivery_of(stop, &[("a", b"bad"), ("b", b"3")]);
    deliver(&sink, delivery).await.unwrap();
    assert!(soon(stopped.recv()).await.unwrap().contains("MESSAGE_TOO_LARGE"));
    assert!(soon(settled.recv()).await.is_none());
    assert_eq!(server.values("events.dlq"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_too_large_goes_without_its_payload() {
    let server = Server::start(|request| match request {
        Request::PublishBatch { records, .. } if records.iter().any(|record| record.value.len() > 1_000) => {
            Reply::Answer(error("MESSAGE_TOO_LARGE: over 1000 bytes"))
        }
        _ => Reply::Usual,
    })
    .await;
    let sink = start(&server, 1);
    let status = Status::default();
    sink.attach(status.clone());
    let (delivery, settled) = delivery(&[("a", &[b'x'; 2_000]), ("a", b"2"), ("a", &[b'y'; 3_000])]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 1, dropped: 0, dead_lettered: 2 });
    assert_eq!(server.values("events"), ["2"]);
    let letters = server.values("events.dlq");
    assert_eq!(letters.len(), 2);
    for (letter, size) in letters.iter().zip([2_000, 3_000]) {
        let letter: serde_json::Value = serde_json::from_str(letter).unwrap();
        assert_eq!((&letter["topic"], &letter["stage"]), (&"a".into(), &"sink".into()));
        assert_eq!((&letter["payload_base64"], &letter["size"]), (&serde_json::Value::Null, &size.into()));
        assert!(letter["payload_omitted"].as_str().unwrap().contains("refuses"), "{letter}");
    }
    ready(&status).await;
}

/// What is wrong is not the payload then, and it is not given up for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_refused_without_its_payload_too_waits_with_it() {
    let (allow, allowed) = tokio::sync::watch::channel(false);
    let server = Server::start(move |request| match request {
        Request::PublishBatch { topic, records, .. } if topic == "events.dlq" => {
            let whole = text(&records[0].value).contains(r#""payload_base64":"YmFk""#);
            match *allowed.borrow() && whole {
                true => Reply::Usual,
                false => Reply::Answer(error("INVALID_TOPIC_NAME: not now")),
            }
        }
        request => picky(request),
    })
    .await;
    let sink = start(&server, 1);
    let status = Status::default();
    sink.attach(status.clone());
    let (delivery, mut settled) = delivery(&[("a", b"bad")]);
    deliver(&sink, delivery).await.unwrap();
    not_ready(&status, "Rivven refuses a dead letter: INVALID_TOPIC_NAME").await;
    server.seen("PublishBatch { topic: \"events.dlq\"", 4).await;
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Empty);
    allow.send_replace(true);
    assert_eq!(tally(settled).await, Tally { committed: 0, dropped: 0, dead_lettered: 1 });
    assert_eq!(server.values("events.dlq").len(), 1);
    ready(&status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_refuses_a_record_shows_that_the_server_works() {
    let mut first = true;
    let server = Server::start(move |request| match request {
        Request::PublishBatch { .. } if std::mem::take(&mut first) => Reply::Close,
        request => picky(request),
    })
    .await;
    let sink = start(&server, 1);
    let status = Status::default();
    sink.attach(status.clone());
    let (drop_it, _) = shape(record("events", Format::Raw), BadMessage::Drop);
    let (delivery, settled) = delivery_of(drop_it, &[("a", b"bad")]);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 0, dropped: 1, dead_lettered: 0 });
    ready(&status).await;
    assert_eq!(sink.sample().failures, 1);
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

#[tokio::test(flavor = "multi_thread")]
async fn records_that_do_not_fit_into_one_request_go_in_several() {
    let server = Server::start(|_| Reply::Usual).await;
    let sink = start(&server, 1);
    let count = 12;
    // Keys are what makes the request large, and nothing of it is in the values.
    let key = "k".repeat(1 << 20);
    let (mut delivery, settled) = delivery(&[("a", b"1")]);
    delivery.outcome.verdicts = vec![Verdict::Emit];
    delivery.outcome.outputs.of = vec![0; count];
    delivery.outcome.outputs.keys = column(&vec![key.as_str(); count]);
    delivery.outcome.outputs.values = column(&vec!["v"; count]);
    delivery.batch.tally = committed(1);
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, committed(1));
    assert_eq!(server.values("events"), vec!["v"; count]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_long_topics_fit_into_requests() {
    let server = Server::start(|_| Reply::Usual).await;
    let sink = start(&server, 1);
    let topic = "t".repeat(60_000);
    let messages = vec![(topic.as_str(), &b"x"[..]); 120];
    let (mut delivery, settled) = delivery(&messages);
    delivery.outcome.verdicts = vec![Verdict::Reject; messages.len()];
    let letter = |message| DeadLetter { message, stage: Stage::Plugin, reason: "no".into(), plugin: Some(0) };
    delivery.dead_letters = (0..messages.len() as u32).map(letter).collect();
    delivery.batch.tally = Tally { dead_lettered: messages.len() as u64, ..Tally::default() };
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await.dead_lettered, messages.len() as u64);
    assert_eq!(server.log().len(), messages.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_sink_gives_back_the_room_of_what_it_had() {
    let server = Server::start(|request| match request {
        Request::PublishBatch { .. } => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let sink = start(&server, 1);
    let room = Arc::new(tokio::sync::Semaphore::new(2));
    let mut ends = Vec::new();
    // One is with the writer, the other waits for it.
    for _ in 0..2 {
        let (mut delivery, settled) = delivery(&[("a", b"1")]);
        delivery.permit = Some(room.clone().acquire_owned().await.unwrap());
        deliver(&sink, delivery).await.unwrap();
        ends.push(settled);
    }
    sink.close().await;
    drop(soon(room.acquire_many(2)).await.unwrap());
    for mut settled in ends {
        assert!(soon(settled.recv()).await.is_none(), "what is not committed is not settled");
    }
}
