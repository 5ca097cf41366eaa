//! What a campaign found out.

use std::fmt;

/// One row of the table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Name of the campaign.
    pub campaign: String,
    /// What has to hold.
    pub promise: String,
    /// Quality of service and rate.
    pub load: String,
    /// How often the fault happened.
    pub rounds: u32,
    /// Seed of its random moments.
    pub seed: u64,
    /// Messages that the broker took.
    pub published: u64,
    /// Records in Rivven.
    pub records: u64,
    /// Messages without a record, of those that may not be lost.
    pub lost: u64,
    /// Records beyond the first of a message.
    pub duplicates: u64,
    /// How many of these there may be.
    pub allowed: u64,
    /// What was measured besides.
    pub notes: Vec<String>,
    /// What did not hold.
    pub broken: Vec<String>,
    /// How long it took.
    pub seconds: u64,
}

impl Row {
    /// Whether all held.
    pub fn held(&self) -> bool {
        self.broken.is_empty()
    }

    /// Takes down `what` as broken unless `holds`.
    pub fn claim(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    /// Takes down something worth knowing.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Claims that no message is missing, and how many records may be more than one too many.
    pub fn judge(&mut self, allowed: u64) {
        let Row { lost, duplicates, .. } = *self;
        self.allowed = allowed;
        self.claim(lost == 0, || format!("{lost} lost"));
        self.claim(duplicates <= allowed, || format!("{duplicates} duplicates, at most {allowed} expected"));
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { campaign, load, rounds, published, records, lost, duplicates, allowed, .. } = self;
        write!(
            f,
            "{campaign} ({load}): {rounds} rounds in {} s, {published} published, {records} records, {lost} lost, \
             {duplicates} duplicates (at most {allowed}), seed {}",
            self.seconds, self.seed
        )?;
        for note in &self.notes {
            write!(f, "; {note}")?;
        }
        match self.held() {
            true => f.write_str(" - held"),
            false => write!(f, " - NOT HELD: {}", self.broken.join("; ")),
        }
    }
}
