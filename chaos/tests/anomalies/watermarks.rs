//! Where logs begin and end, as it was seen.

use streamhouse_chaos::{AnomalyKind, Outcome};

use super::{Writer, lease, read};

#[test]
fn watermarks_that_grow_are_good() {
    Writer::default()
        .lease(1, 7, 0)
        .acked(1, 0)
        .lease(1, 7, 1)
        .drain(&[read(0, 1)])
        .entry(0, 3, 1, 7)
        .extent(0, 4)
        .shows_nothing();
}

#[test]
fn a_high_watermark_that_goes_back_is_reported_whoever_saw_it() {
    Writer::default().lease(1, 7, 5).lease(1, 7, 4).shows(AnomalyKind::WatermarkRegression);
    let others = Writer::default().asks_lease(5).hears_lease(5, lease(1, 7, 0, 5));
    others.asks_lease(6).hears_lease(6, lease(1, 7, 0, 4)).shows(AnomalyKind::WatermarkRegression);
    // In the end, as the audit has it.
    let audited = Writer::default().lease(1, 7, 5).entry(0, 3, 1, 7).extent(0, 4);
    audited.shows(AnomalyKind::WatermarkRegression);
}

#[test]
fn reads_that_overlap_say_nothing_about_each_other() {
    Writer::default()
        .asks_lease(5)
        .asks_lease(6)
        .hears_lease(6, lease(1, 7, 0, 5))
        .hears_lease(5, lease(1, 7, 0, 4))
        .shows_nothing();
}

#[test]
fn a_high_watermark_that_is_not_past_what_was_acknowledged_or_read_is_reported() {
    Writer::default().acked(1, 5).lease(1, 7, 5).shows(AnomalyKind::WatermarkRegression);
    let maybe = || Writer::default().send(1, Outcome::Info, None);
    let polled = |high_watermark| maybe().poll(2, &[read(5, 1)]).lease(1, 7, high_watermark);
    polled(5).shows(AnomalyKind::WatermarkRegression);
    polled(6).shows_nothing();
    // What was asked before says nothing.
    let before = maybe().asks_lease(5).poll(2, &[read(5, 1)]);
    before.hears_lease(5, lease(1, 7, 0, 5)).shows_nothing();
}

#[test]
fn a_log_that_ends_before_what_was_read_is_reported() {
    let history = Writer::default().send(1, Outcome::Info, None).drain(&[read(4, 1)]);
    history.entry(0, 3, 1, 7).extent(0, 4).shows(AnomalyKind::WatermarkRegression);
}

/// Nothing trims the logs of a trial, so that a log start that goes back has gone too far before.
#[test]
fn a_log_start_that_goes_back_is_reported() {
    let trimmed = || Writer::default().asks_lease(5).hears_lease(5, lease(1, 7, 3, 5));
    trimmed().shows(AnomalyKind::IndexGap);
    let back = trimmed().asks_lease(6).hears_lease(6, lease(1, 7, 0, 5));
    back.shows_all([AnomalyKind::IndexGap, AnomalyKind::WatermarkRegression]);
}
