//! `discover`: what the sources of a configuration offer.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{DONE, print};
use crate::config;
use crate::source::{Catalog, MqttSource};

/// Print the catalog of each source as JSON
///
/// A catalog has one stream for each topic filter, named as the existing connector names them (`/` is `_`, `+` is `_single`, `#`
/// is `_multi`), with the JSON Schema of its events. Nothing is connected.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  rivven-mqtt discover -c iot.yaml | jq -r '.sources[].streams[].name'

Exit codes: 0 done, 2 wrong usage or configuration.")]
pub(super) struct Discover {
    /// Configuration file (YAML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn execute(arguments: &Discover) -> Result<u8> {
    let config = config::load(&arguments.config, false)?;
    let mut sources: BTreeMap<String, Catalog> = BTreeMap::new();
    for (name, source) in config.sources {
        sources.insert(name, MqttSource::new(source.mqtt)?.discover());
    }
    print(
        format!("{}\n", serde_json::to_string_pretty(&serde_json::json!({ "sources": sources }))?).as_bytes(),
    )?;
    Ok(DONE)
}
