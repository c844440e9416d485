//! Changing who the controllers are, while they work.
//!
//! A new controller gets a number that none ever had, joins as a learner, and
//! is made a voter by whoever leads once it has caught up; if it takes
//! another's place, both happen in one joint change. A number is never given
//! to a second disk: a fresh log passes through every membership there ever
//! was, and under one that names it, it could elect itself.

use super::node::RaftNode;
use super::peers;
use super::types::{ControllerNode, DiskId, TypeConfig};
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _, RaftMetrics};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use streamhouse_proto::v1::IdentifyRequest;

/// How long a controller to be added may take to say who it is.
const IDENTIFY: Duration = Duration::from_secs(2);
const IDENTIFY_PAUSE: Duration = Duration::from_millis(100);
/// How often the leader looks for learners that have caught up.
const LOOK: Duration = Duration::from_millis(200);
/// A learner so many entries behind is as good as a voter.
const CAUGHT_UP: u64 = 1_000;
/// A member whose last answer is older may be gone.
const RECENT: Duration = Duration::from_secs(2);
/// A change that is not committed within this time may yet be.
const PATIENCE: Duration = Duration::from_secs(10);

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// `host:port`.
    pub address: String,
    /// Whether it votes; a learner does not yet.
    pub voter: bool,
    /// The member whose place it is about to take; 0 for none.
    pub replaces: u64,
}

/// A membership that was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes it.
    #[error("this controller does not lead")]
    NotLeader,
    /// There is no such member.
    #[error("there is no controller {0}")]
    Unknown(u64),
    /// Another controller has this number, address or place.
    #[error("{0}")]
    Conflict(String),
    /// The rest could not go on without it.
    #[error(
        "without controller {id} only {alive} of {voters} voters would answer, which is no majority; \
         bring another one back first"
    )]
    NoMajority {
        /// The one to be removed.
        id: u64,
        /// Voters that would be left and have answered lately.
        alive: usize,
        /// Voters that would be left.
        voters: usize,
    },
    /// Another change is under way. It may be tried again.
    #[error("another change of the membership is under way")]
    Busy,
    /// It may have been made, or may yet be.
    #[error("outcome of the change is unknown: {0}")]
    Indeterminate(String),
}

impl RaftNode {
    /// All members, by number.
    pub fn members(&self) -> Vec<Member> {
        self.with_metrics(|m| {
            let voters: BTreeSet<u64> = m.membership_config.voter_ids().collect();
            let nodes = m.membership_config.membership().nodes();
            let member = |(id, node): (&u64, &ControllerNode)| Member {
                id: *id,
                address: self.core().peers.address(*id, node).to_owned(),
                voter: voters.contains(id),
                replaces: node.replaces,
            };
            nodes.map(member).collect()
        })
    }

    /// Adds a learner, which will be made a voter (in the place of
    /// `replaces`, if that is not 0) once it has caught up. The same member
    /// may be added again.
    pub async fn add_member(
        &self,
        id: u64,
        address: &str,
        disk: DiskId,
        replaces: u64,
    ) -> Result<(), MembershipError> {
        let new = ControllerNode { address: address.to_owned(), disk, replaces };
        let conflict = self.with_metrics(|m| conflict(m, id, &new));
        match conflict {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        tracing::info!(id, address, replaces, "adding a controller as a learner");
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, new)]))).await
    }

    /// The number and disk of the controller that answers at `address`.
    pub async fn identify_at(&self, address: &str) -> Result<(u64, DiskId), MembershipError> {
        let silent = |why: String| {
            MembershipError::Conflict(format!("no controller answers at {address}: {why}"))
        };
        let mut client = peers::connect_once(address).map_err(|e| silent(e.to_string()))?;
        let mut why = String::from("timed out");
        let asking = async {
            loop {
                match client.identify(IdentifyRequest::default()).await {
                    Ok(answer) => return answer.into_inner(),
                    Err(status) => why = status.message().to_owned(),
                }
                // It may be about to start.
                tokio::time::sleep(IDENTIFY_PAUSE).await;
            }
        };
        let Ok(answer) = tokio::time::timeout(IDENTIFY, asking).await else {
            return Err(silent(why));
        };
        if let Some(own) = self.cluster_id()
            && !answer.cluster_id.is_empty()
            && answer.cluster_id != own
        {
            let what = format!("the controller at {address} belongs to another cluster");
            return Err(MembershipError::Conflict(what));
        }
        let disk = DiskId::try_from(answer.disk_id.as_slice());
        Ok((answer.node_id, disk.map_err(|_| silent("its disk id is malformed".into()))?))
    }

    /// Removes a member, voter or not. One that leads hands over first, and
    /// the caller must ask the new leader.
    pub async fn remove_member(&self, id: u64) -> Result<(), MembershipError> {
        let own = self.core().options.node_id;
        let (known, voter, left) = self.with_metrics(|m| {
            let known = m.membership_config.membership().get_node(&id).is_some();
            let voters: BTreeSet<u64> = m.membership_config.voter_ids().collect();
            let left: Vec<bool> = voters
                .iter()
                .filter(|voter| **voter != id)
                .map(|voter| *voter == own || answers(m, *voter))
                .collect();
            (known, voters.contains(&id), left)
        });
        if !known {
            return Err(MembershipError::Unknown(id));
        }
        if !voter {
            tracing::info!(id, "removing a learner");
            return self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
        }
        let alive = left.iter().filter(|alive| **alive).count();
        if alive * 2 <= left.len() {
            return Err(MembershipError::NoMajority { id, alive, voters: left.len() });
        }
        if id == own {
            self.hand_over().await;
            return Err(MembershipError::NotLeader);
        }
        tracing::info!(id, "removing a controller");
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
    }

    /// Hands the leadership to `to`, or to the voter that is furthest; the
    /// caller waits for [`RaftNode::leadership`].
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError> {
        if !self.leads() {
            return Err(MembershipError::NotLeader);
        }
        let Some(to) = to else {
            return match self.hand_over().await {
                true => Ok(()),
                false => Err(MembershipError::Conflict("there is no other voter".into())),
            };
        };
        if !self.with_metrics(|m| m.membership_config.voter_ids().any(|id| id == to)) {
            return Err(MembershipError::Unknown(to));
        }
        tracing::info!(to, "handing over the leadership");
        let asked = self.core().raft.trigger().transfer_leader(to).await;
        asked.map_err(|error| MembershipError::Indeterminate(error.to_string()))
    }

    async fn change(
        &self,
        changes: ChangeMembers<u64, ControllerNode>,
    ) -> Result<(), MembershipError> {
        let raft = self.core().raft.clone();
        // A task of its own: a change that has begun goes on to its end.
        let change =
            self.core().tasks.spawn(async move { raft.change_membership(changes, false).await });
        match tokio::time::timeout(PATIENCE, change).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(refused(error)),
            Ok(Err(error)) => Err(MembershipError::Indeterminate(error.to_string())),
            Err(_) => Err(MembershipError::Indeterminate("not committed in time".into())),
        }
    }
}

/// `Ok` if it is a member already, an error if it cannot be one.
fn conflict(
    metrics: &RaftMetrics<TypeConfig>,
    id: u64,
    new: &ControllerNode,
) -> Option<Result<(), MembershipError>> {
    let conflict = |what: String| Some(Err(MembershipError::Conflict(what)));
    let members = metrics.membership_config.membership();
    if let Some(member) = members.get_node(&id) {
        let asked_before = new.replaces == 0 || new.replaces == member.replaces;
        if member.disk == new.disk && asked_before {
            return Some(Ok(()));
        }
        if member.disk == new.disk {
            return match members.get_node(&new.replaces) {
                Some(_) => conflict(format!(
                    "controller {id} is a member already: remove controller {} instead",
                    new.replaces
                )),
                None => Some(Err(MembershipError::Unknown(new.replaces))),
            };
        }
        return conflict(format!("controller {id} is a member with another disk"));
    }
    for (other, member) in members.nodes() {
        if member.address == new.address && *other != new.replaces {
            return conflict(format!(
                "controller {other} has the address {0}; if its disk is lost, let this one take its \
                 place: streamhouse cluster replace-controller {other} {0}",
                new.address
            ));
        }
        if new.replaces != 0 && member.replaces == new.replaces {
            return conflict(format!(
                "controller {other} is about to take the place of {} already",
                new.replaces
            ));
        }
    }
    if new.replaces != 0 && members.get_node(&new.replaces).is_none() {
        return Some(Err(MembershipError::Unknown(new.replaces)));
    }
    None
}

/// It has answered the leader lately.
fn answers(metrics: &RaftMetrics<TypeConfig>, id: u64) -> bool {
    let acked = metrics.heartbeat.as_ref().and_then(|acked| acked.get(&id).copied().flatten());
    acked.is_some_and(|at| at.elapsed() < RECENT)
}

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MembershipError::NotLeader,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_) => MembershipError::Busy,
            error => MembershipError::Conflict(error.to_string()),
        },
        error => MembershipError::Indeterminate(error.to_string()),
    }
}

/// Makes learners voters while this node leads, until it stops.
pub(crate) async fn promote(node: RaftNode) {
    let core = node.core();
    let leadership = node.leadership();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = core.cancel.cancelled() => return,
        }
        if !leadership.borrow().is_leader {
            continue;
        }
        let Some((id, replaces)) = node.with_metrics(ready) else { continue };
        if replaces == core.options.node_id {
            tracing::info!(by = id, "another controller takes this one's place");
            node.hand_over().await;
            continue;
        }
        tracing::info!(id, replaces, "making a controller a voter");
        let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([id]))];
        if replaces != 0 {
            changes.push(ChangeMembers::RemoveVoters(BTreeSet::from([replaces])));
        }
        if let Err(error) = node.change(ChangeMembers::Batch(changes)).await {
            tracing::warn!(id, %error, "the controller was not made a voter yet");
        }
    }
}

/// A learner that has caught up, and the voter whose place it takes.
fn ready(metrics: &RaftMetrics<TypeConfig>) -> Option<(u64, u64)> {
    let last = metrics.last_log_index?;
    let replication = metrics.replication.as_ref()?;
    let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
    let members = metrics.membership_config.membership();
    let mut learners = members.nodes().filter(|(id, _)| !voters.contains(id));
    learners.find_map(|(id, member)| {
        let matched = replication.get(id).copied().flatten()?;
        let near = matched.index.saturating_add(CAUGHT_UP) >= last;
        let replaces = if voters.contains(&member.replaces) { member.replaces } else { 0 };
        (near && answers(metrics, *id)).then_some((*id, replaces))
    })
}
