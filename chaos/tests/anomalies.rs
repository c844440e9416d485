//! Is the checker awake? At least one known-bad history an anomaly, and good ones that come close.

use std::collections::BTreeSet;

use streamhouse_chaos::{
    AnomalyKind, Answer, Ask, Event, History, Operation, Outcome, Partition, Read, Value, check,
};

const AT: Partition = Partition { topic: 0, partition: 0 };

#[derive(Default)]
struct Writer(History);

fn value(counter: u64) -> Value {
    Value { process: 1, counter }
}

fn read(offset: u64, counter: u64) -> Read {
    Read { at: AT, offset, value: Some(value(counter)) }
}

impl Writer {
    fn event(mut self, process: u32, outcome: Outcome, operation: Operation) -> Self {
        let time_us = self.0.events.len() as u64;
        self.0.events.push(Event { time_us, process, outcome, operation });
        self
    }

    fn seen(self, operation: Operation) -> Self {
        self.event(0, Outcome::Ok, operation)
    }

    fn send(self, counter: u64, outcome: Outcome, offset: Option<u64>) -> Self {
        let send =
            |offset| Operation::Send { at: AT, value: value(counter), offset, fenced: false };
        self.event(1, Outcome::Invoke, send(None)).event(1, outcome, send(offset))
    }

    fn acked(self, counter: u64, offset: u64) -> Self {
        self.send(counter, Outcome::Ok, Some(offset))
    }

    fn poll(self, process: u32, reads: &[Read]) -> Self {
        self.event(process, Outcome::Ok, Operation::Poll { reads: reads.to_vec() })
    }

    fn drain(self, reads: &[Read]) -> Self {
        self.event(9, Outcome::Ok, Operation::Drain { reads: reads.to_vec() })
    }

    fn entry(self, base: u64, last: u64, epoch: u32, session: u64) -> Self {
        let object = format!("object-{base}");
        self.seen(Operation::Entry { at: AT, base, last, epoch, session, object })
    }

    fn extent(self, log_start: u64, high_watermark: u64) -> Self {
        self.seen(Operation::Extent { at: AT, log_start, high_watermark })
    }

    fn stored(self, object: &str) -> Self {
        self.seen(Operation::Stored { object: object.to_owned() })
    }

    fn lease(self, epoch: u32, session: u64, high_watermark: u64) -> Self {
        let lease = |epoch, session| Operation::Lease { at: AT, epoch, session, high_watermark };
        self.event(0, Outcome::Invoke, lease(0, 0)).seen(lease(epoch, session))
    }

    fn commit(self, process: u32, offset: u64, member: bool) -> Self {
        let commit = Operation::CommitOffset { group: "g".into(), at: AT, offset, member };
        self.event(process, Outcome::Invoke, commit.clone()).event(process, Outcome::Ok, commit)
    }

    fn fetch(self, process: u32, offset: Option<u64>) -> Self {
        let fetch = |offset| Operation::FetchOffset { group: "g".into(), at: AT, offset };
        self.event(process, Outcome::Invoke, fetch(None)).event(process, Outcome::Ok, fetch(offset))
    }

    fn meta(self, process: u32, outcome: Outcome, ask: Ask, answer: Option<Answer>) -> Self {
        self.event(process, outcome, Operation::Meta { key: "k".into(), ask, answer })
    }

    fn asked(self, process: u32, ask: Ask) -> Self {
        self.meta(process, Outcome::Invoke, ask, None)
    }

    fn answered(self, process: u32, ask: Ask, answer: Answer) -> Self {
        self.meta(process, Outcome::Ok, ask, Some(answer))
    }

    fn both(self, process: u32, ask: Ask, answer: Answer) -> Self {
        self.asked(process, ask.clone()).answered(process, ask, answer)
    }

    fn shows(self, kind: AnomalyKind) {
        let report = check(&self.0);
        assert_eq!(report.kinds(), [kind].into(), "{:#?}", report.anomalies);
        let events = self.0.events.len();
        let proof = report.anomalies.iter().flat_map(|anomaly| &anomaly.events);
        assert!(proof.into_iter().all(|at| *at < events), "{:#?}", report.anomalies);
    }

    fn shows_nothing(self) {
        let report = check(&self.0);
        assert_eq!(report.anomalies, []);
        assert_eq!(report.undecided, Vec::<String>::new());
    }
}

fn of(text: &str) -> Answer {
    Answer::Value(text.to_owned())
}

#[test]
fn a_good_history_has_no_anomaly() {
    let history = Writer::default()
        .acked(1, 0)
        .send(2, Outcome::Info, None)
        .acked(3, 2)
        .send(4, Outcome::Fail, None)
        .poll(2, &[read(0, 1), read(1, 2)])
        .event(2, Outcome::Ok, Operation::Assign)
        .poll(2, &[read(0, 1), read(1, 2), read(2, 3)])
        .drain(&[read(0, 1), read(1, 2), read(2, 3)])
        .0;
    assert_eq!(check(&history).anomalies, []);
    assert_eq!(check(&history).acknowledged, 2);
}

#[test]
fn a_lost_write_is_reported() {
    Writer::default().acked(1, 0).acked(2, 1).drain(&[read(1, 2)]).shows(AnomalyKind::LostWrite);
}

#[test]
fn an_unseen_write_is_reported() {
    Writer::default().acked(1, 0).acked(2, 1).drain(&[read(0, 1)]).shows(AnomalyKind::Unseen);
}

#[test]
fn a_duplicate_is_reported() {
    let twice = [read(0, 1), read(1, 1)];
    Writer::default().acked(1, 0).drain(&twice).shows(AnomalyKind::Duplicate);
}

#[test]
fn a_duplicate_of_a_client_that_may_is_counted_only() {
    let start = Operation::Start { client: "plain producer".into(), duplicates: true };
    let twice = [read(0, 1), read(1, 1)];
    let history = Writer::default().event(1, Outcome::Ok, start).acked(1, 0).drain(&twice).0;
    assert_eq!(check(&history).anomalies, []);
    assert_eq!(check(&history).allowed_duplicates, 1);
}

#[test]
fn the_same_offset_of_another_topic_is_another_place() {
    let other = Read { at: Partition { topic: 1, partition: 0 }, offset: 0, value: Some(value(2)) };
    Writer::default()
        .acked(1, 0)
        .send(2, Outcome::Info, None)
        .drain(&[read(0, 1), other])
        .shows_nothing();
}

#[test]
fn an_offset_with_two_values_is_reported() {
    Writer::default()
        .acked(1, 0)
        .send(2, Outcome::Info, None)
        .poll(2, &[read(0, 1)])
        .poll(3, &[read(0, 2)])
        .shows(AnomalyKind::InconsistentOffsets);
}

#[test]
fn an_acknowledged_offset_with_another_value_is_reported() {
    Writer::default()
        .acked(1, 0)
        .send(2, Outcome::Info, None)
        .drain(&[read(0, 2)])
        .shows(AnomalyKind::InconsistentOffsets);
}

#[test]
fn a_read_of_a_failed_send_is_reported() {
    let history = Writer::default().send(1, Outcome::Fail, None);
    history.drain(&[read(0, 1)]).shows(AnomalyKind::G1a);
}

#[test]
fn a_write_that_was_answered_as_fenced_and_is_there_is_reported() {
    let send = |fenced| Operation::Send { at: AT, value: value(1), offset: None, fenced };
    Writer::default()
        .event(1, Outcome::Invoke, send(false))
        .event(1, Outcome::Fail, send(true))
        .drain(&[read(0, 1)])
        .shows(AnomalyKind::FalseFenced);
}

#[test]
fn a_phantom_is_reported() {
    Writer::default().drain(&[read(0, 1)]).shows(AnomalyKind::PhantomRead);
}

#[test]
fn a_corrupt_payload_is_reported() {
    let corrupt = Read { at: AT, offset: 0, value: None };
    Writer::default().drain(&[corrupt]).shows(AnomalyKind::CorruptRead);
}

#[test]
fn a_slice_that_is_not_what_the_index_says_is_reported() {
    let damaged =
        Operation::Damaged { object: "o".into(), at: AT, base: 0, problem: "checksum".into() };
    Writer::default().seen(damaged).shows(AnomalyKind::CorruptRead);
}

fn three() -> Writer {
    let all = [read(0, 1), read(1, 2), read(2, 3)];
    Writer::default().acked(1, 0).acked(2, 1).acked(3, 2).drain(&all)
}

#[test]
fn a_skip_between_polls_is_reported() {
    three().poll(2, &[read(0, 1)]).poll(2, &[read(2, 3)]).shows(AnomalyKind::PollSkip);
}

#[test]
fn a_step_back_between_polls_is_reported() {
    three()
        .poll(2, &[read(0, 1), read(1, 2)])
        .poll(2, &[read(1, 2)])
        .shows(AnomalyKind::NonmonotonicPoll);
}

#[test]
fn a_skip_inside_a_poll_is_reported() {
    three().poll(2, &[read(0, 1), read(2, 3)]).shows(AnomalyKind::IntPollSkip);
}

#[test]
fn a_step_back_inside_a_poll_is_reported() {
    let back = [read(0, 1), read(1, 2), read(0, 1)];
    three().poll(2, &back).shows(AnomalyKind::IntNonmonotonicPoll);
}

#[test]
fn sends_out_of_order_are_reported() {
    Writer::default()
        .acked(1, 1)
        .acked(2, 0)
        .drain(&[read(0, 2), read(1, 1)])
        .shows(AnomalyKind::NonmonotonicSend);
}

#[test]
fn a_client_that_repeats_keeps_the_order_of_first_appearances() {
    let start = || {
        let start = Operation::Start { client: "plain producer".into(), duplicates: true };
        Writer::default().event(1, Outcome::Ok, start)
    };
    // The answer to the first was lost, and the acknowledged one is its second appearance.
    let reads = [read(0, 1), read(1, 2), read(2, 1)];
    start().acked(2, 1).acked(1, 2).drain(&reads).shows_nothing();
    let reads = [read(1, 2), read(2, 1)];
    start().acked(2, 1).acked(1, 2).drain(&reads).shows(AnomalyKind::NonmonotonicSend);
}

#[test]
fn a_dense_index_of_stored_objects_is_good() {
    Writer::default()
        .stored("object-0")
        .acked(1, 0)
        .drain(&[read(0, 1)])
        .entry(0, 4, 1, 7)
        .entry(5, 5, 2, 8)
        .extent(2, 6)
        .shows_nothing();
}

#[test]
fn an_acknowledged_record_outside_the_index_is_reported() {
    Writer::default()
        .acked(1, 1)
        .drain(&[read(1, 1)])
        .entry(0, 0, 1, 7)
        .extent(0, 1)
        .shows(AnomalyKind::AckedBeforeDurable);
}

#[test]
fn an_acknowledgement_before_the_object_was_stored_is_reported() {
    Writer::default()
        .acked(1, 0)
        .stored("object-0")
        .drain(&[read(0, 1)])
        .entry(0, 0, 1, 7)
        .extent(0, 1)
        .shows(AnomalyKind::AckedBeforeDurable);
}

#[test]
fn a_gap_in_the_index_is_reported() {
    Writer::default().entry(0, 1, 1, 7).entry(3, 3, 1, 7).extent(0, 4).shows(AnomalyKind::IndexGap);
}

#[test]
fn an_index_that_ends_before_the_log_is_reported() {
    Writer::default().entry(0, 1, 1, 7).extent(0, 4).shows(AnomalyKind::IndexGap);
}

#[test]
fn an_overlap_in_the_index_is_reported() {
    let history = Writer::default().entry(0, 2, 1, 7).entry(2, 3, 1, 7);
    history.extent(0, 4).shows(AnomalyKind::IndexOverlap);
}

#[test]
fn an_indexed_object_that_is_missing_is_reported() {
    let missing = Operation::Missing { object: "object-0".into() };
    Writer::default()
        .entry(0, 0, 1, 7)
        .extent(0, 1)
        .seen(missing)
        .shows(AnomalyKind::DanglingIndex);
}

#[test]
fn an_indexed_object_that_was_deleted_is_reported() {
    Writer::default()
        .stored("object-0")
        .seen(Operation::Deleted { object: "object-0".into() })
        .entry(0, 0, 1, 7)
        .extent(0, 1)
        .seen(Operation::Missing { object: "object-0".into() })
        .shows(AnomalyKind::PrematureDelete);
}

#[test]
fn an_orphan_is_reported() {
    Writer::default()
        .seen(Operation::Orphan { object: "o".into() })
        .shows(AnomalyKind::OrphanObject);
}

#[test]
fn leases_that_move_on_are_good() {
    Writer::default()
        .lease(1, 7, 0)
        .lease(2, 8, 5)
        .lease(2, 8, 9)
        .entry(0, 4, 1, 7)
        .entry(5, 9, 2, 8)
        .extent(0, 10)
        .shows_nothing();
}

#[test]
fn an_entry_of_an_older_epoch_behind_a_newer_one_s_start_is_reported() {
    // Epoch 2 was seen when the log reached to 5; epoch 1 may have nothing from there on.
    Writer::default()
        .lease(2, 8, 5)
        .entry(0, 4, 1, 7)
        .entry(5, 9, 1, 7)
        .extent(0, 10)
        .shows(AnomalyKind::StaleEpochCommit);
}

#[test]
fn an_epoch_that_goes_back_is_reported() {
    Writer::default().lease(3, 7, 0).lease(2, 8, 0).shows(AnomalyKind::EpochRegression);
}

#[test]
fn entries_whose_epochs_go_back_are_reported() {
    let history = Writer::default().entry(0, 0, 2, 7).entry(1, 1, 1, 8);
    history.extent(0, 2).shows(AnomalyKind::EpochRegression);
}

#[test]
fn a_late_answer_to_an_early_question_is_no_regression() {
    let lease = |epoch, session| Operation::Lease { at: AT, epoch, session, high_watermark: 0 };
    Writer::default()
        .event(5, Outcome::Invoke, lease(0, 0))
        .lease(3, 8, 0)
        .event(5, Outcome::Ok, lease(2, 7))
        .shows_nothing();
}

#[test]
fn one_epoch_with_two_sessions_is_reported() {
    Writer::default().lease(3, 7, 0).lease(3, 8, 0).shows(AnomalyKind::DoubleGrant);
}

#[test]
fn one_epoch_with_entries_of_two_sessions_is_reported() {
    let history = Writer::default().entry(0, 0, 2, 7).entry(1, 1, 2, 8);
    history.extent(0, 2).shows(AnomalyKind::DoubleGrant);
}

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
        self.event(process, Outcome::Invoke, Operation::Poll { reads: Vec::new() })
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
fn a_send_of_a_producer_that_was_taken_over_from_is_reported() {
    let taken = Operation::TakeOver { from: 1 };
    Writer::default()
        .acked(1, 0)
        .event(2, Outcome::Ok, taken.clone())
        .acked(2, 1)
        .shows(AnomalyKind::ZombieSend);
    // Sent before, answered after.
    let send = |offset| Operation::Send { at: AT, value: value(1), offset, fenced: false };
    Writer::default()
        .event(1, Outcome::Invoke, send(None))
        .event(2, Outcome::Ok, taken)
        .event(1, Outcome::Ok, send(Some(0)))
        .shows_nothing();
}

#[test]
fn replicas_that_differ_are_reported() {
    let replica = |controller, applied, hash: &str| Operation::Replica {
        controller,
        applied,
        hash: hash.to_owned(),
    };
    Writer::default()
        .seen(replica(1, 10, "aa"))
        .seen(replica(2, 10, "aa"))
        .seen(replica(3, 11, "bb"))
        .shows_nothing();
    Writer::default()
        .seen(replica(1, 10, "aa"))
        .seen(replica(2, 10, "bb"))
        .shows(AnomalyKind::ReplicaDivergence);
}

#[test]
fn a_partition_that_stays_stuck_is_reported() {
    let probe = |problem: &str| Operation::Probe { at: AT, problem: problem.to_owned() };
    Writer::default()
        .event(9, Outcome::Invoke, probe(""))
        .event(9, Outcome::Info, probe("no acknowledgement"))
        .shows(AnomalyKind::StuckPartition);
}

#[test]
fn a_register_explained_by_overlapping_operations_is_good() {
    let write = |text: &str| Ask::Write(text.to_owned());
    // The write of b was under way while a was read, and then b, and then it was answered.
    Writer::default()
        .both(1, write("a"), of("a"))
        .asked(2, write("b"))
        .both(3, Ask::Read, of("a"))
        .both(3, Ask::Read, of("b"))
        .answered(2, write("b"), of("b"))
        .both(3, Ask::Read, of("b"))
        .shows_nothing();
}

#[test]
fn a_register_that_is_read_stale_is_reported() {
    let write = |text: &str| Ask::Write(text.to_owned());
    Writer::default()
        .both(1, write("a"), of("a"))
        .both(1, write("b"), of("b"))
        .both(3, Ask::Read, of("a"))
        .shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn a_register_that_goes_back_is_reported() {
    let write = |text: &str| Ask::Write(text.to_owned());
    // b may have been written or not, but not first so and then otherwise.
    Writer::default()
        .both(1, write("a"), of("a"))
        .asked(2, write("b"))
        .meta(2, Outcome::Info, write("b"), None)
        .both(3, Ask::Read, of("b"))
        .both(3, Ask::Read, of("a"))
        .shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn a_creation_whose_answer_was_lost_explains_what_is_seen_later() {
    Writer::default()
        .asked(2, Ask::Create)
        .meta(2, Outcome::Info, Ask::Create, None)
        .both(3, Ask::Read, Answer::Absent)
        .both(3, Ask::Create, Answer::Exists)
        .both(3, Ask::Read, of("x"))
        .both(3, Ask::Delete, of("x"))
        .both(3, Ask::Read, Answer::Absent)
        .shows_nothing();
}

#[test]
fn a_creation_that_failed_explains_nothing() {
    Writer::default()
        .asked(2, Ask::Create)
        .meta(2, Outcome::Fail, Ask::Create, None)
        .both(3, Ask::Read, of("x"))
        .shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn two_creations_of_one_key_are_reported() {
    Writer::default()
        .both(2, Ask::Create, of("x"))
        .both(3, Ask::Create, of("y"))
        .shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn keys_are_explained_each_by_itself() {
    let other = |outcome, answer| {
        (3, outcome, Operation::Meta { key: "other".into(), ask: Ask::Create, answer })
    };
    let history = Writer::default().both(2, Ask::Create, of("x"));
    let (process, outcome, operation) = other(Outcome::Invoke, None);
    let history = history.event(process, outcome, operation);
    let (process, outcome, operation) = other(Outcome::Ok, Some(of("y")));
    history.event(process, outcome, operation).shows_nothing();
}

#[test]
fn every_anomaly_has_a_name_of_its_own() {
    let names: BTreeSet<&str> = AnomalyKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), AnomalyKind::ALL.len());
    assert!(names.contains("G1a") && names.contains("nonlinearizable-meta"));
}

#[test]
fn a_history_survives_being_written_and_read() {
    let history = three()
        .lease(1, 7, 3)
        .commit(2, 3, true)
        .fetch(2, Some(3))
        .both(2, Ask::Create, of("x"))
        .entry(0, 2, 1, 7)
        .0;
    let mut file = Vec::new();
    history.write(&mut file).unwrap();
    assert_eq!(History::read(file.as_slice()).unwrap(), history);
}

#[test]
fn a_damaged_history_voids_the_run() {
    let error = History::read("{\"time_us\":1}\n".as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("line 1 of the history"), "{error}");
}
