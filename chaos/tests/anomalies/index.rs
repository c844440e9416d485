//! The index of segments, their objects, and the leases under which they were written.

use streamhouse_chaos::{AnomalyKind, Operation};

use super::{Writer, lease, read};

/// A log of two entries, of two sessions with these epochs.
fn two_entries(first: u32, second: u32) -> Writer {
    Writer::default().entry(0, 0, first, 7).entry(1, 1, second, 8).extent(0, 2)
}

#[test]
fn a_dense_index_of_stored_objects_is_good() {
    Writer::default()
        .stored("object-0")
        .acked(1, 0)
        .drain(&[read(0, 1)])
        .entry(0, 4, 1, 7)
        .entry(5, 5, 2, 8)
        .extent(0, 6)
        .shows_nothing();
}

#[test]
fn a_log_that_was_trimmed_though_nothing_trims_is_reported() {
    Writer::default()
        .acked(1, 0)
        .drain(&[read(0, 1)])
        .entry(1, 5, 1, 7)
        .extent(1, 6)
        .shows(AnomalyKind::IndexGap);
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
fn an_object_that_is_deleted_after_somebody_looked_for_it_is_reported() {
    let deleted = || Operation::Deleted { object: "object-0".into() };
    Writer::default()
        .stored("object-0")
        .entry(0, 0, 1, 7)
        .extent(0, 1)
        .seen(deleted())
        .shows(AnomalyKind::PrematureDelete);
    // Nothing names it in the end: a deleted topic's, or one that was never committed.
    Writer::default()
        .stored("object-0")
        .stored("object-1")
        .seen(deleted())
        .entry(1, 1, 1, 7)
        .entry(2, 2, 1, 7)
        .shows_nothing();
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
fn the_lowest_of_all_later_watermarks_counts() {
    // Asked before the other one was answered: which of the two came first is not known.
    let history = || {
        let both = Writer::default().asks_lease(5).lease(2, 7, 9);
        both.hears_lease(5, lease(3, 9, 0, 5)).lease(4, 7, 20)
    };
    // Epoch 3 was seen at 5, below where epoch 2 had been seen: that is behind all of epoch 2's.
    let entries = |history: Writer, epoch| history.entry(0, 4, 1, 6).entry(5, 30, epoch, 7);
    entries(history(), 2).extent(0, 31).shows(AnomalyKind::StaleEpochCommit);
    entries(history(), 4).extent(0, 31).shows_nothing();
}

#[test]
fn an_epoch_that_goes_back_is_reported() {
    Writer::default().lease(3, 7, 0).lease(2, 8, 0).shows(AnomalyKind::EpochRegression);
}

#[test]
fn entries_whose_epochs_go_back_are_reported() {
    two_entries(2, 1).shows(AnomalyKind::EpochRegression);
}

#[test]
fn a_late_answer_to_an_early_question_is_no_regression() {
    Writer::default()
        .asks_lease(5)
        .lease(3, 8, 0)
        .hears_lease(5, lease(2, 7, 0, 0))
        .shows_nothing();
}

#[test]
fn one_epoch_with_two_sessions_is_reported() {
    Writer::default().lease(3, 7, 0).lease(3, 8, 0).shows(AnomalyKind::DoubleGrant);
}

#[test]
fn one_epoch_with_entries_of_two_sessions_is_reported() {
    two_entries(2, 2).shows(AnomalyKind::DoubleGrant);
}

#[test]
fn two_watchers_on_different_controllers_are_judged_together() {
    let both = |first: Operation, second: Operation| {
        Writer::default().asks_lease(5).hears_lease(5, first).asks_lease(6).hears_lease(6, second)
    };
    both(lease(3, 7, 0, 0), lease(3, 8, 0, 0)).shows(AnomalyKind::DoubleGrant);
    both(lease(3, 7, 0, 0), lease(2, 6, 0, 0)).shows(AnomalyKind::EpochRegression);
    both(lease(3, 7, 0, 9), lease(3, 7, 0, 8)).shows(AnomalyKind::WatermarkRegression);
    both(lease(3, 7, 0, 9), lease(4, 8, 0, 9)).shows_nothing();
    // Two sessions held it, whichever of the two answers came first.
    Writer::default()
        .asks_lease(5)
        .asks_lease(6)
        .hears_lease(6, lease(3, 8, 0, 0))
        .hears_lease(5, lease(3, 7, 0, 0))
        .shows(AnomalyKind::DoubleGrant);
}

#[test]
fn an_acknowledgement_whose_object_was_never_stored_is_reported() {
    let acked = |object| {
        let history = Writer::default().stored(object).acked(1, 0).drain(&[read(0, 1)]);
        history.entry(0, 0, 1, 7).extent(0, 1)
    };
    acked("object-0").shows_nothing();
    acked("another").shows(AnomalyKind::AckedBeforeDurable);
}

#[test]
fn an_acknowledged_record_of_a_partition_that_the_index_forgot_is_reported() {
    let other = streamhouse_chaos::Partition { topic: 0, partition: 1 };
    Writer::default()
        .acked(1, 0)
        .drain(&[read(0, 1)])
        .seen(Operation::Extent { at: other, log_start: 0, high_watermark: 0 })
        .shows(AnomalyKind::AckedBeforeDurable);
}
