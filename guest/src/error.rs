//! Why a message is rejected, or a configuration is not accepted.

use std::fmt;

/// What `new` and `process` return. The error of `process` is the reason why the message is rejected.
pub type Result<T> = core::result::Result<T, Error>;

/// Why a message is rejected, or why the plugin does not start.
///
/// Any error becomes one with `?`, and [`Error::new`] makes one from text. Like `anyhow::Error` it does not implement
/// [`std::error::Error`] itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// An error with this text.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    pub(crate) fn into_reason(self) -> String {
        self.0
    }
}

impl<E: std::error::Error> From<E> for Error {
    /// The error and all its sources, separated by colons.
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(reason)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text itself, as it is what a failed `unwrap` or a test that returns an error shows.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
