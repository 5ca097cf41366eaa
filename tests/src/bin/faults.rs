//! Runs the fault campaigns in full, or the soak, prints what they find, and writes it into `host/docs/faults.md`.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rivven_integration_tests::campaign::{self, CAMPAIGNS, Campaign, Plan, Row, report, soak};

/// Run the fault campaigns
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this campaign; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds instead of the full number; the page is not written then
    #[arg(long)]
    rounds: Option<u32>,
    /// Where the random moments come from [default: the clock]
    #[arg(long, global = true)]
    seed: Option<u64>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the names of the campaigns and what has to hold
    List,
    /// Mixed faults for a long time, while the host lives on
    Soak {
        /// How long; the page is written only from 60 on
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let (rows, in_full) = match arguments.command {
        Some(Command::List) => {
            for campaign in CAMPAIGNS {
                println!("{}: {} rounds; {}", campaign.name, campaign.rounds.0, campaign.promise);
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Soak { minutes }) => {
            println!("soak: {minutes} minutes, seed {seed}");
            (vec![soak::run(Duration::from_secs(60 * minutes), seed).await], minutes >= 60)
        }
        None => {
            let chosen = chosen(&arguments.only)?;
            println!("{} campaigns, seed {seed}", chosen.len());
            (run(&chosen, arguments.rounds, seed).await, arguments.rounds.is_none())
        }
    };
    println!("\n{} of {} held", rows.iter().filter(|row| row.held()).count(), rows.len());
    for row in &rows {
        println!("{row}");
    }
    if in_full {
        report::write(&rows, &report::setting().await?)?;
        println!("written to host/docs/faults.md");
    }
    Ok(if rows.iter().all(Row::held) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Campaign>> {
    if names.is_empty() {
        return Ok(CAMPAIGNS.iter().collect());
    }
    let find = |name: &String| {
        campaign::named(name).with_context(|| format!("no campaign {name}; `faults list` prints them"))
    };
    names.iter().map(find).collect()
}

/// Those that wait run beside those that work.
async fn run(campaigns: &[&'static Campaign], rounds: Option<u32>, seed: u64) -> Vec<Row> {
    let lane = async |waits: bool| {
        let mut rows = Vec::new();
        for campaign in campaigns.iter().filter(|campaign| campaign.waits == waits) {
            let plan = Plan { rounds: rounds.unwrap_or(campaign.rounds.0), seed, short: false };
            println!("{} begins", campaign.name);
            let row = campaign.run(plan).await;
            println!("{row}");
            rows.push(row);
        }
        rows
    };
    let (works, waits) = tokio::join!(lane(false), lane(true));
    works.into_iter().chain(waits).collect()
}
