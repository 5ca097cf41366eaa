//! `state_dir` takes nothing: no space, or read-only. At QoS 2 the host acknowledges nothing that it cannot store.

use anyhow::Result;
use rumqttc::QoS;

use super::Plan;
use super::publisher::Load;
use super::rig::{self, Rig, balances, metric, moment};
use super::row::Row;
use super::small_disk::SmallDisk;
use crate::config::{self, TOPIC};
use crate::host::Host;
use crate::rivven::Rivven;

/// Enough for the session, in KiB.
const SIZE: u32 = 512;

async fn start(disk: &SmallDisk) -> Result<Rig> {
    let load = Load::new(QoS::ExactlyOnce, 200);
    let broker = rig::broker().start().await?;
    let rivven = Rivven::launch().await?;
    let mut config = config::with_source(&rivven, rig::source(&broker.url(), &load));
    config["settings"]["state_dir"] = disk.path().display().to_string().into();
    let enter = disk.enter();
    let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
    let host = Host::start_under(&config, &enter, &[])?;
    Rig::with(broker, rivven, host, load).await
}

/// Starts the host, which ends by itself with an error that names the folder and says `reason`, and writes nothing to Rivven.
async fn in_vain(rig: &mut Rig, disk: &SmallDisk, reason: &str, row: &mut Row) -> Result<()> {
    let known = rig.host.log().len();
    let before = rig.rivven.count(TOPIC).await?;
    rig.host.restart()?;
    let status = rig.host.ended().await?;
    row.claim(status.code() == Some(1), || format!("the host ended with {status}, not with exit code 1"));
    let log = rig.host.log();
    let said = log.get(known..).unwrap_or_default();
    let folder = disk.path().display().to_string();
    let clear = |line: &str| line.contains("ERROR") && line.contains(&folder) && line.contains(reason);
    row.claim(said.lines().any(clear), || {
        let last = said.lines().rfind(|line| line.contains("ERROR"));
        format!("no error names {folder} and says {reason}, but {last:?}")
    });
    let after = rig.rivven.count(TOPIC).await?;
    row.claim(after == before, || format!("{} records were written", after - before));
    Ok(())
}

/// No space left: at work, over a restart, and at a start that has to make the file.
pub async fn full(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let disk = SmallDisk::mount(SIZE)?;
    let mut rig = start(&disk).await?;
    for round in 0..plan.rounds {
        moment(&mut random, 100..1_000).await;
        disk.fill()?;
        let before = metric(&rig.host, "messages_committed_total").await?;
        moment(&mut random, 500..1_500).await;
        balances(&rig.host).await?;
        let after = metric(&rig.host, "messages_committed_total").await?;
        row.claim(after > before, || format!("in round {round} the host did not go on"));
        stop(&mut rig, &mut row).await?;
        rig.host.restart()?;
        rig.host.ready().await?;
        moment(&mut random, 100..1_000).await;
        stop(&mut rig, &mut row).await?;

        disk.forget("mqtt-iot.redb")?;
        disk.fill()?;
        in_vain(&mut rig, &disk, "No space left on device", &mut row).await?;
        disk.clear()?;
        rig.host.restart()?;
        rig.host.ready().await?;
    }
    let found = rig.finish(&mut row).await?;
    found.at_most_as_sent(&mut row);
    row.judge(0);
    Ok(row)
}

async fn stop(rig: &mut Rig, row: &mut Row) -> Result<()> {
    let status = rig.host.terminate().await?;
    row.claim(status.code() == Some(0), || format!("the host ended with {status}"));
    Ok(())
}

/// Read-only from one start to the next.
pub async fn read_only(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let disk = SmallDisk::mount(SIZE)?;
    let mut rig = start(&disk).await?;
    for _ in 0..plan.rounds {
        moment(&mut random, 100..1_000).await;
        stop(&mut rig, &mut row).await?;
        disk.read_only(true)?;
        in_vain(&mut rig, &disk, "Read-only file system", &mut row).await?;
        disk.read_only(false)?;
        rig.host.restart()?;
        rig.host.ready().await?;
    }
    let found = rig.finish(&mut row).await?;
    found.at_most_as_sent(&mut row);
    row.judge(0);
    Ok(row)
}
