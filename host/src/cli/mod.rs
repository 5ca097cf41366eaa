//! The command line: its types, and one function for each subcommand.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
// This is the one part of the library that talks to a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "mqtt")]
mod check;
#[cfg(feature = "mqtt")]
mod discover;
#[cfg(feature = "mqtt")]
mod dlq;
mod new;
mod plugin;
#[cfg(feature = "mqtt")]
mod run;
#[cfg(feature = "mqtt")]
mod schema;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::error::{ConfigError, JsonlError};

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG: u8 = 2;

/// The arguments of the program.
#[derive(Debug, Parser)]
#[command(
    name = "rivven-mqtt",
    version,
    about = "MQTT to Rivven through a sandboxed WebAssembly component, acknowledged after commit",
    long_about = "Reads MQTT topics, runs every message through a WebAssembly component of yours, and writes what comes out to \
                  Rivven topics. A message is acknowledged to the MQTT broker only when every record made of it is committed: \
                  with QoS 1 or 2 and a persistent session nothing is lost, whatever is killed or restarted.",
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "mqtt")]
    Run(run::Run),
    #[cfg(feature = "mqtt")]
    Check(check::Check),
    #[cfg(feature = "mqtt")]
    Discover(discover::Discover),
    /// Start a plugin, look at one, or try it without any broker
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    #[cfg(feature = "mqtt")]
    Schema(schema::Schema),
    /// Look at dead letters, or replay them
    #[cfg(feature = "mqtt")]
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
}

/// Arguments that only turn out to be wrong when they are looked at closely; what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// Does what the arguments say, and says on stderr what went wrong.
pub async fn execute(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        #[cfg(feature = "mqtt")]
        Command::Run(arguments) => run::execute(arguments).await,
        #[cfg(feature = "mqtt")]
        Command::Check(arguments) => check::execute(&arguments).await,
        #[cfg(feature = "mqtt")]
        Command::Discover(arguments) => discover::execute(&arguments),
        Command::Plugin(command) => plugin::execute(&command),
        #[cfg(feature = "mqtt")]
        Command::Schema(_) => schema::execute(),
        #[cfg(feature = "mqtt")]
        Command::Dlq(command) => dlq::execute(command).await,
    };
    outcome.map_or_else(|error| report(&error), ExitCode::from)
}

/// Prints an error with its causes; the exit code that it calls for.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // The lines of these are for editors and scripts: nothing goes before the file name.
    if error.is::<ConfigError>() || error.is::<JsonlError>() {
        eprintln!("{error}");
        return WRONG.into();
    }
    eprintln!("rivven-mqtt: {}", chain(error));
    if error.is::<WrongUsage>() { WRONG.into() } else { FAILED.into() }
}

/// The error and its causes, without those that are in the text already.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            shown if shown.ends_with(&cause) => text,
            shown => format!("{shown}: {cause}"),
        }
    })
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_told() {
        for (arguments, expected) in [
            (&["plugin", "test", "f", "--input", "m", "--config", "{"][..], "not JSON"),
            #[cfg(feature = "mqtt")]
            (&["run"], "--config <FILE>"),
            #[cfg(feature = "mqtt")]
            (&["run", "-c", "f", "--sink", "kafka"], "expected rivven, stdout, discard or file:PATH"),
            (&["plugin", "test", "f"], "--input <M.jsonl>"),
        ] {
            let error = Cli::try_parse_from([&["rivven-mqtt"], arguments].concat()).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(WRONG));
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn causes_are_shown_once() {
        let cause = std::io::Error::other("refused");
        let error = JsonlError::Read { file: "f".into(), source: cause };
        assert_eq!(
            chain(&anyhow::Error::new(error).context("no input")),
            "no input: f: cannot be read: refused"
        );
    }
}
