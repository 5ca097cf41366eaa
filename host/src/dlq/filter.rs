//! Which dead letters are meant.

use jiff::{SignedDuration, Timestamp};

use super::letter::{Entry, Letter};
use crate::delivery::Stage;

/// Conditions on dead letters; all of them have to hold, and one that is not there always does.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one of these sources.
    pub sources: Vec<String>,
    /// The reason has this text, whatever its case.
    pub reason: Option<String>,
    /// Failed at this stage.
    pub stage: Option<Stage>,
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// Received before this time.
    pub until: Option<Timestamp>,
    /// At one of these places, as they are shown.
    pub positions: Vec<String>,
}

impl Filter {
    /// Whether `entry` is meant. What is no dead letter is meant only where its place is, or where nothing is asked of letters.
    pub fn takes(&self, entry: &Entry) -> bool {
        let place = self.positions.is_empty() || self.positions.contains(&entry.position.to_string());
        place
            && match &entry.letter {
                Ok(letter) => self.takes_letter(letter),
                Err(_) => {
                    self.reason.is_none()
                        && self.stage.is_none()
                        && self.since.is_none()
                        && self.until.is_none()
                }
            }
    }

    fn takes_letter(&self, letter: &Letter) -> bool {
        let Filter { sources, reason, stage, since, until, positions: _ } = self;
        let received = |holds: &dyn Fn(Timestamp) -> bool| letter.received_at.is_some_and(holds);
        (sources.is_empty() || sources.contains(&letter.source))
            && reason.as_ref().is_none_or(|text| letter.reason.to_lowercase().contains(&text.to_lowercase()))
            && stage.is_none_or(|stage| letter.stage == stage.name())
            && since.is_none_or(|since| received(&|at| at >= since))
            && until.is_none_or(|until| received(&|at| at < until))
    }
}

/// A time of the command line: `2026-11-29T12:00:00Z`, the beginning of a day in UTC such as `2026-11-29`, or how long ago such
/// as `90m` or `2h 30m`.
///
/// # Errors
/// It is none of these.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = format!("{text}T00:00:00Z").parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Timestamp::now().checked_sub(ago).map_err(|error| error.to_string());
    }
    Err("expected a time such as 2026-11-29T12:00:00Z, a day such as 2026-11-29, or how long ago such as 90m"
        .into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::letter::tests::entry;
    use super::*;

    #[test]
    fn every_condition_has_to_hold() {
        let letter = r#"{"topic":"a","payload_base64":"","source":"iot","received_at":"2026-01-02T03:04:05Z","stage":"plugin","reason":"not the expected JSON: EOF"}"#;
        let entry = entry(3, letter);
        let at = |text: &str| Some(text.parse().unwrap());
        let all = Filter::default;
        for (takes, filter) in [
            (true, all()),
            (true, Filter { sources: vec!["x".into(), "iot".into()], ..all() }),
            (false, Filter { sources: vec!["x".into()], ..all() }),
            (true, Filter { reason: Some("expected json".into()), ..all() }),
            (false, Filter { reason: Some("trapped".into()), ..all() }),
            (true, Filter { stage: Some(Stage::Plugin), ..all() }),
            (false, Filter { stage: Some(Stage::Sink), ..all() }),
            (true, Filter { since: at("2026-01-02T03:04:05Z"), ..all() }),
            (false, Filter { until: at("2026-01-02T03:04:05Z"), ..all() }),
            (true, Filter { until: at("2026-01-02T03:04:06Z"), ..all() }),
            (true, Filter { positions: vec!["t.dlq/0@3".into()], ..all() }),
            (false, Filter { positions: vec!["t.dlq/0@4".into()], ..all() }),
        ] {
            assert_eq!(filter.takes(&entry), takes, "{filter:?}");
        }
    }

    #[test]
    fn a_letter_without_a_time_is_in_no_span() {
        let entry = entry(0, r#"{"topic":null,"payload_base64":"","stage":"sink","reason":""}"#);
        assert!(Filter::default().takes(&entry));
        assert!(!Filter { since: Some(Timestamp::UNIX_EPOCH), ..Filter::default() }.takes(&entry));
    }

    #[test]
    fn times_of_the_command_line() {
        assert_eq!(parse_time("2026-11-29").unwrap(), "2026-11-29T00:00:00Z".parse().unwrap());
        assert_eq!(parse_time("2026-11-29T12:00:00+01:00").unwrap(), "2026-11-29T11:00:00Z".parse().unwrap());
        let ago = Timestamp::now().duration_since(parse_time("90m").unwrap());
        assert!((5_399..5_460).contains(&ago.as_secs()), "{ago}");
        assert!(parse_time("yesterday").unwrap_err().contains("expected a time"));
    }
}
