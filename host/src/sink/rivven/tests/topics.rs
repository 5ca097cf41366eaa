//! Topics that Rivven does not have, does not give, or not yet.

use super::*;

/// A server that has every topic but `topic`, and answers `reply` about that one until it is allowed.
async fn denying(topic: &'static str, reply: fn() -> Reply) -> (Server, tokio::sync::watch::Sender<bool>) {
    let (allow, allowed) = tokio::sync::watch::channel(false);
    let server = Server::start(move |request| match request {
        Request::GetMetadata { topic: name } if name == topic => Reply::Answer(error("Topic not found")),
        Request::CreateTopic { name, .. } if name == topic && !*allowed.borrow() => reply(),
        _ => Reply::Usual,
    })
    .await;
    (server, allow)
}

fn quota() -> Reply {
    Reply::AnswerAndClose(error("POLICY_VIOLATION: too many topics"))
}

/// Messages that a plugin sends to `topic`, with the source's keys.
fn emitted(topic: &str, messages: &[(&str, &[u8])]) -> (Delivery, UnboundedReceiver<Box<Batch>>) {
    let (mut delivery, settled) = delivery(messages);
    let values: Vec<_> = messages.iter().map(|(_, value)| std::str::from_utf8(value).unwrap()).collect();
    delivery.outcome.verdicts = vec![Verdict::Emit; messages.len()];
    delivery.outcome.outputs.of = (0..messages.len() as u32).collect();
    delivery.outcome.outputs.topics = column(&vec![topic; messages.len()]);
    delivery.outcome.outputs.values = column(&values);
    (delivery, settled)
}

/// A delivery to `events` goes through.
async fn events_go_on(server: &Server, sink: &Arc<RivvenSink>) {
    let before = server.values("events").len();
    let (delivery, settled) = delivery(&[("a", b"1")]);
    deliver(sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, committed(1));
    assert_eq!(server.values("events").len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_denied_holds_back_only_what_goes_there() {
    let (server, allow) = denying("denied", quota).await;
    let sink = start(&server, 4);
    let status = Status::default();
    sink.attach(status.clone());
    let mut parked = Vec::new();
    for round in 0..20 {
        let values = [0, 1, 2].map(|n| format!("{:02}", round * 3 + n));
        let messages: Vec<_> = values.iter().map(|value| ("k", value.as_bytes())).collect();
        let (delivery, settled) = emitted("denied", &messages);
        deliver(&sink, delivery).await.unwrap();
        parked.push(settled);
        events_go_on(&server, &sink).await;
    }
    not_ready(&status, "cannot find or create the topic denied: POLICY_VIOLATION: too many topics").await;
    server.seen("CreateTopic { name: \"denied\"", 4).await;
    events_go_on(&server, &sink).await;
    assert!(!status.reasons().is_empty(), "it waits still");
    assert_eq!(sink.sample().failing, 1);
    for settled in &mut parked {
        assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Empty);
    }
    allow.send_replace(true);
    for settled in parked {
        assert_eq!(tally(settled).await, committed(3));
    }
    let values = server.values("denied");
    assert_eq!(values.len(), 60);
    assert!(values.is_sorted(), "{values:?}");
    ready(&status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_topic_that_is_denied_does_not_hold_back_the_others() {
    let (server, allow) = denying("denied", quota).await;
    let topics = ["denied", "events"].map(|topic| (topic.to_owned(), None)).into();
    let sink = Arc::new(RivvenSink::start_with(&broker(&[server.address()], 1), topics, QUICK).unwrap());
    let status = Status::default();
    sink.attach(status.clone());
    events_go_on(&server, &sink).await;
    not_ready(&status, "cannot find or create the topic denied").await;
    allow.send_replace(true);
    ready(&status).await;
    // Nothing has to be written to it for that.
    assert!(server.values("denied").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_is_denied_holds_back_only_dead_letters() {
    fn illegal() -> Reply {
        Reply::Answer(error("INVALID_TOPIC_NAME: not here"))
    }
    for reply in [quota, illegal] {
        let (server, allow) = denying("events.dlq", reply).await;
        let sink = start(&server, 1);
        let status = Status::default();
        sink.attach(status.clone());
        // A record of that topic first: it has no better place than the letter of the other.
        let (record, record_settled) = emitted("events.dlq", &[("a", b"x")]);
        deliver(&sink, record).await.unwrap();
        let (letter, mut letter_settled) = emitted("not/legal", &[("a", b"x")]);
        deliver(&sink, letter).await.unwrap();
        not_ready(&status, "cannot find or create the topic events.dlq").await;
        server.seen("CreateTopic { name: \"events.dlq\"", 4).await;
        events_go_on(&server, &sink).await;
        assert_eq!(letter_settled.try_recv().unwrap_err(), TryRecvError::Empty);
        allow.send_replace(true);
        let refused = tally(letter_settled).await;
        assert_eq!(refused, Tally { committed: 0, dropped: 0, dead_lettered: 1 });
        let record = tally(record_settled).await;
        assert_eq!(record.committed + record.dead_lettered, 1);
        assert_eq!(server.values("events.dlq").len(), 2);
        ready(&status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_an_answer_holds_back_only_what_goes_there() {
    let (server, _allow) = denying("slow", || Reply::Silence).await;
    let sink = start(&server, 1);
    let (delivery, mut settled) = emitted("slow", &[("a", b"1")]);
    deliver(&sink, delivery).await.unwrap();
    server.seen("CreateTopic { name: \"slow\"", 1).await;
    events_go_on(&server, &sink).await;
    assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_topic_gives_back_its_room_when_the_sink_is_closed() {
    let (server, _allow) = denying("denied", quota).await;
    let sink = start(&server, 1);
    let room = Arc::new(tokio::sync::Semaphore::new(1));
    let (mut delivery, mut settled) = emitted("denied", &[("a", b"1")]);
    delivery.permit = Some(room.clone().acquire_owned().await.unwrap());
    deliver(&sink, delivery).await.unwrap();
    server.seen("CreateTopic { name: \"denied\"", 2).await;
    sink.close().await;
    drop(soon(room.acquire()).await.unwrap());
    assert!(soon(settled.recv()).await.is_none(), "what is not committed is not settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_refuses_a_topic_shows_that_the_server_works() {
    let mut first = true;
    let server = Server::start(move |request| match request {
        Request::GetMetadata { topic } if topic == "illegal" => Reply::Answer(error("Topic not found")),
        Request::CreateTopic { .. } if std::mem::take(&mut first) => Reply::Close,
        Request::CreateTopic { .. } => Reply::Answer(error("INVALID_TOPIC_NAME: no")),
        _ => Reply::Usual,
    })
    .await;
    let sink = start(&server, 1);
    let status = Status::default();
    sink.attach(status.clone());
    let (mut delivery, settled) = emitted("illegal", &[("a", b"1")]);
    delivery.shape = shape(record("events", Format::Raw), BadMessage::Drop).0;
    deliver(&sink, delivery).await.unwrap();
    assert_eq!(tally(settled).await, Tally { committed: 0, dropped: 1, dead_lettered: 0 });
    ready(&status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_partitions_that_cannot_be_is_not_believed() {
    let server = Server::start(|request| match request {
        Request::GetMetadata { topic } if topic == "huge" => {
            Reply::Answer(Response::Metadata { name: topic.clone(), partitions: u32::MAX })
        }
        Request::GetMetadata { topic } if topic == "made" => Reply::Answer(error("Topic not found")),
        Request::CreateTopic { name, .. } if name == "made" => {
            Reply::Answer(Response::TopicCreated { name: name.clone(), partitions: 100_001 })
        }
        _ => Reply::Usual,
    })
    .await;
    let sink = start(&server, 1);
    for (topic, count) in [("huge", u32::MAX), ("made", 100_001)] {
        let status = Status::default();
        sink.attach(status.clone());
        let (delivery, mut settled) = emitted(topic, &[("a", b"1")]);
        deliver(&sink, delivery).await.unwrap();
        let reason = format!("the topic {topic}: the server says that it has {count} partitions");
        not_ready(&status, &reason).await;
        events_go_on(&server, &sink).await;
        assert_eq!(settled.try_recv().unwrap_err(), TryRecvError::Empty);
    }
}
