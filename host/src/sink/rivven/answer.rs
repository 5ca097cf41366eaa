//! What an answer to a `PublishBatch` means. Rivven's errors are text, so here, and only here, text is compared.

use std::time::Duration;

use rivven_protocol::Response;

/// An answer, by what has to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// All records are committed.
    Committed,
    /// A record of the request can never be taken: no retry helps.
    Never(String),
    /// Another server leads the partition.
    NotLeader(String),
    /// We ask too often; try again after this long.
    Throttled(Duration, String),
    /// The topic is not there (any more).
    UnknownTopic(String),
    /// The topic has fewer partitions than it had.
    MissingPartition(String),
    /// Anything else may go away.
    Failed(String),
}

/// Reads the answer to a request of so many records. `pause` is for an answer that throttles without saying for how long.
pub(super) fn classify(response: Response, records: usize, pause: Duration) -> Answer {
    let message = match response {
        Response::PublishedBatch { record_count, .. } if record_count as usize == records => {
            return Answer::Committed;
        }
        Response::Throttled { throttle_time_ms, quota_type, .. } => {
            let pause = Duration::from_millis(throttle_time_ms.min(60_000));
            return Answer::Throttled(pause, format!("the quota {quota_type} is exceeded"));
        }
        Response::Error { message } => message,
        other => return Answer::Failed(format!("unexpected answer: {other:?}")),
    };
    match message.split([':', ' ']).next().unwrap_or_default() {
        "MESSAGE_TOO_LARGE" | "INVALID_TOPIC_NAME" => Answer::Never(message),
        "NOT_LEADER_FOR_PARTITION" => Answer::NotLeader(message),
        "RATE_LIMIT_EXCEEDED" => Answer::Throttled(pause, message),
        "UNKNOWN_TOPIC_OR_PARTITION" => Answer::UnknownTopic(message),
        "INVALID_PARTITION" => Answer::MissingPartition(message),
        _ if message.starts_with("Topic not found") => Answer::UnknownTopic(message),
        _ if message.starts_with("Partition not found") => Answer::MissingPartition(message),
        _ => Answer::Failed(message),
    }
}

/// Whatever a server answers has a meaning, or is no answer.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok((response, ..)) = Response::from_wire(bytes) else { return };
    assert!(!format!("{response:?}").is_empty());
    let published = matches!(response, Response::PublishedBatch { record_count: 2, .. });
    let answer = classify(response, 2, Duration::from_secs(1));
    assert_eq!(answer == Answer::Committed, published);
    assert!(!matches!(answer, Answer::Throttled(pause, _) if pause > Duration::from_secs(60)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let pause = Duration::from_secs(1);
        let error = |message: &str| classify(Response::Error { message: message.into() }, 2, pause);
        for (message, answer) in [
            ("MESSAGE_TOO_LARGE: 99 bytes exceeds limit", Answer::Never as fn(String) -> Answer),
            ("INVALID_TOPIC_NAME: empty", Answer::Never),
            ("NOT_LEADER_FOR_PARTITION: Not leader for partition 1. Leader is node 'b'", Answer::NotLeader),
            ("UNKNOWN_TOPIC_OR_PARTITION: topic 't' does not exist", Answer::UnknownTopic),
            ("Topic not found: t", Answer::UnknownTopic),
            ("INVALID_PARTITION: 7 of 3", Answer::MissingPartition),
            ("INVALID_PARTITION_COUNT: 0", Answer::Failed),
            ("WAL_ERROR: disk full", Answer::Failed),
            ("BUFFER_FULL: Server publish buffer is full, retry later", Answer::Failed),
            ("AUTHENTICATION_REQUIRED: Please authenticate first", Answer::Failed),
        ] {
            assert_eq!(error(message), answer(message.to_owned()));
        }
        let limited = "RATE_LIMIT_EXCEEDED: Too many requests";
        assert_eq!(error(limited), Answer::Throttled(pause, limited.into()));
        let published =
            |record_count| Response::PublishedBatch { base_offset: 0, partition: 0, record_count };
        assert_eq!(classify(published(2), 2, pause), Answer::Committed);
        assert!(matches!(classify(published(1), 2, pause), Answer::Failed(_)));
        assert!(matches!(classify(Response::Pong, 2, pause), Answer::Failed(_)));
    }
}
