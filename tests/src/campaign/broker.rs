//! The broker is stopped and started: mosquitto saves its sessions when it ends.

use std::time::{Duration, Instant};

use anyhow::Result;
use rumqttc::QoS;

use super::Plan;
use super::publisher::Load;
use super::rig::{PATIENCE, Rig, balances, moment};
use super::row::Row;

/// One backoff of the campaign with a clean session.
const BACKOFF: Duration = Duration::from_millis(500);
/// What connecting, subscribing and looking may take besides, on a busy machine.
const MARGIN: Duration = Duration::from_millis(750);

/// With a persistent session, under load.
pub async fn persistent(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let mut rig = Rig::start(Load::new(QoS::AtLeastOnce, 1_000), |_| Ok(())).await?;
    for _ in 0..plan.rounds {
        moment(&mut random, 50..1_000).await;
        rig.broker.stop().await?;
        balances(&rig.host).await?;
        moment(&mut random, 0..300).await;
        rig.broker.start().await?;
        rig.host.ready().await?;
    }
    let found = rig.finish(&mut row).await?;
    found.at_most_as_sent(&mut row);
    row.judge(found.deliveries.sent_again());
    Ok(row)
}

/// With a clean session: what is published while the host is subscribed.
pub async fn clean(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let mut rig = Rig::start(Load::new(QoS::AtLeastOnce, 1_000), |source| {
        source["config"]["clean_session"] = true.into();
        source["config"]["retry_initial_ms"] = 50.into();
        source["config"]["retry_max_ms"] = (BACKOFF.as_millis() as u64).into();
        Ok(())
    })
    .await?;
    let mut longest = Duration::ZERO;
    for _ in 0..plan.rounds {
        moment(&mut random, 50..700).await;
        rig.publisher.pause().await?;
        let published = rig.publisher.sent();
        // What the broker has is in the host; what is in the host survives the broker.
        rig.host.wait_for_ledger("all are received", PATIENCE, |ledger| ledger.received >= published).await?;
        rig.broker.stop().await?;
        rig.broker.start().await?;
        let up = Instant::now();
        rig.host.ready().await?;
        longest = longest.max(up.elapsed());
        rig.publisher.resume();
    }
    row.note(format!("subscribed again at most {} ms after the broker was back", longest.as_millis()));
    row.claim(longest < BACKOFF + MARGIN, || format!("subscribed again only after {longest:?}"));
    let found = rig.finish(&mut row).await?;
    found.at_most_as_sent(&mut row);
    row.judge(0);
    Ok(row)
}
