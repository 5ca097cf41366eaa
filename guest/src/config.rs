//! The plugin's part of the configuration file.

#[cfg(feature = "json")]
use crate::{Error, Result};

/// The `config:` of the plugin in the configuration file of `rivven-mqtt`.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a>(&'a str);

impl<'a> Config<'a> {
    /// From JSON text, as the host hands it over.
    pub(crate) fn new(json: &'a str) -> Self {
        Self(json)
    }

    /// The configuration as JSON text, `null` when the file has none.
    pub fn as_json(&self) -> &'a str {
        self.0
    }

    /// Deserializes the configuration. None at all counts as an empty one, so that defaults of fields apply.
    ///
    /// # Errors
    /// The configuration is not as `T` wants it. The text says what is wrong, and the host shows it to the operator.
    #[cfg(feature = "json")]
    pub fn parse<T: serde::Deserialize<'a>>(&self) -> Result<T> {
        let parsed = match serde_json::from_str(self.0) {
            Err(_) if self.0.trim() == "null" => serde_json::from_str("{}"),
            parsed => parsed,
        };
        // The position is left out: it is one in JSON text that the operator has never seen.
        parsed.map_err(|error: serde_json::Error| {
            let text = error.to_string();
            Error::new(text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what))
        })
    }
}
