//! When a local cluster can take writes: every controller answers, one leads, every agent has its session, and every
//! partition an agent.

use std::time::Duration;

use streamhouse_client::{Admin, AdminError, Role, Topic};

use crate::clock;
use crate::exit::{Failure, Kind};
use crate::local::cluster::{self, Children};
use crate::local::folder::Folder;
use crate::local::record::{Member, Record};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const TRY: Duration = Duration::from_secs(1);
/// A topic's setting, and what holds without it.
const AGENT_GROUP: &str = "agent.group";
const DEFAULT_AGENT_GROUP: &str = "default";

/// Waits until the cluster can take writes; fails as soon as one of its processes ends.
pub(super) async fn wait(
    folder: &Folder,
    record: &Record,
    children: &mut Children,
) -> anyhow::Result<()> {
    let admin = Admin::builder()
        .controllers(record.controller_addresses())
        .operation_timeout(TRY * 2)
        .try_timeout(TRY)
        .build()?;
    let deadline = clock::now() + PATIENCE;
    loop {
        children.reap();
        if let Some(ended) = record.members().find(|member| record.running(*member).is_none()) {
            return Err(ended_early(folder, ended).into());
        }
        let missing = match missing(&admin, record).await {
            Ok(None) => return Ok(()),
            Ok(Some(missing)) => missing,
            Err(error) => error.to_string(),
        };
        if clock::now() > deadline {
            return Err(Failure::new(
                Kind::Unavailable,
                format!(
                    "not ready after {} s: {missing}; logs are in {}",
                    PATIENCE.as_secs(),
                    folder.path().display()
                ),
            )
            .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn ended_early(folder: &Folder, member: Member) -> Failure {
    let tail = cluster::log_tail(folder, member);
    let said = tail.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let said = said.map_or_else(|| tail.replace('\n', " | "), str::to_owned);
    let log = folder.log(member);
    Failure::new(
        Kind::Failed,
        format!("{member} ended at its start: {said} (log: {})", log.display()),
    )
}

/// What the cluster still lacks.
async fn missing(admin: &Admin, record: &Record) -> Result<Option<String>, AdminError> {
    let controllers = admin.controllers().await?;
    let answering = controllers.iter().filter(|c| c.role != Role::Unreachable).count();
    if answering < usize::from(record.controllers) {
        return Ok(Some(format!("{answering} of {} controllers answer", record.controllers)));
    }
    if !controllers.iter().any(|c| c.role == Role::Leader) {
        return Ok(Some("no controller leads".to_owned()));
    }
    let agents = admin.agents().await?;
    for number in 1..=record.agents {
        let member = Member::Agent(number);
        let address = record.address(member).to_string();
        let pid = record.processes.get(&member).map(|process| process.pid.unsigned_abs());
        // An earlier process at this address may still be on the list.
        if !agents.iter().any(|agent| agent.address == address && Some(agent.pid) == pid) {
            return Ok(Some(format!("{member} has no session")));
        }
    }
    let held: u64 = agents.iter().map(|agent| agent.leases).sum();
    // What only other agents may serve does not wait for these.
    let served = |topic: &&Topic| {
        let group = topic.config.get(AGENT_GROUP).map_or(DEFAULT_AGENT_GROUP, String::as_str);
        agents.iter().any(|agent| agent.group == group)
    };
    let topics = admin.list_topics().await?;
    let all: u64 = topics.iter().filter(served).map(|topic| u64::from(topic.partitions)).sum();
    Ok((held < all).then(|| format!("{held} of {all} partitions have an agent")))
}
