//! Keys of the controllers, each a register that must be linearizable.

use streamhouse_chaos::{AnomalyKind, Answer, Ask, Operation, Outcome, check};

use super::{Writer, of};

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

/// A creation whose answer is lost.
fn maybe_created(history: Writer, process: u32) -> Writer {
    history.asked(process, Ask::Create).meta(process, Outcome::Info, Ask::Create, None)
}

#[test]
fn a_creation_without_an_answer_explains_one_value_once() {
    let seen = |value: &str| {
        let history = maybe_created(Writer::default(), 2).both(3, Ask::Read, of("x"));
        let gone = history.both(3, Ask::Delete, of("x"));
        maybe_created(gone, 4).both(3, Ask::Read, of(value))
    };
    // What was deleted is back; or the second creation has made another one.
    seen("x").shows(AnomalyKind::NonlinearizableMeta);
    seen("y").shows_nothing();
    // One creation, two values.
    maybe_created(Writer::default(), 2)
        .both(3, Ask::Read, of("x"))
        .both(3, Ask::Delete, of("x"))
        .both(3, Ask::Read, of("y"))
        .shows(AnomalyKind::NonlinearizableMeta);
    // The value of another creation.
    let other = Writer::default().both(3, Ask::Create, of("x")).both(3, Ask::Delete, of("x"));
    maybe_created(other, 2).both(3, Ask::Read, of("x")).shows(AnomalyKind::NonlinearizableMeta);
    // One whose answer came later than it was seen.
    maybe_created(Writer::default(), 2)
        .asked(4, Ask::Create)
        .both(3, Ask::Read, of("x"))
        .answered(4, Ask::Create, of("x"))
        .shows_nothing();
}

#[test]
fn a_creation_explains_nothing_before_it() {
    let early = Writer::default().both(3, Ask::Read, of("x"));
    maybe_created(early, 2).shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn what_was_created_is_never_created_again() {
    Writer::default()
        .both(2, Ask::Create, of("x"))
        .both(2, Ask::Delete, of("x"))
        .both(3, Ask::Create, of("x"))
        .shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn two_keys_of_one_value_are_reported() {
    let other = |answer| Operation::Meta { key: "other".into(), ask: Ask::Create, answer };
    Writer::default()
        .both(2, Ask::Create, of("x"))
        .event(3, Outcome::Invoke, other(None))
        .event(3, Outcome::Ok, other(Some(of("x"))))
        .shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn a_write_without_an_answer_comes_about_once_and_at_any_later_time() {
    let write = |text: &str| Ask::Write(text.to_owned());
    let maybe = || {
        let history = Writer::default().asked(2, write("b"));
        history.meta(2, Outcome::Info, write("b"), None).both(1, write("a"), of("a"))
    };
    // Also when its client is another process by then.
    maybe().both(2, Ask::Read, of("a")).both(3, Ask::Read, of("b")).shows_nothing();
    let twice = maybe().both(3, Ask::Read, of("b")).both(1, write("c"), of("c"));
    twice.both(3, Ask::Read, of("b")).shows(AnomalyKind::NonlinearizableMeta);
    let early = Writer::default().both(3, Ask::Read, of("b")).asked(2, write("b"));
    early.shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn a_write_that_was_answered_with_another_value_is_reported() {
    let write = Ask::Write("a".to_owned());
    Writer::default().both(1, write, of("b")).shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn many_operations_without_an_answer_are_decided_about() {
    // Hundreds of creations and deletions that may have happened, and each is needed.
    let mut history = Writer::default();
    for process in 0..200 {
        history = maybe_created(history, 1_000 + process);
        history = history.asked(2_000 + process, Ask::Delete).meta(
            2_000 + process,
            Outcome::Info,
            Ask::Delete,
            None,
        );
    }
    let mut seen = history;
    for at in 0..200 {
        seen =
            seen.both(3, Ask::Read, of(&format!("value {at}"))).both(3, Ask::Read, Answer::Absent);
    }
    let Writer(history) = &seen;
    let too_many = Writer(history.clone()).both(3, Ask::Read, of("one more"));
    seen.shows_nothing();
    too_many.shows(AnomalyKind::NonlinearizableMeta);
    // Writes of which each may come about at any time.
    let write = |at: u32| Ask::Write(at.to_string());
    let mut history = Writer::default();
    for at in 0..300 {
        history = history.asked(1_000 + at, write(at));
        history = history.meta(1_000 + at, Outcome::Info, write(at), None);
    }
    for at in (0..300).rev() {
        history = history.both(3, Ask::Read, of(&at.to_string()));
    }
    let Writer(seen) = &history;
    let again = Writer(seen.clone()).both(3, Ask::Read, of("7"));
    history.shows_nothing();
    again.shows(AnomalyKind::NonlinearizableMeta);
}

#[test]
fn what_is_too_much_to_decide_about_is_said_and_has_not_passed() {
    // All at once, and no order explains what is read in the end.
    let write = |at: u32| Ask::Write(at.to_string());
    let mut history = Writer::default();
    for at in 0..40 {
        history = history.asked(1_000 + at, write(at));
    }
    for at in 0..40 {
        history = history.answered(1_000 + at, write(at), of(&at.to_string()));
    }
    let report = check(&history.both(3, Ask::Read, of("none")).0);
    assert_eq!(report.undecided, ["too much happened to k: 41 operations"]);
}
