//! The program `rivven-mqtt`.

use std::process::ExitCode;

use clap::Parser;
use rivven_mqtt::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::execute(cli)),
        Err(error) => cli::report(&error.into()),
    }
}
