//! Committed offsets and the members of groups.

use streamhouse_chaos::{AnomalyKind, Operation, Outcome};

use super::{AT, Writer, read};

#[test]
fn committed_offsets_that_grow_are_good() {
    Writer::default()
        .fetch(3, None)
        .commit(2, 5, false)
        .commit(2, 9, false)
        .fetch(3, Some(9))
        .shows_nothing();
}

#[test]
fn a_committed_offset_that_goes_back_is_reported() {
    Writer::default()
        .commit(2, 9, false)
        .fetch(3, Some(5))
        .shows(AnomalyKind::OffsetCommitRegression);
}

#[test]
fn a_committed_offset_that_is_forgotten_is_reported() {
    Writer::default().commit(2, 9, false).fetch(3, None).shows(AnomalyKind::OffsetCommitRegression);
}

#[test]
fn a_committed_offset_that_goes_back_is_reported_though_nobody_tells_of_commits() {
    Writer::default()
        .fetch(2, Some(150))
        .fetch(3, Some(129))
        .shows(AnomalyKind::OffsetCommitRegression);
    // The one was asked before the other was answered.
    let fetch = |offset| Operation::FetchOffset { group: "g".into(), at: AT, offset };
    Writer::default()
        .event(2, Outcome::Invoke, fetch(None))
        .fetch(3, Some(150))
        .event(2, Outcome::Ok, fetch(Some(129)))
        .shows_nothing();
}

#[test]
fn a_commit_without_membership_that_comes_late_is_no_regression() {
    let late = Operation::CommitOffset { group: "g".into(), at: AT, offset: 5, member: false };
    Writer::default()
        .event(2, Outcome::Invoke, late.clone())
        .event(2, Outcome::Info, late)
        .commit(3, 9, false)
        .fetch(3, Some(5))
        .shows_nothing();
}

/// Members of a group, each a process.
impl Writer {
    fn owns(self, process: u32) -> Self {
        let (group, at) = ("g".to_owned(), vec![AT]);
        self.event(process, Outcome::Ok, Operation::Subscribe { group: group.clone() }).event(
            process,
            Outcome::Ok,
            Operation::Own { group, at },
        )
    }

    fn disowns(self, process: u32) -> Self {
        self.event(process, Outcome::Ok, Operation::Disown { group: "g".into(), at: vec![AT] })
    }

    fn begins_poll(self, process: u32) -> Self {
        self.event(process, Outcome::Invoke, Operation::Poll { reads: Vec::new(), failure: None })
    }
}

#[test]
fn a_commit_of_a_member_that_had_lost_the_partition_is_reported() {
    let history = || {
        let both = Writer::default().acked(1, 0).acked(2, 1);
        both.owns(2).begins_poll(2).poll(2, &[read(0, 1)]).commit(2, 1, true)
    };
    let used = || history().owns(3).begins_poll(3).poll(3, &[read(1, 2)]);
    used().commit(2, 1, true).shows(AnomalyKind::ZombieOffsetCommit);
    // It got it again; or was under way when the other one got it.
    used().owns(2).commit(2, 1, true).shows_nothing();
    let commit = || Operation::CommitOffset { group: "g".into(), at: AT, offset: 1, member: true };
    history()
        .event(2, Outcome::Invoke, commit())
        .owns(3)
        .begins_poll(3)
        .poll(3, &[read(1, 2)])
        .event(2, Outcome::Ok, commit())
        .shows_nothing();
}

#[test]
fn a_partition_that_two_members_read_at_once_is_reported() {
    let sent = || Writer::default().acked(1, 0).acked(2, 1);
    let poll = |history: Writer, process, offset| {
        history.begins_poll(process).poll(process, &[read(offset, offset + 1)])
    };
    let both = poll(poll(sent().owns(2), 2, 0).owns(3), 3, 0);
    poll(both, 2, 1).shows(AnomalyKind::DoubleOwnership);
    sent().owns(2).disowns(2).poll(2, &[read(0, 1)]).shows(AnomalyKind::DoubleOwnership);
    // Both poll without a pause, so that each poll overlaps with one of the other's.
    let shared = || {
        let two =
            sent().acked(3, 2).owns(2).begins_poll(2).owns(3).poll(2, &[read(0, 1)]).begins_poll(3);
        two.begins_poll(2).poll(3, &[read(0, 1)]).begins_poll(3).poll(2, &[read(1, 2)])
    };
    shared().shows_nothing();
    shared().begins_poll(2).poll(2, &[read(2, 3)]).shows(AnomalyKind::DoubleOwnership);
    // Who gets it again may read it again.
    let again = poll(poll(sent().owns(2), 2, 0).owns(3), 3, 0);
    poll(again.disowns(2).disowns(3).owns(2), 2, 0).shows_nothing();
    // Chaos seed 101: one that was away hears that it got the partition when it has lost it already, and reads nothing.
    let late = poll(sent().owns(2), 2, 0).owns(3).disowns(3);
    poll(late, 2, 1).commit(2, 2, true).shows_nothing();
}

#[test]
fn a_group_that_commits_what_no_member_was_handed_is_reported() {
    let sent = || Writer::default().acked(1, 0).acked(2, 1).poll(9, &[read(0, 1), read(1, 2)]);
    sent().owns(2).poll(2, &[read(0, 1)]).fetch(2, Some(2)).shows(AnomalyKind::GroupSkip);
    // One member read the one, another the other.
    sent()
        .owns(2)
        .poll(2, &[read(0, 1)])
        .disowns(2)
        .owns(3)
        .poll(3, &[read(1, 2)])
        .commit(3, 2, true)
        .shows_nothing();
}
