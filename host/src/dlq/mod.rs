//! Dead letters, read back from where they were written: the Rivven topic, or the file of the file sink. They can be looked at,
//! and replayed through the plugin of the configuration.
//!
//! A replayed message is a batch like any other, through the same processor into the same sink. A [`Journal`] in the state
//! folder keeps which letters are done, each after its records are committed, so an interrupted replay can be run again: only
//! the batch that was in flight is replayed twice.

mod filter;
mod journal;
mod letter;
mod reader;
mod replay;

pub use self::filter::{Filter, parse_time};
pub use self::journal::Journal;
pub use self::letter::{Entry, Letter, Position};
pub use self::reader::Reader;
#[cfg(any(test, fuzzing))]
pub(crate) use self::reader::fuzz;
pub use self::replay::{Outlet, Report, replay};
