//! What a record looks like: topic, key and value of forwarded messages, plugin outputs and dead letters.

/// How the records of one source are made.
#[derive(Debug)]
pub struct Shape {
    /// Destination, key, format.
    pub record: crate::config::Record,
}
