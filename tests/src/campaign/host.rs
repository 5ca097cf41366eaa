//! The host is killed, or told to stop.

use std::time::{Duration, Instant};

use anyhow::Result;
use rumqttc::QoS;

use super::Plan;
use super::publisher::Load;
use super::rig::{Rig, balances, moment};
use super::row::Row;

/// The host's default.
const GRACE: Duration = Duration::from_secs(10);

fn load(qos: QoS) -> Load {
    // At QoS 2 each message costs the broker two round trips, and the host a place in its store.
    Load::new(qos, if qos == QoS::ExactlyOnce { 500 } else { 2_000 })
}

/// SIGKILL, again and again.
pub async fn killed(plan: Plan, qos: QoS) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let mut rig = Rig::start(load(qos), |_| Ok(())).await?;
    for _ in 0..plan.rounds {
        // Some die before they have begun.
        if random.u8(0..5) > 0 {
            rig.host.ready().await?;
            moment(&mut random, 100..1_000).await;
            balances(&rig.host).await?;
        }
        moment(&mut random, 0..50).await;
        rig.host.kill().await?;
        rig.host.restart()?;
    }
    let found = rig.finish(&mut row).await?;
    found.at_most_as_sent(&mut row);
    row.judge(found.deliveries.sent_again());
    Ok(row)
}

/// SIGTERM, again and again.
pub async fn stopped(plan: Plan, qos: QoS) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let mut rig = Rig::start(load(qos), |_| Ok(())).await?;
    let (mut committed, mut longest) = (0, Duration::ZERO);
    for round in 0..plan.rounds {
        rig.host.ready().await?;
        moment(&mut random, 100..1_000).await;
        balances(&rig.host).await?;
        let told = Instant::now();
        let status = rig.host.terminate().await?;
        longest = longest.max(told.elapsed());
        row.claim(status.code() == Some(0), || format!("in round {round} the host ended with {status}"));
        let ledger = rig.host.final_ledger()?;
        row.claim(ledger.in_flight == 0, || format!("in round {round} the host ended with {ledger:?}"));
        committed += ledger.committed;
        rig.host.restart()?;
    }
    row.claim(longest < GRACE, || format!("one end took {longest:?}"));
    row.note(format!("the longest end took {} ms", longest.as_millis()));
    let found = rig.finish(&mut row).await?;
    let (committed, records) = (committed + found.committed, row.records);
    row.claim(committed == records, || format!("{committed} committed by all lives, {records} records"));
    row.judge(0);
    Ok(row)
}
