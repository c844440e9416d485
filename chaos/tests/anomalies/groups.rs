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
    pub(super) fn owns(self, process: u32) -> Self {
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

    pub(super) fn begins_poll(self, process: u32) -> Self {
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

#[test]
fn who_gets_a_partition_begins_where_its_group_had_got_to() {
    let sent = || Writer::default().acked(1, 0).acked(2, 1).acked(3, 2);
    let reads = [read(0, 1), read(1, 2), read(2, 3)];
    let polled = || sent().owns(2).begins_poll(2).poll(2, &reads);
    let next = |first: usize| {
        let committed = polled().commit(2, 1, true).disowns(2).owns(3);
        committed.begins_poll(3).poll(3, &reads[first..])
    };
    next(0).shows(AnomalyKind::OffsetCommitRegression);
    next(1).shows_nothing();
    next(2).shows(AnomalyKind::GroupSkip);
    // It asked to commit 2, and nobody knows whether that was done.
    let commit = || Operation::CommitOffset { group: "g".into(), at: AT, offset: 2, member: true };
    let asked = polled().commit(2, 1, true).event(2, Outcome::Invoke, commit());
    let asked = asked.event(2, Outcome::Info, commit()).disowns(2).owns(3).begins_poll(3);
    asked.poll(3, &reads[2..]).shows_nothing();
    // Of members that commit by themselves it is not known what they asked.
    polled().disowns(2).owns(3).begins_poll(3).poll(3, &reads[2..]).shows_nothing();
    let fetched = polled().fetch(2, Some(2)).disowns(2).owns(3).begins_poll(3);
    fetched.poll(3, &reads[1..]).shows(AnomalyKind::OffsetCommitRegression);
}

#[test]
fn a_fetch_that_begins_after_a_commit_was_answered_shows_it_whoever_asks() {
    let commit =
        |offset| Operation::CommitOffset { group: "g".into(), at: AT, offset, member: true };
    let fetch = |offset| Operation::FetchOffset { group: "g".into(), at: AT, offset };
    let after = |asked: bool| {
        let history = Writer::default().commit(2, 5, true).event(2, Outcome::Invoke, commit(9));
        let answered = (2, Outcome::Ok, commit(9));
        let asks = (3, Outcome::Invoke, fetch(None));
        let both = if asked { [answered, asks] } else { [asks, answered] };
        let history = both.into_iter().fold(history, |history, (process, outcome, operation)| {
            history.event(process, outcome, operation)
        });
        history.event(3, Outcome::Ok, fetch(Some(5)))
    };
    after(true).shows(AnomalyKind::OffsetCommitRegression);
    after(false).shows_nothing();
}

#[test]
fn a_commit_that_takes_an_offset_back_is_reported_though_nobody_fetches() {
    Writer::default()
        .commit(2, 9, true)
        .commit(3, 5, true)
        .shows(AnomalyKind::OffsetCommitRegression);
    Writer::default()
        .commit(2, 9, false)
        .commit(3, 5, false)
        .shows(AnomalyKind::OffsetCommitRegression);
    // Under way together: the one of 9 may have been the first.
    let commit = || Operation::CommitOffset { group: "g".into(), at: AT, offset: 5, member: false };
    Writer::default()
        .event(2, Outcome::Invoke, commit())
        .commit(3, 9, false)
        .event(2, Outcome::Ok, commit())
        .fetch(4, Some(5))
        .shows_nothing();
}

#[test]
fn a_commit_without_an_answer_explains_one_effect_of_its_own_value_and_none_before_it() {
    let late =
        |offset| Operation::CommitOffset { group: "g".into(), at: AT, offset, member: false };
    let asked =
        |writer: Writer| writer.event(2, Outcome::Invoke, late(5)).event(2, Outcome::Info, late(5));
    // Twice: it took effect before 9 was committed, and could not again.
    asked(Writer::default())
        .fetch(4, Some(5))
        .commit(3, 9, false)
        .fetch(4, Some(5))
        .shows(AnomalyKind::OffsetCommitRegression);
    asked(Writer::default())
        .commit(3, 9, false)
        .fetch(4, Some(5))
        .commit(3, 9, false)
        .fetch(4, Some(5))
        .shows(AnomalyKind::OffsetCommitRegression);
    // Another value.
    asked(Writer::default().commit(3, 9, false))
        .fetch(4, Some(4))
        .shows(AnomalyKind::OffsetCommitRegression);
    // Before it was asked.
    asked(Writer::default().commit(3, 9, false).fetch(4, Some(5)))
        .shows(AnomalyKind::OffsetCommitRegression);
    // Two who ask at once may both see it.
    let fetch = |offset| Operation::FetchOffset { group: "g".into(), at: AT, offset };
    asked(Writer::default())
        .commit(3, 9, false)
        .event(4, Outcome::Invoke, fetch(None))
        .event(5, Outcome::Invoke, fetch(None))
        .event(4, Outcome::Ok, fetch(Some(5)))
        .event(5, Outcome::Ok, fetch(Some(5)))
        .fetch(6, Some(5))
        .shows_nothing();
}

#[test]
fn a_commit_of_a_generation_that_is_over_is_reported() {
    // It never read; another one that got the partition later has committed it.
    let over = || Writer::default().owns(2).owns(3).commit(3, 1, true);
    over().commit(2, 1, true).shows(AnomalyKind::ZombieOffsetCommit);
    over().owns(2).commit(2, 1, true).shows_nothing();
    // Asked while it was its own.
    let commit = || Operation::CommitOffset { group: "g".into(), at: AT, offset: 1, member: true };
    Writer::default()
        .owns(2)
        .event(2, Outcome::Invoke, commit())
        .owns(3)
        .commit(3, 1, true)
        .event(2, Outcome::Ok, commit())
        .shows_nothing();
    // Of the later generation, after one of the earlier that comes to an end.
    Writer::default().owns(2).owns(3).commit(2, 1, true).commit(3, 1, true).shows_nothing();
}

#[test]
fn a_group_that_commits_past_the_end_of_the_log_is_reported() {
    let owned = || Writer::default().acked(1, 0).drain(&[read(0, 1)]).owns(2);
    let polled = || owned().begins_poll(2).poll(2, &[read(0, 1)]).entry(0, 0, 1, 7);
    polled().commit(2, 2, true).extent(0, 1).shows(AnomalyKind::GroupSkip);
    polled().commit(2, 1, true).extent(0, 1).shows_nothing();
}
