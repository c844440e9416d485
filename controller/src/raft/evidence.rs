//! What the others' answers prove of this node's disk, and when they are
//! enough: the decision of [`super::admission`], without its asking.
//!
//! Two things are enough.
//!
//! - A leader's word, confirmed by a majority after it was asked. This node
//!   did not take part in that majority, so all that is committed is with
//!   others; and what this disk acknowledged to that very leader, the leader
//!   remembers.
//! - Without a leader, the word of all voters, or of a majority once the
//!   silent ones were waited for. Only those count that can know something:
//!   with the disk of the membership, and a log on it.
//!
//! A disk without a log is let in by a leader only, or when a cluster is
//! founded: it would otherwise stand for whatever it may have held. Any sign
//! that the disk held more, from anyone, is enough against it.

mod answer;
mod members;
mod refusal;
#[cfg(test)]
mod tests;

pub(crate) use answer::{Answer, Answers};
pub(crate) use members::Members;
pub use refusal::Refused;
pub(crate) use refusal::membership_refusal;

use super::levels::TooOld;
use super::types::{DiskId, LogId};
use refusal::behind;
use std::collections::BTreeSet;

/// What this node knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) node: u64,
    pub(crate) disk: DiskId,
    pub(crate) cluster: Option<[u8; 16]>,
    pub(crate) vote_term: u64,
    /// The last entry that is on the disk.
    pub(crate) last: Option<LogId>,
    /// A committed membership has named it, with this disk.
    pub(crate) was_member: bool,
    pub(crate) committed: Members,
    pub(crate) effective: Members,
    /// The configured controllers, itself included.
    pub(crate) peers: BTreeSet<u64>,
    /// The highest feature level that it reads.
    pub(crate) reads: u32,
}

impl Own {
    /// There is no log on its disk; a vote at most.
    fn blank(&self) -> bool {
        self.last.is_none()
    }
}

/// What follows from the answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may take part, but must not vote in terms up to this one: its disk
    /// may have, and have forgotten.
    Admit { votes_above: u64 },
    /// It must not, ever.
    Refuse(Refused),
    /// Not yet, and why.
    Wait(String),
}

/// Judges the answers; `waited` says that the silent were waited for.
pub(crate) fn decide(own: &Own, answers: &Answers, waited: bool) -> Verdict {
    if let Some(refused) = membership_refusal(own, answers) {
        return Verdict::Refuse(refused);
    }
    // What is said in this cluster's name counts, whoever says it: the level
    // never falls.
    let level = answers.values().map(|answer| answer.level).max().unwrap_or(0);
    if level > own.reads {
        let too_old = TooOld { level, reads: own.reads };
        return Verdict::Refuse(Refused::TooOld(own.node, too_old));
    }
    if let Some(refused) = answers.values().find_map(|answer| behind(own, answer)) {
        return Verdict::Refuse(refused);
    }
    let highest = answers.values().filter(|a| a.knows).map(|a| a.term).max().unwrap_or(0);
    // What names its cluster, if it was applied here, a leader has applied too,
    // or will in a moment.
    let leads =
        |answer: &Answer| answer.leads && (own.cluster.is_none() || answer.cluster == own.cluster);
    if answers.values().any(|answer| leads(answer) && answer.term >= highest) {
        return Verdict::Admit { votes_above: if own.blank() { highest } else { 0 } };
    }
    match own.blank() {
        true => founded(own, answers),
        false => settled(own, answers, waited),
    }
}

/// The newest membership that anyone knows, this node included.
pub(crate) fn newest<'a>(own: &'a Own, answers: &'a Answers) -> &'a Members {
    let known = answers.values().map(|answer| &answer.members);
    // One without voters is an older release's, which names only this node.
    let known = known.filter(|members| !members.voters.is_empty());
    known.chain([&own.effective]).max_by_key(|members| members.at).unwrap_or(&own.effective)
}

/// A cluster that is being founded, for a disk without a log: nobody knows of
/// anything committed, and nobody is missing.
fn founded(own: &Own, answers: &Answers) -> Verdict {
    if answers.values().any(|answer| answer.members.committed) {
        let why = "its disk holds no log, and no leader vouches for it yet";
        return Verdict::Wait(why.into());
    }
    let members = newest(own, answers);
    let expected = own.peers.iter().chain(members.nodes.keys()).filter(|id| **id != own.node);
    let silent: BTreeSet<u64> = expected.filter(|id| !answers.contains_key(id)).copied().collect();
    if !silent.is_empty() {
        let silent = list(&silent);
        return Verdict::Wait(format!(
            "for a cluster to be founded, or to be added to one; no word from {silent}"
        ));
    }
    let nothing = own.vote_term == 0 && answers.values().all(|answer| answer.empty);
    let named = answers.values().any(|a| a.members.disk_of(own.node) == Some(own.disk));
    match nothing || named {
        true => Verdict::Admit { votes_above: 0 },
        false => Verdict::Wait("for a cluster to be founded, or to be added to one".into()),
    }
}

/// No leader is known: all voters have spoken, or enough of them after the
/// others were waited for.
fn settled(own: &Own, answers: &Answers, waited: bool) -> Verdict {
    let members = newest(own, answers);
    let voters: BTreeSet<u64> = members.voters.iter().flatten().copied().collect();
    let silent: BTreeSet<u64> =
        voters.into_iter().filter(|id| *id != own.node && !answers.contains_key(id)).collect();
    let counts = |id: &u64| {
        *id == own.node
            || answers.get(id).is_some_and(|a| a.knows && members.disk_of(*id) == Some(a.disk))
    };
    let majority = !members.voters.is_empty()
        && members
            .voters
            .iter()
            .all(|set| set.iter().filter(|id| counts(id)).count() * 2 > set.len());
    match (majority, silent.is_empty()) {
        (true, true) => Verdict::Admit { votes_above: 0 },
        (true, false) if waited => Verdict::Admit { votes_above: 0 },
        (true, false) => Verdict::Wait(format!("no word from {} yet", list(&silent))),
        (false, true) => Verdict::Wait("too few of the voters hold a log of this cluster".into()),
        (false, false) => Verdict::Wait(format!("for a majority; no word from {}", list(&silent))),
    }
}

fn list(ids: &BTreeSet<u64>) -> String {
    ids.iter().map(|id| format!("controller {id}")).collect::<Vec<_>>().join(", ")
}
