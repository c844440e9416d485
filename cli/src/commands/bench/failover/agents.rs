//! `bench failover --target agent`: `kill -9` of an agent of a local cluster under load, restart, and again; how long
//! its partitions took no write, and at the end, read back, what became of every record.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use streamhouse_client::{Admin, Consumer, OffsetReset};

use super::load::{Ledger, Load};
use super::{Args, Gaps, Local, PATIENCE, POLL, SETTLE, whole};
use crate::clock;
use crate::commands::bench::audit::{Audit, Verdict};
use crate::commands::bench::link;
use crate::exit::{Failure, Kind};
use crate::local::cluster::{self, Logs};
use crate::local::record::Member;
use crate::output::Format;

/// Enough that every agent holds some, and moves show.
const PARTITIONS: u32 = 8;

#[derive(Debug, Serialize)]
struct Report {
    target: &'static str,
    agents: u16,
    kills: usize,
    /// Records a second.
    rate: u32,
    records: u64,
    acknowledged: u64,
    /// From the kill to the first write, sent after it, that was acknowledged in every partition of the killed agent.
    recovery_ms: Gaps,
    #[serde(flatten)]
    verdict: Verdict,
}

pub(super) async fn run(args: Args, mut local: Local, format: Format) -> anyhow::Result<()> {
    let agents = local.record.agents;
    if agents < 2 {
        return Err(Failure::usage("the cluster has one agent: nobody could take over").into());
    }
    let seeds = local.record.controller_addresses();
    let admin = Admin::builder().controllers(seeds.clone()).build()?;
    whole(&admin, &local.record).await?;
    let topic = link::unique_name();
    admin.create_topic(&topic, PARTITIONS, BTreeMap::new()).await?;

    let load = Load::start(seeds.clone(), &topic, PARTITIONS, args.rate).await?;
    let took = kill_agents(args.kills, &admin, &topic, &mut local, load.ledger()).await;
    let promised = load.end().await?;
    let mut took = took?;
    let verdict = read_back(seeds, &topic, &promised).await?;
    admin.delete_topic(&topic).await?;

    took.sort_unstable();
    let report = Report {
        target: "agent",
        agents,
        kills: args.kills,
        rate: args.rate,
        records: promised.len() as u64,
        acknowledged: promised.iter().flatten().count() as u64,
        recovery_ms: Gaps::of(&took),
        verdict,
    };
    format.print(&report, human)?;
    if report.verdict.is_clean() {
        return Ok(());
    }
    Err(Failure::new(Kind::Failed, "the log is not what was acknowledged").into())
}

/// How long it took after every kill.
async fn kill_agents(
    kills: usize,
    admin: &Admin,
    topic: &str,
    local: &mut Local,
    ledger: &Ledger,
) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(kills);
    for kill in 0..kills {
        balanced(admin, topic, local).await?;
        tokio::time::sleep(SETTLE).await;
        let member = Member::Agent((kill % usize::from(local.record.agents)) as u16 + 1);
        let held = held(admin, topic, &local.record.address(member).to_string()).await?;
        let process = local.record.running(member).ok_or_else(|| not_whole("an agent"))?.clone();
        let killed = clock::now();
        process.signal(Signal::SIGKILL);
        while process.is_alive() {
            tokio::task::yield_now().await;
        }
        // What is sent from here on cannot reach it any more.
        ledger.expect(clock::now(), &held);
        let recovered = tokio::time::timeout(PATIENCE, ledger.recovered()).await.map_err(|_| {
            let message = format!("not every partition took writes within {PATIENCE:?} of a kill");
            Failure::new(Kind::Failed, message)
        })?;
        let gap = recovered.duration_since(killed);
        tracing::info!(kill, %member, partitions = held.len(), ?gap, "killed");
        took.push(gap);
        cluster::start_missing(&local.folder, &local.lock, &mut local.record, Logs::default())
            .await?;
    }
    balanced(admin, topic, local).await?;
    Ok(took)
}

/// The partitions that the agent at `address` holds.
async fn held(admin: &Admin, topic: &str, address: &str) -> anyhow::Result<Vec<u32>> {
    let partitions = admin.describe_topic(topic).await?.partitions.into_iter();
    let held = partitions.filter(|p| p.address.as_deref() == Some(address));
    Ok(held.map(|p| p.partition).collect())
}

/// Waits until every agent holds some of the partitions, and every partition has a holder.
async fn balanced(admin: &Admin, topic: &str, local: &Local) -> anyhow::Result<()> {
    let agents = (1..=local.record.agents).map(Member::Agent);
    let agents: Vec<_> = agents.map(|agent| local.record.address(agent).to_string()).collect();
    let deadline = clock::now() + PATIENCE;
    loop {
        let topic = admin.describe_topic(topic).await?;
        let holders = || topic.partitions.iter().map(|partition| partition.address.as_deref());
        let all_hold = agents.iter().all(|agent| holders().any(|holder| holder == Some(agent)));
        if all_hold && holders().all(|holder| holder.is_some()) {
            return Ok(());
        }
        if clock::now() > deadline {
            return Err(not_whole("an agent that holds its share").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn not_whole(what: &str) -> Failure {
    Failure::new(Kind::Unavailable, format!("the local cluster lacks {what}"))
}

/// Reads the whole topic and compares it with what was acknowledged.
async fn read_back(
    seeds: Vec<String>,
    topic: &str,
    promised: &[Option<(u32, u64)>],
) -> anyhow::Result<Verdict> {
    let mut consumer = Consumer::builder()
        .controllers(seeds)
        .topics([topic])
        .offset_reset(OffsetReset::Earliest)
        .build()
        .await?;
    let end = consumer.end_offsets().await?;
    let mut audit = Audit::new(promised, super::load::keys(PARTITIONS));
    let deadline = clock::now() + PATIENCE;
    loop {
        let at = consumer.positions();
        if end.iter().all(|(partition, end)| at.get(partition).is_some_and(|at| at >= end)) {
            break;
        }
        if clock::now() > deadline {
            let message = "the topic could not be read to its end";
            return Err(Failure::new(Kind::Unavailable, message).into());
        }
        for record in consumer.poll(Duration::from_secs(1)).await? {
            let value = record.value.as_deref().unwrap_or_default();
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let known = number.is_some_and(|n| audit.found((record.partition, record.offset), n));
            anyhow::ensure!(known, "{topic}/{} {}: foreign", record.partition, record.offset);
        }
    }
    consumer.close().await?;
    Ok(audit.end())
}

fn human(r: &Report) -> String {
    format!(
        "{} kills of {} agents, {} records sent, {} acknowledged\n\
         until all its partitions took writes again: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms\n\
         read back: {} lost, {} duplicated, {} out of order, {} not at their offset",
        r.kills,
        r.agents,
        r.records,
        r.acknowledged,
        r.recovery_ms.p50,
        r.recovery_ms.p99,
        r.recovery_ms.max,
        r.verdict.lost,
        r.verdict.duplicated,
        r.verdict.order_violations,
        r.verdict.misplaced,
    )
}
