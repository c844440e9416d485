//! Why a disk is not used any more: what anyone's word says against it.

use super::Own;
use super::answer::{Answer, Answers};
use super::members::Members;
use crate::raft::levels::TooOld;

/// Why this node's disk cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It lost entries or a vote that it had acknowledged.
    #[error(
        "the disk of controller {node} is behind what it had acknowledged: it ends at entry {has} \
         in term {term}, the cluster saw it hold entry {had} in term {had_term}; it is an old copy, \
         or was cut off. Let it rejoin as a learner: streamhouse controller repair --controllers \
         ADDR,... --rejoin-as-learner --data DIR"
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
         lost, let this one rejoin as a learner: streamhouse controller repair --controllers \
         ADDR,... --rejoin-as-learner --data DIR"
    )]
    OtherDisk(u64),
    /// It was removed from the cluster.
    #[error("controller {0} was removed from the cluster; its number is never used again")]
    Removed(u64),
    /// The cluster uses what its release does not read.
    #[error("controller {0}: {1}")]
    TooOld(u64, TooOld),
    /// Whoever answers belongs to another cluster.
    #[error(
        "controller {0} belongs to another cluster than the controllers at its peers' addresses"
    )]
    OtherCluster(u64),
}

/// What the members' memberships say against this node.
pub(crate) fn membership_refusal(own: &Own, answers: &Answers) -> Option<Refused> {
    let since = |members: &Members| members.at.map(|at| at.index);
    for members in answers.values().map(|answer| &answer.members) {
        let later = members.committed && since(members) > since(&own.committed);
        match members.disk_of(own.node) {
            Some(disk) if disk != own.disk && (own.blank() || later) => {
                return Some(Refused::OtherDisk(own.node));
            }
            // It was named once, and a later membership does not name it.
            None if later && own.committed.disk_of(own.node).is_some() => {
                return Some(Refused::Removed(own.node));
            }
            Some(_) | None => {}
        }
    }
    // Its own log says that it was removed. One that is only catching up was
    // not named yet.
    let own_says =
        own.was_member && own.committed.committed && own.committed.disk_of(own.node).is_none();
    let agrees = |answer: &Answer| answer.members.at >= own.committed.at;
    let removed = own_says
        && answers.values().any(agrees)
        && answers.values().all(|answer| answer.members.disk_of(own.node).is_none());
    removed.then_some(Refused::Removed(own.node))
}

/// SUBTLE: a log may be cut back rightly, by a leader of a later term; but a
/// disk that has accepted that leader has voted in its term. So entries count
/// only against a mark of the disk's own term. The first entry is never cut
/// back: a disk without any was never marked.
pub(super) fn behind(own: &Own, answer: &Answer) -> Option<Refused> {
    let mark = answer.mark?;
    let has = own.last.map_or((0, 0), |id| (id.leader_id.term, id.index));
    let had = (mark.matched_term, mark.matched_index);
    let lost =
        own.blank() || own.vote_term < mark.term || (own.vote_term == mark.term && has < had);
    lost.then_some(Refused::Behind {
        node: own.node,
        has: has.1,
        term: own.vote_term,
        had: had.1,
        had_term: mark.term,
    })
}
