//! Where dead letters are read from.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::letter::{Entry, Position};
use crate::config::Broker;
use crate::error::DlqError;
use crate::sink::{StoredRecord, TopicReader};

/// Entries that a file gives at a time.
const CHUNK: usize = 100;

/// Reads the dead letters that there are when it is made, oldest first in each partition.
pub enum Reader {
    /// From a Rivven topic.
    Topic(Box<Topic>),
    /// From a file of the file sink.
    File(Lines),
}

/// A topic and its server.
pub struct Topic {
    name: Arc<str>,
    servers: String,
    reader: TopicReader,
}

/// A file of records, of which those of one topic count.
pub struct Lines {
    file: Arc<PathBuf>,
    topic: String,
    lines: Box<dyn BufRead + Send>,
    offset: u64,
}

/// A line of the file sink.
#[derive(Deserialize)]
struct Line {
    topic: String,
    value: Option<String>,
    value_base64: Option<String>,
}

impl Reader {
    /// Reads the dead-letter topic `topic`.
    ///
    /// # Errors
    ///
    /// Rivven cannot be reached.
    pub async fn topic(broker: &Broker, topic: &str) -> Result<Self, DlqError> {
        let servers = broker.bootstrap_servers.join(", ");
        match TopicReader::open(broker, topic).await {
            Ok(reader) => Ok(Reader::Topic(Box::new(Topic { name: topic.into(), servers, reader }))),
            Err(reason) => Err(DlqError::Topic { topic: topic.into(), servers, reason }),
        }
    }

    /// Reads the lines of `file` whose topic is `topic`.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn file(file: &Path, topic: &str) -> Result<Self, DlqError> {
        let failed = |source| DlqError::File { file: file.into(), source };
        let opened = File::open(file).map_err(failed)?;
        // What a replay appends to the same file is not read in turn.
        let length = opened.metadata().map_err(failed)?.len();
        let lines = Box::new(BufReader::new(opened.take(length)));
        Ok(Reader::File(Lines { file: Arc::new(file.into()), topic: topic.into(), lines, offset: 0 }))
    }

    /// The next entries; none at the end.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub async fn next(&mut self) -> Result<Vec<Entry>, DlqError> {
        match self {
            Reader::Topic(topic) => topic.next().await,
            Reader::File(lines) => {
                lines.next().map_err(|source| DlqError::File { file: (*lines.file).clone(), source })
            }
        }
    }
}

impl Topic {
    async fn next(&mut self) -> Result<Vec<Entry>, DlqError> {
        let records = self.reader.next().await.map_err(|reason| DlqError::Topic {
            topic: self.name.to_string(),
            servers: self.servers.clone(),
            reason,
        })?;
        let entry = |record: StoredRecord| {
            let (partition, offset) = (record.partition, record.offset);
            Entry::new(Position::Topic { topic: self.name.clone(), partition, offset }, record.value.to_vec())
        };
        Ok(records.into_iter().map(entry).collect())
    }
}

impl Lines {
    fn next(&mut self) -> std::io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        while entries.len() < CHUNK {
            bytes.clear();
            let read = self.lines.read_until(b'\n', &mut bytes)?;
            // A line that a killed host left unfinished is cut by the next one; it was never acknowledged.
            if read == 0 || bytes.last() != Some(&b'\n') {
                break;
            }
            let position = Position::File { file: self.file.clone(), offset: self.offset };
            self.offset += read as u64;
            let Ok(line) = serde_json::from_slice::<Line>(&bytes) else { continue };
            if line.topic == self.topic {
                let decoded = line.value_base64.and_then(|base64| STANDARD.decode(base64).ok());
                let value = line.value.map(String::into_bytes).or(decoded).unwrap_or_default();
                entries.push(Entry::new(position, value));
            }
        }
        Ok(entries)
    }
}

/// Whatever a file holds, its lines are read to the end; a letter becomes a message, or there is a reason.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let lines = Box::new(std::io::Cursor::new(bytes.to_vec()));
    let mut lines = Lines { file: Arc::default(), topic: "t.dlq".into(), lines, offset: 0 };
    let mut letters = lines.next().unwrap_or_default();
    // As a record of Rivven, too.
    letters.push(Entry::new(Position::File { file: Arc::default(), offset: 0 }, bytes.to_vec()));
    for entry in letters {
        assert!(!entry.key().is_empty());
        let Ok(letter) = entry.letter else { continue };
        let mut batch = crate::message::Batch::default();
        match letter.append_to(&mut batch) {
            Ok(()) => {
                assert!(batch.len() == 1 && letter.payload().as_deref() == Some(batch.message(0).payload()))
            }
            Err(reason) => assert!(!reason.is_empty() && batch.is_empty()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_letters_of_a_file_are_its_lines_with_the_topic() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("out.jsonl");
        let letter = r#"{\"topic\":\"a\",\"payload_base64\":\"\",\"stage\":\"plugin\",\"reason\":\"no\"}"#;
        let record = "{\"topic\":\"events\",\"key\":null,\"value\":\"{}\"}\n";
        let dead = format!("{{\"topic\":\"t.dlq\",\"key\":\"a\",\"value\":\"{letter}\"}}\n");
        let torn = &dead[..40];
        std::fs::write(&file, format!("{record}{dead}nonsense\n{dead}{torn}")).unwrap();
        let mut reader = Reader::file(&file, "t.dlq").unwrap();
        let entries = reader.next().await.unwrap();
        let places: Vec<_> = entries.iter().map(|entry| entry.position.to_string()).collect();
        let second = record.len() + dead.len() + "nonsense\n".len();
        let expected = [record.len(), second].map(|offset| format!("{}@{offset}", file.display()));
        assert_eq!(places, expected);
        assert!(entries.iter().all(|entry| entry.letter.as_ref().unwrap().reason == "no"));
        assert!(reader.next().await.unwrap().is_empty());
        assert!(matches!(Reader::file(Path::new("/nonexistent"), "t"), Err(DlqError::File { .. })));
    }
}
