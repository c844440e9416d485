//! Changing who the controllers are, while they work.
//!
//! A new controller gets a number that none ever had, joins as a learner, and
//! is made a voter by whoever leads once it has caught up; if it takes
//! another's place, both happen in one joint change. A number is never given
//! to a second disk: a fresh log passes through every membership there ever
//! was, and under one that names it, it could elect itself.

mod addition;
mod heard;
mod promotion;

use super::node::RaftNode;
use super::peers;
use super::time;
use super::types::{ControllerNode, DiskId, LogId, StoredMembership, TypeConfig};
use addition::addition;
use heard::{heard, is_majority};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};
use std::collections::BTreeSet;
use std::time::Duration;
use streamhouse_proto::v1::IdentifyRequest;

pub(super) use heard::{Heard, answers, without};
pub(super) use promotion::promote;

/// How long a controller to be added may take to say who it is.
const IDENTIFY: Duration = Duration::from_secs(2);
const IDENTIFY_PAUSE: Duration = Duration::from_millis(100);
/// A member whose last answer is older may be gone.
const RECENT: Duration = Duration::from_secs(2);
/// A change that is not committed within this time may yet be.
const PATIENCE: Duration = Duration::from_secs(10);

type Membership = openraft::Membership<u64, ControllerNode>;
type Changes = ChangeMembers<u64, ControllerNode>;
/// The one change at a time.
type Alone = tokio::sync::OwnedMutexGuard<()>;

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
        let addition = self.with_metrics(|m| match unsettled(m) {
            true => Err(MembershipError::Busy),
            false => addition(m.membership_config.membership(), id, new),
        });
        let Some(changes) = addition? else {
            return Ok(());
        };
        tracing::info!(id, address, replaces, "adding a controller as a learner");
        self.change(self.alone()?, changes).await
    }

    /// The number and disk of the controller that answers at `address`, and
    /// the highest feature level that it reads.
    pub async fn identify_at(&self, address: &str) -> Result<(u64, DiskId, u32), MembershipError> {
        let silent = |why: String| {
            MembershipError::Conflict(format!("no controller answers at {address}: {why}"))
        };
        let mut client = peers::connect_once(address).map_err(|e| silent(e.to_string()))?;
        let mut why = String::from("timed out");
        let asking = async {
            loop {
                match client.identify(IdentifyRequest::default()).await {
                    Ok(answer) => return answer.into_inner(),
                    Err(status) if status.message().is_empty() => {
                        why = status.code().description().to_owned();
                    }
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
        let disk = disk.map_err(|_| silent("its disk id is malformed".into()))?;
        Ok((answer.node_id, disk, answer.reads_level))
    }

    /// Removes a member, voter or not. One that leads hands over first, and
    /// the caller must ask the new leader.
    pub async fn remove_member(&self, id: u64) -> Result<(), MembershipError> {
        let own = self.core().options.node_id;
        if !self.leads() {
            return Err(MembershipError::NotLeader);
        }
        // From the first look on: what is decided of these voters must hold for them.
        let alone = self.alone()?;
        let (member, voters) = self.with_metrics(|m| {
            if unsettled(m) {
                return Err(MembershipError::Busy);
            }
            let member = m.membership_config.membership().get_node(&id).is_some();
            Ok((member, m.membership_config.voter_ids().collect::<BTreeSet<_>>()))
        })?;
        if !member {
            return Err(MembershipError::Unknown(id));
        }
        if !voters.contains(&id) {
            tracing::info!(id, "removing a learner");
            return self.change(alone, ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
        }
        if voters.len() == 1 {
            return Err(conflict(format!(
                "controller {id} is the only one; add another one first"
            )));
        }
        let left = voters.into_iter().filter(|voter| *voter != id).collect();
        let heard = self.answering(left).await?;
        let since = *self.core().led_since.lock();
        let young = since.is_none_or(|at| time::now().saturating_duration_since(at) < RECENT);
        without(id, &heard, young)?;
        if id == own {
            self.hand_over().await;
            return Err(MembershipError::NotLeader);
        }
        tracing::info!(id, "removing a controller");
        self.change(alone, ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
    }

    /// Which of these voters answer from now on, as soon as they are a majority, or when that has had the time to come.
    /// What they said before does not count: one that was lost a moment ago was heard lately.
    async fn answering(&self, voters: Vec<u64>) -> Result<Vec<Heard>, MembershipError> {
        let (mut metrics, mut leadership) = (self.core().raft.metrics(), self.leadership());
        let own = Some(self.core().options.node_id);
        let (asked, until) = (time::now(), time::after(RECENT));
        loop {
            // One that hands over asks nobody any more, and hears nobody.
            if leadership.borrow_and_update().leader != own {
                return Err(MembershipError::NotLeader);
            }
            let heard: Vec<Heard> = {
                let (now, since) = (metrics.borrow_watched(), time::now() - asked);
                voters.iter().map(|voter| heard(&now, *voter, since)).collect()
            };
            if is_majority(&heard) {
                return Ok(heard);
            }
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return Ok(heard) },
                changed = leadership.changed() => if changed.is_err() { return Ok(heard) },
                () = tokio::time::sleep_until(until) => return Ok(heard),
            }
        }
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
        // One that is dead would be waited for, until the others elect somebody.
        if !is_majority(&self.answering(vec![to]).await?) {
            let what = format!("controller {to} does not answer, so the leadership stays here");
            return Err(MembershipError::Conflict(what));
        }
        tracing::info!(to, "handing over the leadership");
        let asked = self.core().raft.trigger().transfer_leader(to).await;
        asked.map_err(|error| MembershipError::Indeterminate(error.to_string()))
    }

    /// Held by who makes a change.
    fn alone(&self) -> Result<Alone, MembershipError> {
        self.core().changing.clone().try_lock_owned().map_err(|_| MembershipError::Busy)
    }

    /// Makes a change, to its end.
    async fn change(&self, alone: Alone, changes: Changes) -> Result<(), MembershipError> {
        let core = self.core();
        let at = || self.with_metrics(|m| *m.membership_config.log_id());
        let before = at();
        let node = self.clone();
        // A task of its own: a change that has begun goes on to its end.
        let change = core.tasks.spawn(async move {
            let outcome = node.core().raft.change_membership(changes, false).await;
            if let Ok(made) = &outcome {
                node.until_shown(made.log_id).await;
            }
            drop(alone);
            outcome
        });
        match tokio::time::timeout(PATIENCE, change).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(refused(error, at() != before)),
            Ok(Err(error)) => Err(MembershipError::Indeterminate(error.to_string())),
            Err(_) => Err(MembershipError::Indeterminate("not committed in time".into())),
        }
    }

    /// The metrics, by which the next change is judged, follow a little after
    /// what they tell of.
    async fn until_shown(&self, change: LogId) {
        let mut metrics = self.core().raft.metrics();
        let shown = async {
            while self.with_metrics(|m| *m.committed_membership_config.log_id() < Some(change))
                && metrics.changed().await.is_ok()
            {}
        };
        // One that is never shown is none that the next change may build on.
        let _ = tokio::time::timeout(RECENT, shown).await;
    }
}

/// The last change is not committed, or only half of it is.
fn unsettled(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let effective = &metrics.membership_config;
    metrics.committed_membership_config.log_id() != effective.log_id() || is_joint(effective)
}

fn is_joint(membership: &StoredMembership) -> bool {
    membership.membership().get_joint_config().len() > 1
}

fn conflict(what: String) -> MembershipError {
    MembershipError::Conflict(what)
}

/// `moved` says that the membership is not the one it was before.
pub(super) fn refused(
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    moved: bool,
) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) if !moved => {
            MembershipError::NotLeader
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => MembershipError::Busy,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_) => MembershipError::Busy,
            error => MembershipError::Conflict(error.to_string()),
        },
        error => MembershipError::Indeterminate(error.to_string()),
    }
}
