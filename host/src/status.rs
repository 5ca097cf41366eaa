//! What `/ready` says: for each part of each source, ready or the reason why not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One part of a source that has to be ready before the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Connected, and every subscription granted or the session resumed.
    Mqtt,
    /// Loaded, and its `init` succeeded.
    Plugin,
    /// What a persistent MQTT session must not forget is durable.
    Session,
    /// What plugins wrote last to their state is durable.
    State,
    /// Connected, and what was written last is committed.
    Sink,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Mqtt => "mqtt",
            Part::Plugin => "plugin",
            Part::Session => "session",
            Part::State => "state",
            Part::Sink => "sink",
        }
    }
}

/// The readiness of one source; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<BTreeMap<Part, Option<String>>>>);

impl Status {
    /// `part` is ready.
    pub fn ready(&self, part: Part) {
        self.parts().insert(part, None);
    }

    /// `part` is not ready, because of `reason`.
    pub fn not_ready(&self, part: Part, reason: impl Into<String>) {
        self.parts().insert(part, Some(reason.into()));
    }

    /// Why the source is not ready, one line for each part; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let parts = self.parts();
        parts
            .iter()
            .filter_map(|(part, reason)| Some(format!("{}: {}", part.name(), reason.as_ref()?)))
            .collect()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
