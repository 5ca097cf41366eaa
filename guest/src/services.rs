//! What the host offers a plugin besides messages.

/// Lines in the log of the host. More than the configured number of lines a second are dropped and counted.
pub mod log {
    #[doc(inline)]
    pub use crate::raw::plugin::rivven::connect::log::Level;

    /// Logs at level trace.
    pub fn trace(line: impl AsRef<str>) {
        log(Level::Trace, line);
    }

    /// Logs at level debug.
    pub fn debug(line: impl AsRef<str>) {
        log(Level::Debug, line);
    }

    /// Logs at level info.
    pub fn info(line: impl AsRef<str>) {
        log(Level::Info, line);
    }

    /// Logs at level warn.
    pub fn warn(line: impl AsRef<str>) {
        log(Level::Warn, line);
    }

    /// Logs at level error.
    pub fn error(line: impl AsRef<str>) {
        log(Level::Error, line);
    }

    /// Logs one line. Line breaks and control characters are escaped, and what is over 4,096 bytes is cut.
    pub fn log(level: Level, line: impl AsRef<str>) {
        crate::host::log(level, line.as_ref());
    }
}

/// Metrics at the host's `/metrics`: `rivven_mqtt_plugin_counter_total`, `..._gauge` and `..._histogram`, with the source
/// and `name` as labels. A name is 1 to 64 characters of `a-z`, `0-9` and `_`.
pub mod metrics {
    /// Adds to a counter.
    pub fn counter_add(name: &str, value: u64) {
        crate::host::counter_add(name, value);
    }

    /// Sets a gauge.
    pub fn gauge_set(name: &str, value: f64) {
        crate::host::gauge_set(name, value);
    }

    /// Records one observation in a histogram.
    pub fn histogram_record(name: &str, value: f64) {
        crate::host::histogram_record(name, value);
    }
}

/// A small store of keys and values that belongs to one plugin of one source, by their names; all its workers share it. It
/// survives restarts of the host, and new versions of the plugin under the same name.
///
/// What is written takes effect for all workers when the batch that is processed has succeeded as a whole, and is on disk before its
/// messages are acknowledged; a batch that faults leaves no trace. A message that is delivered again, after a crash or a lost
/// connection, is processed again and writes again. What stands for held messages is best written in `flush`: it is durable
/// before they are acknowledged. A key is 1 to 256 bytes, a value at most 1 MiB, and all together at most the
/// configured limit.
pub mod state {
    use std::fmt;

    use crate::raw::plugin::rivven::connect::state::StateError as Raw;

    /// Why something was not written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum StateError {
        /// The key is empty or over 256 bytes.
        InvalidKey,
        /// The value is over 1 MiB.
        ValueTooLarge,
        /// It would exceed the configured limit of the whole store.
        Full,
    }

    impl fmt::Display for StateError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::InvalidKey => "the key of a state entry is empty or over 256 bytes",
                Self::ValueTooLarge => "the value of a state entry is over 1 MiB",
                Self::Full => "the plugin's state is full",
            })
        }
    }

    impl std::error::Error for StateError {}

    impl From<Raw> for StateError {
        fn from(error: Raw) -> Self {
            match error {
                Raw::InvalidKey => Self::InvalidKey,
                Raw::ValueTooLarge => Self::ValueTooLarge,
                Raw::Full => Self::Full,
            }
        }
    }

    /// The value of `key`, if there is one.
    pub fn get(key: &str) -> Option<Vec<u8>> {
        crate::host::get(key)
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// The key or the value has not the right length, or the store is full; nothing was written.
    pub fn set(key: &str, value: impl AsRef<[u8]>) -> Result<(), StateError> {
        Ok(crate::host::set(key, value.as_ref())?)
    }

    /// Removes `key`; nothing happens when there is none.
    pub fn delete(key: &str) {
        crate::host::delete(key);
    }
}
