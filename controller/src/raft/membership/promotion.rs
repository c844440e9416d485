//! What a leader does about the membership without being asked: learners become voters, and what was begun is ended.

use super::heard::answers;
use super::{Changes, Membership, is_joint};
use crate::raft::node::RaftNode;
use crate::raft::types::TypeConfig;
use crate::raft::{meta, time};
use openraft::{ChangeMembers, RaftMetrics};
use rocksdb::WriteBatch;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the leader looks for learners that have caught up.
const LOOK: Duration = Duration::from_millis(200);
/// A learner so many entries behind is as good as a voter.
const CAUGHT_UP: u64 = 1_000;

/// Does what is due while this node leads, until it stops: ends changes that
/// were begun, and makes learners voters.
pub(in crate::raft) async fn promote(node: RaftNode) {
    let core = node.core();
    let leadership = node.leadership();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = core.cancel.cancelled() => return,
        }
        remember(&node).await;
        if !leadership.borrow().is_leader {
            *core.led_since.lock() = None;
            continue;
        }
        core.led_since.lock().get_or_insert_with(time::now);
        match node.with_metrics(due) {
            Some(Due::HandOver { by, to }) => {
                tracing::info!(by, "another controller takes this one's place");
                match to {
                    Some(to) => drop(core.raft.trigger().transfer_leader(to).await),
                    None => drop(node.hand_over().await),
                }
            }
            Some(Due::Change { why, id, changes }) => {
                // An operator's comes first; this one is due at the next look, too.
                let Ok(alone) = node.alone() else { continue };
                tracing::info!(id, "{why}");
                if let Err(error) = node.change(alone, changes).await {
                    tracing::warn!(id, %error, "not done yet: {why}");
                }
            }
            None => {}
        }
    }
}

/// Notes on the disk that the cluster has known it: what tells a member that
/// was removed from one that is only catching up.
async fn remember(node: &RaftNode) {
    let core = node.core();
    let named = || {
        node.with_metrics(|m| {
            let member = m.committed_membership_config.get_node(&m.id);
            member.is_some_and(|member| member.disk == core.disk)
        })
    };
    if core.was_member.load(Ordering::SeqCst) || !named() {
        return;
    }
    let db = core.db.clone();
    let write = streamhouse_host::spawn_blocking(move || {
        let mut batch = WriteBatch::default();
        batch.put_cf(db.raft(), meta::MEMBER, []);
        db.write_unsynced(batch)
    });
    match write.await {
        Ok(Ok(())) => core.was_member.store(true, Ordering::SeqCst),
        Ok(Err(error)) => tracing::warn!(error, "that this is a member was not noted"),
        Err(error) => tracing::warn!(%error, "that this is a member was not noted"),
    }
}

/// What a leader has to do about the membership.
#[derive(Debug)]
enum Due {
    /// To the voter that takes its place, or to the one whose log is furthest.
    HandOver {
        by: u64,
        to: Option<u64>,
    },
    Change {
        why: &'static str,
        id: u64,
        changes: Changes,
    },
}

fn due(metrics: &RaftMetrics<TypeConfig>) -> Option<Due> {
    let stored = &metrics.membership_config;
    if metrics.committed_membership_config.log_id() != stored.log_id() {
        return None;
    }
    let own = metrics.id;
    if is_joint(stored) {
        // Whoever began it is gone: openraft goes to the last voter set.
        let changes = ChangeMembers::AddVoterIds(BTreeSet::new());
        return Some(Due::Change { why: "ending a change of the membership", id: own, changes });
    }
    let members = stored.membership();
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    takeover(metrics, members, &voters).or_else(|| promotion(metrics, members, &voters))
}

/// A voter is to take the place of another: of the only one, which could not
/// go before.
fn takeover(
    metrics: &RaftMetrics<TypeConfig>,
    members: &Membership,
    voters: &BTreeSet<u64>,
) -> Option<Due> {
    let mut successors = members.nodes().filter(|(id, node)| {
        voters.contains(id) && voters.contains(&node.replaces) && answers(metrics, **id)
    });
    let (id, replaces) = successors.next().map(|(id, node)| (*id, node.replaces))?;
    if replaces == metrics.id {
        return Some(Due::HandOver { by: id, to: Some(id) });
    }
    let changes = ChangeMembers::RemoveVoters(BTreeSet::from([replaces]));
    Some(Due::Change { why: "removing a controller that is replaced", id: replaces, changes })
}

/// A learner that has caught up becomes a voter, in the place of another if it
/// is to be.
fn promotion(
    metrics: &RaftMetrics<TypeConfig>,
    members: &Membership,
    voters: &BTreeSet<u64>,
) -> Option<Due> {
    let last = metrics.last_log_index?;
    let replication = metrics.replication.as_ref()?;
    let mut learners = members.nodes().filter(|(id, _)| !voters.contains(id));
    let (id, replaces) = learners.find_map(|(id, member)| {
        let matched = replication.get(id).copied().flatten()?;
        let near = matched.index.saturating_add(CAUGHT_UP) >= last;
        (near && answers(metrics, *id)).then_some((*id, member.replaces))
    })?;
    let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([id]))];
    if voters.contains(&replaces) && replaces != metrics.id {
        changes.push(ChangeMembers::RemoveVoters(BTreeSet::from([replaces])));
    } else if voters.contains(&replaces) && voters.len() > 1 {
        return Some(Due::HandOver { by: id, to: None });
    } else if members.get_node(&replaces).is_some() && !voters.contains(&replaces) {
        changes.push(ChangeMembers::RemoveNodes(BTreeSet::from([replaces])));
    }
    let changes = ChangeMembers::Batch(changes);
    Some(Due::Change { why: "making a controller a voter", id, changes })
}
