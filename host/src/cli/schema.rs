//! `schema`.

use anyhow::Result;
use clap::Args;

use super::{DONE, print};
use crate::config;

/// Print the JSON Schema of the configuration, for editors
///
/// An editor that is given it completes the keys of a configuration file, shows what they mean and marks what is wrong.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example, for editors that use yaml-language-server:
  rivven-mqtt schema > rivven-mqtt.schema.json
and, as the first line of the configuration:
  # yaml-language-server: $schema=rivven-mqtt.schema.json")]
pub(super) struct Schema {}

pub(super) fn execute() -> Result<u8> {
    print(format!("{:#}\n", config::schema()).as_bytes())?;
    Ok(DONE)
}
