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

use super::levels::TooOld;
use super::types::{DiskId, LogId, StoredMembership};
use crate::state::controllers::Mark;
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_proto::v1;

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
    /// The cluster uses what its release does not read.
    #[error("controller {0}: {1}")]
    TooOld(u64, TooOld),
    /// The others belong to another cluster.
    #[error(
        "controller {0} belongs to another cluster than the controllers at its peers' addresses"
    )]
    OtherCluster(u64),
}

/// Where a member is, and on which disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) disk: DiskId,
}

/// A membership, as a node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// Where it is in the log.
    pub(crate) at: Option<LogId>,
    pub(crate) committed: bool,
    /// A majority of each is needed.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) nodes: BTreeMap<u64, Place>,
}

impl Members {
    pub(crate) fn new(stored: &StoredMembership, committed: bool) -> Self {
        let nodes = stored
            .membership()
            .nodes()
            .map(|(id, node)| (*id, Place { address: node.address.clone(), disk: node.disk }));
        Self {
            at: *stored.log_id(),
            committed,
            voters: stored.membership().get_joint_config().clone(),
            nodes: nodes.collect(),
        }
    }

    pub(crate) fn to_wire(&self) -> v1::KnownMembership {
        let (term, index) = self.at.map_or((0, 0), |at| (at.leader_id.term, at.index));
        let voters = self.voters.iter();
        let members = self.nodes.iter().map(|(id, place)| v1::KnownMember {
            id: *id,
            address: place.address.clone(),
            disk_id: place.disk.to_vec(),
        });
        v1::KnownMembership {
            term,
            index,
            committed: self.committed,
            voters: voters.map(|ids| v1::VoterSet { ids: ids.iter().copied().collect() }).collect(),
            members: members.collect(),
        }
    }

    fn from_wire(wire: v1::KnownMembership) -> Self {
        let nodes = wire.members.into_iter().filter_map(|member| {
            let disk = DiskId::try_from(member.disk_id.as_slice()).ok()?;
            Some((member.id, Place { address: member.address, disk }))
        });
        let nodes: BTreeMap<u64, Place> = nodes.collect();
        let at = (!nodes.is_empty()).then(|| LogId::new_term_index(wire.term, wire.index));
        let voters = wire.voters.into_iter().map(|set| set.ids.into_iter().collect());
        Self { at, committed: wire.committed, voters: voters.collect(), nodes }
    }

    pub(crate) fn disk_of(&self, node: u64) -> Option<DiskId> {
        self.nodes.get(&node).map(|place| place.disk)
    }
}

/// What one of the others said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) disk: DiskId,
    pub(crate) cluster: Option<[u8; 16]>,
    /// Its disk holds nothing at all.
    pub(crate) empty: bool,
    /// It can know what became of the cluster: it takes part, or holds a log,
    /// and was not refused itself.
    pub(crate) knows: bool,
    /// A majority confirmed, after it was asked, that it leads.
    pub(crate) leads: bool,
    pub(crate) term: u64,
    pub(crate) members: Members,
    /// How far it saw the asking disk get.
    pub(crate) mark: Option<Mark>,
    /// The feature level of its state, 0 if that has none.
    pub(crate) level: u32,
}

impl Answer {
    /// Who answered, and what; `None` if that makes no sense.
    pub(crate) fn read(wire: v1::IdentifyResponse, own: u64) -> Option<(u64, Self)> {
        // Older releases say less: whoever holds something counts.
        let standing = wire
            .standing
            .unwrap_or(v1::Standing { holds_log: !wire.empty, ..v1::Standing::default() });
        let members = match wire.membership {
            Some(members) => Members::from_wire(members),
            None => named(own, &wire.member_disk, wire.membership_index),
        };
        let mark = wire.mark.map(|mark| Mark {
            node: own,
            term: mark.term,
            matched_term: mark.matched_term,
            matched_index: mark.matched_index,
        });
        let answer = Self {
            disk: DiskId::try_from(wire.disk_id.as_slice()).ok()?,
            cluster: <[u8; 16]>::try_from(wire.cluster_id.as_slice()).ok(),
            empty: wire.empty,
            knows: (standing.admitted || standing.holds_log) && !standing.refused,
            leads: standing.leads,
            term: standing.term,
            members,
            mark,
            level: wire.feature_level,
        };
        Some((wire.node_id, answer))
    }
}

/// All that an older release says of its membership.
fn named(own: u64, disk: &[u8], index: u64) -> Members {
    let disk = DiskId::try_from(disk).ok();
    let place = disk.map(|disk| (own, Place { address: String::new(), disk }));
    let at = (index > 0).then(|| LogId::new_term_index(0, index));
    let nodes = place.into_iter().collect();
    Members { at, committed: index > 0, voters: Vec::new(), nodes }
}

/// The latest answers of the others, by number.
pub(crate) type Answers = BTreeMap<u64, Answer>;

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
    if answers.values().any(|answer| answer.leads && answer.term >= highest) {
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

/// What the members' memberships say against this node.
pub(crate) fn membership_refusal(own: &Own, answers: &Answers) -> Option<Refused> {
    let in_another = |answer: &Answer| match (own.cluster, answer.cluster) {
        (Some(own), Some(other)) => own != other,
        _ => false,
    };
    if answers.values().any(in_another) {
        return Some(Refused::OtherCluster(own.node));
    }
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
fn behind(own: &Own, answer: &Answer) -> Option<Refused> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(node: u64) -> DiskId {
        [node as u8; 16]
    }

    fn members(term: u64, index: u64, voters: &[&[u64]]) -> Members {
        let sets = voters.iter().map(|set| set.iter().copied().collect());
        let place = |id: &u64| (*id, Place { address: format!("c{id}:1"), disk: disk(*id) });
        Members {
            at: Some(LogId::new_term_index(term, index)),
            committed: true,
            voters: sets.collect(),
            nodes: voters.iter().flat_map(|set| set.iter()).map(place).collect(),
        }
    }

    fn three() -> Members {
        members(0, 0, &[&[1, 2, 3]])
    }

    /// Controller 3, which holds entry 10 of term 5.
    fn own() -> Own {
        Own {
            node: 3,
            disk: disk(3),
            cluster: None,
            vote_term: 5,
            last: Some(LogId::new_term_index(5, 10)),
            was_member: true,
            committed: three(),
            effective: three(),
            peers: BTreeSet::from([1, 2, 3]),
            reads: 2,
        }
    }

    /// The same with a disk that nothing was written to.
    fn empty() -> Own {
        let (committed, effective) = (Members::default(), Members::default());
        Own { vote_term: 0, last: None, was_member: false, committed, effective, ..own() }
    }

    fn answer(node: u64) -> (u64, Answer) {
        let answer = Answer {
            disk: disk(node),
            cluster: None,
            empty: false,
            knows: true,
            leads: false,
            term: 5,
            members: three(),
            mark: None,
            level: 2,
        };
        (node, answer)
    }

    fn with(node: u64, change: impl FnOnce(&mut Answer)) -> (u64, Answer) {
        let (node, mut answer) = answer(node);
        change(&mut answer);
        (node, answer)
    }

    fn empty_answer(node: u64) -> (u64, Answer) {
        with(node, |a| {
            (a.empty, a.knows, a.term, a.members) = (true, false, 0, Members::default());
        })
    }

    fn mark(term: u64, matched_index: u64) -> Option<Mark> {
        Some(Mark { node: 3, term, matched_term: term, matched_index })
    }

    fn judge<const N: usize>(own: &Own, answers: [(u64, Answer); N], waited: bool) -> Verdict {
        decide(own, &Answers::from(answers), waited)
    }

    const ADMITTED: Verdict = Verdict::Admit { votes_above: 0 };

    fn waits(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Wait(_))
    }

    fn is_behind(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Refuse(Refused::Behind { .. }))
    }

    #[test]
    fn a_disk_without_a_log_that_was_ever_marked_is_refused() {
        let marked = || with(1, |a| (a.leads, a.mark) = (true, mark(5, 0)));
        assert!(is_behind(&judge(&empty(), [marked()], false)));
        // A copy that holds a vote, even a later one, is no better.
        let voted = Own { vote_term: 9, ..empty() };
        assert!(is_behind(&judge(&voted, [marked()], false)));
        let first = with(1, |a| {
            a.mark = Some(Mark { node: 3, term: 0, matched_term: 0, matched_index: 0 })
        });
        assert!(is_behind(&judge(&empty(), [first], false)));
    }

    #[test]
    fn a_disk_without_a_log_takes_part_on_a_leaders_word_only() {
        for own in [empty(), Own { vote_term: 1, ..empty() }] {
            // That all others name it, and never saw more of it, is not enough.
            assert!(waits(&judge(&own, [answer(1), answer(2)], true)));
            let leader = with(2, |a| a.leads = true);
            // It may have voted in the leader's term, and have forgotten.
            assert_eq!(judge(&own, [leader], false), Verdict::Admit { votes_above: 5 });
        }
    }

    #[test]
    fn empty_disks_found_a_cluster_when_none_is_missing() {
        assert!(waits(&judge(&empty(), [empty_answer(1)], true)));
        assert_eq!(judge(&empty(), [empty_answer(1), empty_answer(2)], false), ADMITTED);
        // Who has voted already, and died before the first entry, is named by
        // the membership that the founder has not committed.
        let founding = Members { committed: false, ..three() };
        let founder = || with(1, |a| (a.members, a.term) = (founding.clone(), 1));
        let voted = Own { vote_term: 1, ..empty() };
        let other = || with(2, |a| (a.knows, a.members) = (false, Members::default()));
        assert_eq!(judge(&voted, [founder(), other()], false), ADMITTED);
        assert!(waits(&judge(&voted, [founder()], true)));
        // And the founder, which holds that entry, once the others take part.
        let founded = Own { node: 1, disk: disk(1), committed: Members::default(), ..own() };
        let founded = Own { effective: founding.clone(), was_member: false, ..founded };
        let admitted = |id| with(id, |a| a.members = Members::default());
        assert_eq!(judge(&founded, [admitted(2), admitted(3)], false), ADMITTED);
    }

    #[test]
    fn the_first_majority_does_not_decide_before_all_were_waited_for() {
        assert!(waits(&judge(&own(), [answer(2)], false)));
        assert_eq!(judge(&own(), [answer(1), answer(2)], false), ADMITTED);
        assert_eq!(judge(&own(), [answer(2)], true), ADMITTED);
        // What anyone saw counts, whatever the others say.
        let saw = with(1, |a| a.mark = mark(5, 11));
        assert!(is_behind(&judge(&own(), [answer(2), saw], true)));
        let later = with(1, |a| a.mark = mark(6, 3));
        assert!(is_behind(&judge(&own(), [answer(2), later], true)));
        let held = with(1, |a| a.mark = mark(5, 10));
        assert_eq!(judge(&own(), [answer(2), held], false), ADMITTED);
    }

    #[test]
    fn those_who_can_know_nothing_do_not_count() {
        let other_disk = || with(2, |a| a.disk = disk(9));
        let without_a_log = || with(2, |a| a.knows = false);
        for second in [empty_answer(2), other_disk(), without_a_log()] {
            let first = with(1, |a| a.knows = false);
            assert!(waits(&judge(&own(), [first, second.clone()], true)));
            // They are not waited for, either.
            assert_eq!(judge(&own(), [answer(1), second], false), ADMITTED);
        }
    }

    #[test]
    fn a_confirmed_leaders_word_is_enough() {
        let leader = || with(1, |a| a.leads = true);
        assert_eq!(judge(&own(), [leader()], false), ADMITTED);
        let saw = with(1, |a| (a.leads, a.mark) = (true, mark(5, 11)));
        assert!(is_behind(&judge(&own(), [saw], false)));
        // Not when somebody has heard of a later term.
        let later = with(2, |a| a.term = 6);
        let of_five = Own { effective: members(0, 0, &[&[1, 2, 3, 4, 5]]), ..own() };
        assert!(waits(&judge(&of_five, [leader(), later], false)));
    }

    #[test]
    fn the_newest_membership_says_who_is_needed() {
        let now = || members(5, 9, &[&[3, 4, 5]]);
        let of = |id| with(id, |a| a.members = now());
        assert_eq!(newest(&own(), &Answers::from([of(4)])), &now());
        // Controllers 1 and 2 were replaced, and are missed no more.
        assert!(waits(&judge(&own(), [of(4)], false)));
        assert_eq!(judge(&own(), [of(4), of(5)], false), ADMITTED);
        // While a change is under way, of both voter sets.
        let joint = members(5, 9, &[&[1, 2, 3], &[3, 4, 5]]);
        let of = |id| with(id, |a| a.members = joint.clone());
        assert!(waits(&judge(&own(), [of(4), of(5)], true)));
        assert_eq!(judge(&own(), [of(1), of(4)], true), ADMITTED);
    }

    #[test]
    fn only_who_was_a_member_was_removed() {
        let without = || with(1, |a| a.members = members(5, 9, &[&[1, 2]]));
        let removed = Verdict::Refuse(Refused::Removed(3));
        // It did not see it, or it did.
        assert_eq!(judge(&own(), [without()], false), removed);
        let saw = Own { committed: members(5, 9, &[&[1, 2]]), ..own() };
        assert_eq!(judge(&saw, [without()], false), removed);
        // One that catches up, and whose addition comes late, was not.
        let joins = Own { was_member: false, ..saw };
        assert!(waits(&judge(&joins, [without()], false)));
        let leader = with(1, |a| (a.leads, a.members) = (true, members(5, 9, &[&[1, 2]])));
        assert_eq!(judge(&joins, [leader], false), ADMITTED);
    }

    #[test]
    fn another_disk_and_another_cluster_are_refused() {
        let other = Own { disk: disk(7), ..empty() };
        let refused = Verdict::Refuse(Refused::OtherDisk(3));
        assert_eq!(judge(&other, [answer(1)], false), refused);
        let own = Own { cluster: Some([1; 16]), ..own() };
        let foreign = with(1, |a| (a.leads, a.cluster) = (true, Some([2; 16])));
        assert_eq!(judge(&own, [foreign], false), Verdict::Refuse(Refused::OtherCluster(3)));
    }

    #[test]
    fn a_release_that_does_not_read_the_clusters_level_is_refused() {
        let old = Own { reads: 1, ..own() };
        let too_old = TooOld { level: 2, reads: 1 };
        let refused = Verdict::Refuse(Refused::TooOld(3, too_old));
        assert_eq!(judge(&old, [answer(1)], false), refused);
        // Another cluster's level says nothing.
        let old = Own { cluster: Some([1; 16]), ..old };
        let foreign = with(1, |a| a.cluster = Some([2; 16]));
        assert_eq!(judge(&old, [foreign], false), Verdict::Refuse(Refused::OtherCluster(3)));
        let before = with(1, |a| a.level = 1);
        assert!(waits(&judge(&Own { reads: 1, ..own() }, [before], false)));
    }

    #[test]
    fn a_membership_travels_as_it_is() {
        for members in [Members::default(), three(), members(4, 8, &[&[1, 2], &[2, 300]])] {
            assert_eq!(Members::from_wire(members.to_wire()), members);
        }
    }
}
