//! The program `rivven-mqtt`.

use std::process::ExitCode;

use clap::Parser;
use rivven_mqtt::cli::{self, Cli};
use rivven_mqtt::plugin;

fn main() -> ExitCode {
    if let Some(compiled) = plugin::compile_if_asked() {
        return compiled;
    }
    let cli = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::execute(cli));
            // A plugin that is being compiled does not delay the end.
            runtime.shutdown_background();
            code
        }
        Err(error) => cli::report(&error.into()),
    }
}
