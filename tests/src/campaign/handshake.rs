//! The connection is cut at each step of the QoS 2 handshake, and the host is stopped in between.

use anyhow::Result;
use rumqttc::QoS;

use super::Plan;
use super::publisher::Load;
use super::rig::{PATIENCE, Rig, balances, moment};
use super::row::Row;
use crate::config;
use crate::host::Host;
use crate::proxy::{HANDSHAKE, Proxy};
use crate::rivven::Rivven;

/// One of so many cuts is followed by SIGTERM to the host, before the handshake goes on.
const STOP_EVERY: u32 = 5;

/// Cuts, under load.
pub async fn cut(plan: Plan) -> Result<Row> {
    let mut random = plan.random();
    let mut row = Row::default();
    let load = Load::new(QoS::ExactlyOnce, 200);
    let broker = super::rig::broker().start().await?;
    let rivven = Rivven::launch().await?;
    let proxy = Proxy::listen(broker.port()).await?;
    let source = super::rig::source(&proxy.url(), &load);
    let host = Host::start(&config::with_source(&rivven, source))?;
    let mut rig = Rig::with(broker, rivven, host, load).await?;
    let mut stops = 0;
    for round in 0..plan.rounds {
        let Some((kind, fate)) = HANDSHAKE.get(round as usize % HANDSHAKE.len()).copied() else { break };
        moment(&mut random, 0..100).await;
        proxy.cut_at(kind, fate);
        proxy.has_cut(PATIENCE).await?;
        balances(&rig.host).await?;
        // 5 and 8 have no common divisor: each step is once followed by a stop.
        if round % STOP_EVERY == STOP_EVERY - 1 {
            moment(&mut random, 0..30).await;
            let status = rig.host.terminate().await?;
            row.claim(status.code() == Some(0), || format!("in round {round} the host ended with {status}"));
            rig.host.restart()?;
            rig.host.ready().await?;
            stops += 1;
        }
    }
    row.note(format!("{stops} times SIGTERM"));
    let found = rig.finish(&mut row).await?;
    found.at_most_as_sent(&mut row);
    row.judge(0);
    Ok(row)
}
