//! The host's clock is set back and forth. Only the clock that tells the time of day can be set; libfaketime does it for one
//! process.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rumqttc::QoS;

use super::Plan;
use super::publisher::Load;
use super::rig::{self, Rig, balances, metric};
use super::row::Row;
use super::trio::stay;
use crate::config;
use crate::host::Host;
use crate::packages;
use crate::rivven::Rivven;

/// The last one is about where a clock without a battery begins. Not before 1970: a thread of hyper that answers for the first time
/// then panics over its `Date` header, which costs the connection, and this campaign its look at the metrics.
const SECONDS: [i64; 6] = [-3_600, 3_600, -60, 86_400, -30 * 86_400, -56 * 365 * 86_400];
/// Where the clock is in the end: what is logged then shows that it was set.
const LAST: i64 = -2 * 86_400;
/// Longer than the library keeps what it has read, so that each setting is in force.
const STAY: Duration = Duration::from_millis(2_500);

/// Where Debian has it.
fn library() -> Result<PathBuf> {
    let installed = || {
        let folders =
            ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|machine| format!("/usr/lib/{machine}/faketime"));
        let folders = folders.into_iter().chain(["/usr/lib/faketime".into(), "/usr/lib64/faketime".into()]);
        folders.map(|folder| PathBuf::from(folder).join("libfaketimeMT.so.1")).find(|file| file.is_file())
    };
    if installed().is_none() {
        packages::install("faketime");
    }
    installed().context("libfaketime is missing: `apt-get install faketime`")
}

/// Sets the clock, under load.
pub async fn set_back(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let load = Load::new(QoS::AtLeastOnce, 200);
    let broker = rig::broker().start().await?;
    let rivven = Rivven::launch().await?;
    let mut source = rig::source(&broker.url(), &load);
    source["format"] = "json".into();
    let folder = tempfile::tempdir()?;
    let offset = folder.path().join("offset");
    let set = |seconds: i64| fs::write(&offset, format!("{seconds:+}\n"));
    set(0)?;
    let (library, file) = (library()?.display().to_string(), offset.display().to_string());
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    let host = Host::start_under(&config::with_source(&rivven, source), &[], &variables)?;
    let mut rig = Rig::with(broker, rivven, host, load).await?;
    for _ in 0..plan.rounds {
        let seconds = SECONDS.get(random.usize(0..SECONDS.len())).copied().unwrap_or_default();
        set(seconds)?;
        stay(STAY).await;
        balances(&rig.host).await?;
        let lost = metric(&rig.host, "disconnections_total").await?;
        row.claim(lost == 0, || format!("the MQTT connection was lost with the clock at {seconds:+} s"));
        rig.host.ready().await?;
    }
    set(LAST)?;
    stay(STAY).await;
    let found = rig.finish(&mut row).await?;
    let output = Command::new("date").args(["--utc", "--date", "2 days ago", "+%FT"]).output()?;
    let day = String::from_utf8(output.stdout)?;
    row.claim(found.log.contains(day.trim()), || {
        "the clock was not set: nothing is logged as of that day".into()
    });
    found.at_most_as_sent(&mut row);
    row.judge(0);
    Ok(row)
}
