//! Raising the cluster's feature level (see [`crate::state::features`]).
//!
//! While the level is below what this node reads, it asks every member how
//! high that one reads; so each controller can tell for whom the level waits.
//! The leader raises it to the lowest of the answers, once all have answered.
//!
//! A member that is replaced by an older release afterwards is kept out when
//! it starts: by its own state, or by what the others tell it.

use super::node::RaftNode;
use super::peers::Lane;
use super::types::{ControllerNode, DiskId, LogId};
use crate::state::command::CommandBody;
use crate::state::features;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use streamhouse_proto::v1::IdentifyRequest;

/// How often the members are asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(1);

/// A release that does not read the cluster's feature level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster is at feature level {level}, and this release reads up to {reads}: run the release \
     that the other controllers run, or a newer one"
)]
pub struct TooOld {
    /// The cluster's.
    pub level: u32,
    /// The highest that is read.
    pub reads: u32,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reads {
    /// Levels up to this one.
    UpTo(u32),
    /// Nothing.
    Silent,
}

/// A member, where it is, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    id: u64,
    address: String,
    reads: Reads,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, address, reads } = self;
        match reads {
            Reads::UpTo(level) => {
                write!(f, "controller {id} at {address}, which reads up to {level}")
            }
            Reads::Silent => write!(f, "controller {id} at {address}, which does not answer"),
        }
    }
}

/// To which level all of them let the cluster rise, and for whom it waits
/// with `own`, empty if for nobody.
fn judge(own: u32, level: u32, said: &[Said]) -> (Option<u32>, String) {
    let reads = |said: &Said| match said.reads {
        Reads::UpTo(level) => level,
        Reads::Silent => 0,
    };
    let lowest = said.iter().map(reads).min().unwrap_or(own).min(own);
    let waited_for = said.iter().filter(|said| reads(said) < own).map(ToString::to_string);
    let waited_for = waited_for.collect::<Vec<_>>().join(", ");
    ((lowest > level).then_some(lowest), waited_for)
}

/// Looks after the level until the node stops.
pub(crate) async fn watch(node: RaftNode) {
    let core = node.core();
    let reads = core.options.reads_level;
    let (mut known, mut leadership) = (core.applied.level.subscribe(), node.leadership());
    loop {
        let below = known.wait_for(|level| level.is_some_and(|level| level < reads));
        tokio::select! {
            _ = below => {}
            () = core.cancel.cancelled() => return,
        }
        leadership.borrow_and_update();
        look(&node, reads).await;
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            // A new leader looks at once.
            _ = leadership.changed() => {}
            () = core.cancel.cancelled() => return,
        }
    }
}

async fn look(node: &RaftNode, reads: u32) {
    let core = node.core();
    let (at, members) = members(node);
    let said = join_all(members.iter().map(|(id, member)| ask(node, *id, member))).await;
    let (to, waits_for) = judge(reads, core.applied.level(), &said);
    let changed = {
        let mut known = core.level_waits.lock();
        let changed = *known != waits_for;
        known.clone_from(&waits_for);
        changed
    };
    if changed && !waits_for.is_empty() {
        tracing::info!(reads, waits_for, "the feature level is not raised yet");
    }
    if let Some(level) = to
        && node.leadership().borrow().is_leader
    {
        raise(node, level, at).await;
    }
}

/// Alone, so that nobody joins meanwhile who was not asked.
async fn raise(node: &RaftNode, level: u32, asked: Option<LogId>) {
    let core = node.core();
    let Ok(_alone) = core.changing.clone().try_lock_owned() else { return };
    if members(node).0 != asked {
        return;
    }
    match node.propose_local(None, CommandBody::RaiseFeatureLevel { level }).await {
        Ok((index, _)) => tracing::info!(level, index, "the cluster's feature level rises"),
        Err(error) => tracing::warn!(level, %error, "the feature level was not raised"),
    }
}

/// All members but this one, and since when they are.
fn members(node: &RaftNode) -> (Option<LogId>, BTreeMap<u64, ControllerNode>) {
    node.with_metrics(|m| {
        let members = m.membership_config.membership().nodes();
        let others = members.filter(|(id, _)| **id != m.id);
        let others = others.map(|(id, member)| (*id, member.clone())).collect();
        (*m.membership_config.log_id(), others)
    })
}

async fn ask(node: &RaftNode, id: u64, member: &ControllerNode) -> Said {
    let core = node.core();
    let address = core.peers.address(id, member).to_owned();
    let answer = async {
        let mut client = core.peers.client(id, Lane::Forward, &address).ok()?;
        let asking = client.identify(IdentifyRequest::default());
        let answer = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()?.into_inner();
        // Whoever else answers there is not the member.
        let its_disk = DiskId::try_from(answer.disk_id.as_slice()).ok() == Some(member.disk);
        (its_disk && answer.node_id == id).then_some(answer.reads_level)
    };
    let reads = match answer.await {
        // A release without levels.
        Some(0) => Reads::UpTo(features::OLDEST),
        Some(level) => Reads::UpTo(level),
        None => Reads::Silent,
    };
    Said { id, address, reads }
}

impl RaftNode {
    /// The feature level of its state, 0 while the cluster has no identity,
    /// and the highest level that this node reads.
    pub fn feature_levels(&self) -> (u32, u32) {
        let core = self.core();
        ((*core.applied.level.borrow()).unwrap_or(0), core.options.reads_level)
    }

    /// Why the feature level is not higher.
    pub(super) fn level_waits(&self) -> String {
        let (level, reads) = self.feature_levels();
        let waited_for = self.core().level_waits.lock().clone();
        match (level < reads, waited_for.is_empty()) {
            (false, _) => format!("this controller reads up to {reads}"),
            (true, true) => "it is about to be raised".to_owned(),
            (true, false) => format!("waiting for {waited_for}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: u64, reads: Reads) -> Said {
        Said { id, address: format!("c{id}:1"), reads }
    }

    #[test]
    fn the_level_rises_to_what_everyone_reads() {
        let up_to = |id, level| said(id, Reads::UpTo(level));
        assert_eq!(judge(2, 1, &[up_to(2, 2), up_to(3, 3)]), (Some(2), String::new()));
        assert_eq!(judge(2, 1, &[]), (Some(2), String::new()));
        let (to, waits) = judge(3, 1, &[up_to(2, 2), up_to(3, 3)]);
        assert_eq!(to, Some(2));
        assert_eq!(waits, "controller 2 at c2:1, which reads up to 2");
    }

    #[test]
    fn it_stays_while_one_is_silent_or_reads_no_more() {
        let all = [said(2, Reads::Silent), said(3, Reads::UpTo(1))];
        let (to, waits) = judge(2, 1, &all);
        assert_eq!(to, None);
        assert_eq!(
            waits,
            "controller 2 at c2:1, which does not answer, controller 3 at c3:1, which reads up to 1"
        );
    }
}
