//! What a controller asks before it votes, campaigns or acknowledges anything:
//! does its disk still hold what it had acknowledged?
//!
//! A disk that was put back from a copy, or whose log was cut off, looks sound
//! by itself. So a starting controller asks the others: once a majority of
//! its members (itself included) has told how far they saw its disk get (see
//! [`super::marks`]), and none of them saw more than is there, it takes part.
//! Until then it answers no message of Raft. A disk that is behind, a number
//! that belongs to another disk by now, or a member that was removed, is
//! refused with the way out.
//!
//! What no surviving member saw cannot be found so: at most what this disk
//! acknowledged in the last second before the leader died too.

use super::marks;
use super::node::RaftNode;
use super::peers::Lane;
use super::types::{ControllerNode, DiskId};
use crate::state::kv::KvError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use streamhouse_proto::v1::{IdentifyRequest, IdentifyResponse};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(1);
/// Without a leader for so long, a member asks whether it still is one.
const LONELY: Duration = Duration::from_secs(1);

/// Whether this node may take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A majority has not answered yet.
    Asking,
    /// It takes part.
    Admitted,
    /// It never will, with this disk.
    Refused(Refused),
}

/// Why this node's disk cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It lost entries or a vote that it had acknowledged.
    #[error(
        "the disk of controller {node} is behind what it had acknowledged: it ends at entry {has} \
         in term {term}, the cluster saw it hold entry {had} in term {had_term}; it is an old copy, \
         or was cut off. Let it rejoin as a learner: streamhouse controller repair"
    )]
    Behind {
        /// This node.
        node: u64,
        /// Last entry on the disk.
        has: u64,
        /// Term of the vote on the disk.
        term: u64,
        /// Last entry that the leader saw on it.
        had: u64,
        /// When that was.
        had_term: u64,
    },
    /// The cluster knows this number with another disk: this one is new, or
    /// was replaced.
    #[error(
        "controller {0} is a member of the cluster with another disk than this one; if that disk is \
         lost, let this one rejoin as a learner: streamhouse controller repair"
    )]
    OtherDisk(u64),
    /// It was removed from the cluster.
    #[error("controller {0} was removed from the cluster; its number is never used again")]
    Removed(u64),
    /// The others belong to another cluster.
    #[error(
        "controller {0} belongs to another cluster than the controllers at its peers' addresses"
    )]
    OtherCluster(u64),
}

/// The others' answers, by node.
type Answers = BTreeMap<u64, IdentifyResponse>;

/// Asks until there is a decision or the node stops.
pub(crate) async fn seek(node: RaftNode) {
    let core = node.core();
    if core.is_empty() {
        // Nothing on this disk can be behind. Its number can be another's.
        node.decide(Admission::Admitted);
    }
    let (mut pause, mut reported) = (FIRST_PAUSE, String::new());
    loop {
        let empty = core.is_empty();
        if !empty && *core.admission.borrow() == Admission::Admitted {
            return stay(node).await;
        }
        let answers = ask(&node).await;
        match decide(&node, &answers, empty) {
            Ok(Some(decision)) => {
                let admitted = decision == Admission::Admitted;
                node.decide(decision);
                return if admitted {
                    stay(node).await
                };
            }
            Ok(None) => {
                let missing = missing(&node, &answers);
                if !missing.is_empty() && missing != reported {
                    tracing::info!(%missing, "waiting for a cluster to be founded, or to be added to one");
                    reported = missing;
                }
            }
            Err(waiting) if waiting != reported => {
                tracing::info!(%waiting, "not taking part yet");
                reported = waiting;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.cancel.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A member that was removed hears no more from anybody. One that has had no
/// leader for a while asks whether that is why.
async fn stay(node: RaftNode) {
    let core = node.core();
    let mut leadership = node.leadership();
    loop {
        let lonely = async {
            let _ = leadership.wait_for(|now| now.leader.is_none()).await;
            tokio::time::sleep(LONELY).await;
        };
        tokio::select! {
            () = lonely => {}
            () = core.cancel.cancelled() => return,
        }
        if leadership.borrow().leader.is_some() {
            continue;
        }
        let answers = ask(&node).await;
        if let Some(refused) = membership_refusal(&node, &answers, false) {
            node.decide(Admission::Refused(refused));
            return;
        }
    }
}

/// Members as the disk knows them, or the configured peers before it knows
/// any; without this node.
fn others(node: &RaftNode) -> BTreeMap<u64, ControllerNode> {
    let core = node.core();
    let mut members: BTreeMap<u64, ControllerNode> = node.with_metrics(|m| {
        let nodes = m.membership_config.membership().nodes();
        nodes.map(|(id, member)| (*id, member.clone())).collect()
    });
    if members.is_empty() {
        let peers = core.options.peers.iter();
        members = peers
            .map(|(id, address)| {
                (*id, ControllerNode { address: address.clone(), ..ControllerNode::default() })
            })
            .collect();
    }
    members.remove(&core.options.node_id);
    members
}

/// Who of the others does not answer.
fn missing(node: &RaftNode, answers: &Answers) -> String {
    let core = node.core();
    let silent = others(node).into_iter().filter(|(id, _)| !answers.contains_key(id));
    let silent = silent.map(|(id, member)| format!("{id} at {}", core.peers.address(id, &member)));
    silent.collect::<Vec<_>>().join(", ")
}

async fn ask(node: &RaftNode) -> Answers {
    let mut calls: FuturesUnordered<_> =
        others(node).into_iter().map(|(id, member)| ask_one(node, id, member)).collect();
    let mut answers = Answers::new();
    while let Some(answer) = calls.next().await {
        answers.extend(answer);
    }
    answers
}

async fn ask_one(
    node: &RaftNode,
    id: u64,
    member: ControllerNode,
) -> Option<(u64, IdentifyResponse)> {
    let core = node.core();
    let address = core.peers.address(id, &member);
    let mut client = core.peers.client(id, Lane::Forward, address).ok()?;
    let request = IdentifyRequest { node_id: core.options.node_id, disk_id: core.disk.to_vec() };
    let answer = tokio::time::timeout(PATIENCE, client.identify(request)).await;
    let answer = answer.ok()?.ok()?.into_inner();
    (answer.node_id == id).then_some((id, answer))
}

/// A decision, nothing yet for an empty disk, or what is still missing.
fn decide(node: &RaftNode, answers: &Answers, empty: bool) -> Result<Option<Admission>, String> {
    if let Some(refused) = membership_refusal(node, answers, empty) {
        return Ok(Some(Admission::Refused(refused)));
    }
    if empty {
        return Ok(None);
    }
    if let Some(refused) = answers.values().find_map(|answer| behind(node, answer)) {
        return Ok(Some(Admission::Refused(refused)));
    }
    // One that has voted, or heard of a term, and knows no member can only be
    // a learner yet; one that knows it will do.
    let knows_none = node.with_metrics(|m| m.membership_config.membership().nodes().count() == 0);
    let named = || answers.values().any(|answer| !answer.member_disk.is_empty());
    match if knows_none { named() } else { majority(node, answers) } {
        true => Ok(Some(Admission::Admitted)),
        false => Err(format!("waiting for a majority; {} of the others answered", answers.len())),
    }
}

/// Whether those who answered and this node are a majority of every voter set
/// in force.
fn majority(node: &RaftNode, answers: &Answers) -> bool {
    let mut present: BTreeSet<u64> = answers.keys().copied().collect();
    present.insert(node.core().options.node_id);
    node.with_metrics(|m| {
        let mut configs = m.membership_config.membership().get_joint_config().iter();
        configs.all(|voters| voters.intersection(&present).count() * 2 > voters.len())
    })
}

/// What the members' committed memberships say against this node.
fn membership_refusal(node: &RaftNode, answers: &Answers, empty: bool) -> Option<Refused> {
    let core = node.core();
    let own = core.options.node_id;
    let cluster = *core.applied.cluster.read();
    let (since, member, known) = node.with_metrics(|m| {
        let members = &m.committed_membership_config;
        let nodes = members.membership();
        let since = members.log_id().as_ref().map_or(0, |id| id.index);
        (since, nodes.get_node(&own).is_some(), nodes.nodes().count() > 0)
    });
    for answer in answers.values() {
        let other = cluster.is_some_and(|cluster| answer.cluster_id != cluster);
        if other && !answer.cluster_id.is_empty() {
            return Some(Refused::OtherCluster(own));
        }
        let later = answer.membership_index > since;
        match DiskId::try_from(answer.member_disk.as_slice()).ok() {
            Some(disk) if disk != core.disk && (empty || later) => {
                return Some(Refused::OtherDisk(own));
            }
            None if !empty && member && later => return Some(Refused::Removed(own)),
            Some(_) | None => {}
        }
    }
    // Its own membership does not name it: one that was removed and saw it,
    // or one that is only catching up. The others know, if enough agree.
    let nobody = answers.values().all(|answer| answer.member_disk.is_empty());
    let removed = !empty && known && !member && nobody && majority(node, answers);
    removed.then_some(Refused::Removed(own))
}

/// SUBTLE: a log may be cut back rightly, by a leader of a later term; but a
/// disk that has accepted that leader has voted in its term. So entries count
/// only against a mark of the disk's own term.
fn behind(node: &RaftNode, answer: &IdentifyResponse) -> Option<Refused> {
    let mark = answer.mark?;
    let log = &node.core().log;
    let (term, last) = (log.vote_term(), log.durable());
    let has = last.map_or((0, 0), |id| (id.leader_id.term, id.index));
    let had = (mark.matched_term, mark.matched_index);
    let lost = term < mark.term || (term == mark.term && has < had);
    lost.then(|| Refused::Behind {
        node: node.core().options.node_id,
        has: has.1,
        term,
        had: had.1,
        had_term: mark.term,
    })
}

impl RaftNode {
    fn decide(&self, decision: Admission) {
        let core = self.core();
        match &decision {
            Admission::Admitted => tracing::debug!("taking part"),
            Admission::Refused(refused) => tracing::error!(%refused, "not taking part"),
            Admission::Asking => {}
        }
        core.admission.send_replace(decision);
        core.raft.runtime_config().elect(core.may_campaign());
    }

    /// Returns when this node's disk was found to be of no more use.
    pub async fn refused(&self) -> Refused {
        let mut admission = self.core().admission.subscribe();
        loop {
            if let Admission::Refused(refused) = &*admission.borrow_and_update() {
                return refused.clone();
            }
            if admission.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is told to a controller that asks.
    pub(crate) fn identify(&self, asking: &IdentifyRequest) -> Result<IdentifyResponse, KvError> {
        let core = self.core();
        // Committed: what is not may yet be taken back.
        let (member, since) = self.with_metrics(|m| {
            let members = &m.committed_membership_config;
            let member = members.membership().get_node(&asking.node_id).map(|n| n.disk.to_vec());
            (member, members.log_id().as_ref().map_or(0, |id| id.index))
        });
        let disk = DiskId::try_from(asking.disk_id.as_slice()).ok();
        let mark = disk.map_or(Ok(None), |disk| marks::known(self, &disk))?;
        Ok(IdentifyResponse {
            node_id: core.options.node_id,
            disk_id: core.disk.to_vec(),
            empty: core.is_empty(),
            cluster_id: core.applied.cluster.read().map_or(Vec::new(), |id| id.to_vec()),
            member_disk: member.unwrap_or_default(),
            membership_index: since,
            mark: mark.map(|mark| streamhouse_proto::v1::DiskMark {
                term: mark.term,
                matched_term: mark.matched_term,
                matched_index: mark.matched_index,
            }),
        })
    }
}
