//! Rivven is stopped and started, or does not answer.

use std::time::{Duration, Instant};

use anyhow::Result;
use rumqttc::QoS;

use super::Plan;
use super::publisher::Load;
use super::rig::{Rig, balances, metric, moment};
use super::row::Row;
use crate::usage::Usage;

/// How much more memory the host may have at its peak than when the fault began for the first time, in bytes.
const GROWTH: u64 = 32 << 20;
/// Messages that may be in the host when Rivven stops answering: the host's default.
const MAX_INFLIGHT: u64 = 1_000;
/// Share of one processor that the host may use while Rivven does not answer.
const BUSY: f64 = 0.05;
/// Longer than the broker waits for a client that does not ping: 1.5 keep-alives.
const SHORT_FREEZE: Duration = Duration::from_secs(9);
const FREEZE: Duration = Duration::from_secs(90);

/// What the host uses over the campaign.
struct Watch {
    first: Usage,
    peak: u64,
    busiest: f64,
}

impl Watch {
    fn new(rig: &Rig) -> Result<Self> {
        let first = Usage::of(rig.host.id())?;
        Ok(Watch { first, peak: first.resident, busiest: 0.0 })
    }

    /// What was used since `before`, which was `time` ago.
    fn used(&mut self, rig: &Rig, before: Usage, time: Duration) -> Result<()> {
        let now = Usage::of(rig.host.id())?;
        self.peak = self.peak.max(now.peak);
        self.busiest = self.busiest.max((now.cpu - before.cpu).as_secs_f64() / time.as_secs_f64());
        Ok(())
    }

    async fn judge(&self, rig: &Rig, row: &mut Row) -> Result<()> {
        let (first, peak) = (self.first.resident, self.peak);
        row.claim(peak <= first + GROWTH, || format!("memory grew from {first} to {peak} bytes"));
        row.note(format!("memory {} MiB, peak {} MiB", first >> 20, peak >> 20));
        row.note(format!("at most {:.1} % of a processor", 100.0 * self.busiest));
        let lost = metric(&rig.host, "disconnections_total").await?;
        row.claim(lost == 0, || format!("the MQTT connection was lost {lost} times"));
        row.note(format!("{} writes repeated", metric(&rig.host, "sink_retries_total").await?));
        Ok(())
    }
}

/// SIGTERM and a start, again and again. `rivvend` takes up to 15 s to end, and serves its clients for 10 s of these.
pub async fn restarted(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let mut rig = Rig::start(Load::new(QoS::AtLeastOnce, 300), |_| Ok(())).await?;
    let mut watch = Watch::new(&rig)?;
    for _ in 0..plan.rounds {
        moment(&mut random, 200..1_500).await;
        let (before, began) = (Usage::of(rig.host.id())?, Instant::now());
        rig.rivven.stop().await?;
        balances(&rig.host).await?;
        rig.rivven.start().await?;
        watch.used(&rig, before, began.elapsed())?;
        rig.host.ready().await?;
    }
    watch.judge(&rig, &mut row).await?;
    rig.finish(&mut row).await?;
    // What Rivven has written and not answered is written again.
    row.judge(u64::from(plan.rounds) * MAX_INFLIGHT);
    Ok(row)
}

/// SIGSTOP for longer than a request may take, again and again.
pub async fn frozen(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let mut rig = Rig::start(Load::new(QoS::AtLeastOnce, 500), |_| Ok(())).await?;
    let mut watch = Watch::new(&rig)?;
    let time = if plan.short { SHORT_FREEZE } else { FREEZE };
    for _ in 0..plan.rounds {
        moment(&mut random, 500..2_000).await;
        rig.rivven.freeze()?;
        let (before, began) = (Usage::of(rig.host.id())?, Instant::now());
        // This long it is: there is no condition to wait for.
        tokio::time::sleep(time).await;
        watch.used(&rig, before, began.elapsed())?;
        balances(&rig.host).await?;
        rig.rivven.thaw()?;
        rig.host.ready().await?;
    }
    let busiest = watch.busiest;
    row.claim(busiest < BUSY, || format!("{:.0} % of a processor while Rivven was frozen", 100.0 * busiest));
    watch.judge(&rig, &mut row).await?;
    let log = rig.broker.logs().await?;
    row.claim(!log.contains("exceeded timeout"), || "the broker missed a ping".into());
    rig.finish(&mut row).await?;
    row.judge(u64::from(plan.rounds) * MAX_INFLIGHT);
    Ok(row)
}
