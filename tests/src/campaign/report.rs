//! The page `host/docs/faults.md`: one line for each campaign, from the run that was last.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{CAMPAIGNS, Row, soak};
use crate::broker::Broker;
use crate::host::program;
use crate::markdown::root;

const HEAD: &str = "\
# Faults

What is promised about losses and duplicates, tried over and over at random moments against a real mosquitto, a real rivvend and the
host as a process. `make faults` runs all campaigns in full (about 40 minutes on 2 cores) and `make soak` the last line (an hour); both
write this page, and end with exit code 1 when something did not hold. A short form of each campaign is part of `make test`.

Published messages have numbers, and after each run it is looked up how often each number is in Rivven's topic. Besides that table, each
campaign checks that `received = committed + dropped + dead_lettered + in_flight` in the host's `/metrics` in every round and in the line
that each life of the host ends with; where one source is under load, also that mosquitto's log has an acknowledgement of each message, and
of none that is not in Rivven. Messages go through a plugin that passes them.

The random moments come from the seed: `target/debug/faults --only NAME --seed SEED` runs a campaign again. What the machine adds to
them nobody can repeat.
";

const TABLE: &str = "\
| campaign | load | rounds | published | records | lost | duplicates | at most | held | m:ss | seed | run |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

fn page() -> PathBuf {
    root().join("host/docs/faults.md")
}

/// What the campaigns ran with.
#[derive(Debug)]
pub struct Setting {
    /// Versions and machine.
    pub versions: String,
    /// Date, and the commit of this repository.
    pub run: String,
}

/// Asks everything that took part for its version.
pub async fn setting() -> Result<Setting> {
    let broker = Broker::launch().await?;
    let log = broker.logs().await?;
    let mosquitto = log.split_once("mosquitto version ").and_then(|(_, rest)| rest.split_whitespace().next());
    let mosquitto = mosquitto.context("mosquitto does not say its version")?;
    let kind = if broker.container_id().is_some() { "in a container" } else { "as a process" };
    let rivvend = output(Command::new(program("rivvend")?).arg("--version"))?;
    let kernel = output(Command::new("uname").args(["-sr"]))?;
    let cores = std::thread::available_parallelism()?;
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(root()));
    let mut commit = git(&["rev-parse", "--short", "HEAD"])?;
    // The page itself is what a run changes.
    if !git(&["status", "--porcelain", "--", ".", ":!host/docs/faults.md"])?.is_empty() {
        commit.push_str(" with changes");
    }
    let date = output(Command::new("date").args(["--utc", "+%F"]))?;
    Ok(Setting {
        versions: format!("mosquitto {mosquitto} {kind}, {rivvend}, {kernel}, {cores} cores"),
        run: format!("{date}, {commit}"),
    })
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes the rows into the page; those of campaigns that were not run stay.
pub fn write(rows: &[Row], setting: &Setting) -> Result<()> {
    let before = fs::read_to_string(page()).unwrap_or_default();
    fs::write(page(), text(&before, rows, setting)).context("cannot write the page")
}

fn text(before: &str, rows: &[Row], setting: &Setting) -> String {
    let mut page = format!("{HEAD}\n## Results\n\nLast run with {}.\n\n{TABLE}", setting.versions);
    let mut items = String::new();
    let names = CAMPAIGNS.iter().map(|campaign| campaign.name).chain([soak::NAME]);
    for name in names {
        let (line, item) = (format!("| {name} |"), format!("- **{name}**:"));
        let kept = |start: &str| before.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        let (line, item) = match rows.iter().find(|row| row.campaign == name) {
            Some(row) => (Some(table_line(row, setting)), Some(list_item(row))),
            None => (kept(&line), kept(&item)),
        };
        page.extend(line.map(|line| line + "\n"));
        items.extend(item.map(|item| item + "\n"));
    }
    page + "\n## What has to hold, and what was measured\n\n" + &items
}

fn table_line(row: &Row, setting: &Setting) -> String {
    let Row { campaign, load, rounds, published, records, lost, duplicates, allowed, seed, .. } = row;
    let held = if row.held() { "yes" } else { "**no**" };
    let (minutes, seconds) = (row.seconds / 60, row.seconds % 60);
    format!(
        "| {campaign} | {load} | {rounds} | {published} | {records} | {lost} | {duplicates} | {allowed} | {held} | \
         {minutes}:{seconds:02} | {seed} | {} |",
        setting.run
    )
}

/// One line, so that it is found again.
fn list_item(row: &Row) -> String {
    let mut item = format!("- **{}**: {}.", row.campaign, row.promise);
    if !row.notes.is_empty() {
        let _ = write!(item, " Measured: {}.", row.notes.join("; "));
    }
    if !row.held() {
        let _ = write!(item, " **Not held:** {}.", row.broken.join("; "));
    }
    item.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_were_not_run_stay() {
        let setting = Setting { versions: "v1".into(), run: "today".into() };
        let row = |campaign: &str, lost| Row { campaign: campaign.into(), lost, ..Row::default() };
        let first = text("", &[row("host-killed", 0), row("soak", 1)], &setting);
        let second = text(&first, &[row("soak", 2)], &Setting { versions: "v2".into(), run: "later".into() });
        assert!(second.contains("Last run with v2"), "{second}");
        let lines: Vec<_> =
            second.lines().filter(|line| line.starts_with("| host-") || line.starts_with("| soak")).collect();
        assert_eq!(
            lines,
            [
                "| host-killed |  | 0 | 0 | 0 | 0 | 0 | 0 | yes | 0:00 | 0 | today |",
                "| soak |  | 0 | 0 | 0 | 2 | 0 | 0 | yes | 0:00 | 0 | later |",
            ]
        );
        assert_eq!(second.matches("- **").count(), 2);
    }
}
