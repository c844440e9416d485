//! Keys of the controllers, each a register that must be linearizable.

use streamhouse_chaos::{AnomalyKind, Answer, Ask, Operation, Outcome};

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
