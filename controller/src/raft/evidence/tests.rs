//! Disks and what is said of them.

use super::members::Place;
use super::*;
use crate::state::controllers::Mark;

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
    let first =
        with(1, |a| a.mark = Some(Mark { node: 3, term: 0, matched_term: 0, matched_index: 0 }));
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
fn another_disk_is_refused() {
    let other = Own { disk: disk(7), ..empty() };
    let refused = Verdict::Refuse(Refused::OtherDisk(3));
    assert_eq!(judge(&other, [answer(1)], false), refused);
}

#[test]
fn what_is_said_in_another_clusters_name_is_told_apart() {
    let ours = Own { cluster: Some([1; 16]), ..own() };
    let said = |cluster| with(1, |a| a.cluster = cluster).1;
    assert!(said(Some([2; 16])).is_foreign(&ours));
    assert!(!said(Some([1; 16])).is_foreign(&ours) && !said(None).is_foreign(&ours));
    assert!(!said(Some([2; 16])).is_foreign(&own()), "which cluster is its own, it does not know");
    // One that is just being founded has no name yet.
    let leads = |cluster| with(1, |a| (a.leads, a.cluster) = (true, cluster));
    assert!(waits(&judge(&ours, [leads(None)], false)));
    assert_eq!(judge(&ours, [leads(Some([1; 16]))], false), ADMITTED);
}

#[test]
fn a_release_that_does_not_read_the_clusters_level_is_refused() {
    let old = Own { reads: 1, ..own() };
    let too_old = TooOld { level: 2, reads: 1 };
    let refused = Verdict::Refuse(Refused::TooOld(3, too_old));
    assert_eq!(judge(&old, [answer(1)], false), refused);
    let before = with(1, |a| a.level = 1);
    assert!(waits(&judge(&Own { reads: 1, ..own() }, [before], false)));
}

#[test]
fn a_membership_travels_as_it_is() {
    for members in [Members::default(), three(), members(4, 8, &[&[1, 2], &[2, 300]])] {
        assert_eq!(Members::from_wire(members.to_wire()), members);
    }
}
