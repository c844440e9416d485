//! What is no history voids the run: it is neither an anomaly nor a pass.

use streamhouse_chaos::{Answer, Ask, Event, History, Operation, Outcome, Partition, check, judge};

use super::{AT, Writer, lease, read, three, value};

impl Writer {
    fn cannot_be(self, why: &str) {
        let report = check(&self.0);
        assert_eq!(report.anomalies, []);
        assert!(report.undecided.iter().any(|one| one.contains(why)), "{:?}", report.undecided);
    }
}

fn send(at: Partition, offset: Option<u64>) -> Operation {
    Operation::Send { at, value: value(1), offset, fenced: false }
}

#[test]
fn an_answer_that_lacks_what_it_says_is_no_answer() {
    Writer::default().send(1, Outcome::Ok, None).cannot_be("line 2 of the history lacks");
    Writer::default()
        .asked(2, Ask::Read)
        .meta(2, Outcome::Ok, Ask::Read, None)
        .cannot_be("line 2 of the history lacks");
    // That nothing is committed is an answer.
    Writer::default().fetch(3, None).shows_nothing();
}

#[test]
fn an_answer_to_what_was_not_asked_is_none() {
    let unasked = "answers what was not asked";
    Writer::default().event(1, Outcome::Ok, send(AT, Some(0))).cannot_be(unasked);
    Writer::default().acked(1, 0).event(1, Outcome::Info, send(AT, None)).cannot_be(unasked);
    Writer::default().answered(2, Ask::Read, Answer::Absent).cannot_be(unasked);
    Writer::default().hears_lease(5, lease(1, 7, 0, 0)).cannot_be(unasked);
    let fetch = Operation::FetchOffset { group: "g".into(), at: AT, offset: Some(3) };
    Writer::default().event(2, Outcome::Ok, fetch).cannot_be(unasked);
    let other = Partition { topic: 0, partition: 1 };
    Writer::default()
        .event(1, Outcome::Invoke, send(AT, None))
        .event(1, Outcome::Ok, send(other, Some(0)))
        .cannot_be("answers another question");
    let commit =
        |offset| Operation::CommitOffset { group: "g".into(), at: AT, offset, member: true };
    Writer::default()
        .event(2, Outcome::Invoke, commit(3))
        .event(2, Outcome::Ok, commit(4))
        .cannot_be("answers another question");
}

#[test]
fn one_value_is_sent_once_and_one_process_begins_once() {
    Writer::default().acked(1, 0).acked(1, 0).cannot_be("was sent twice");
    Writer::default()
        .asked(2, Ask::Read)
        .asked(2, Ask::Read)
        .cannot_be("asks what is being asked already");
    let start = || Operation::Start { client: "x".into(), duplicates: false, follows: None };
    Writer::default()
        .event(1, Outcome::Ok, start())
        .event(1, Outcome::Ok, start())
        .cannot_be("begins a process a second time");
    // A look at leases that had no answer is taken again.
    Writer::default().asks_lease(5).asks_lease(5).shows_nothing();
}

#[test]
fn a_history_out_of_order_is_none() {
    let mut history = three().0;
    history.events[2].time_us = 0;
    let report = check(&history);
    assert_eq!(report.undecided, ["line 3 of the history is earlier than the one before it"]);
    // What failed has no reads.
    let poll = Operation::Poll { reads: vec![read(0, 1)], failure: None };
    three().event(2, Outcome::Fail, poll).cannot_be("did not succeed");
}

#[test]
fn so_many_lines_are_told_and_the_rest_counted() {
    let unasked = Operation::Probe { at: AT, problem: String::new() };
    let event = Event { time_us: 0, process: 1, outcome: Outcome::Ok, operation: unasked };
    let report = check(&History { events: vec![event; 100] });
    assert_eq!(report.undecided.len(), 21);
    assert_eq!(report.undecided[20], "80 more lines cannot be");
}

#[test]
fn a_history_that_ends_early_is_not_whole_wherever_it_was_cut() {
    let whole = three().seen(Operation::Drained).seen(Operation::Audited).0;
    assert!(whole.is_whole());
    let mut lines = Vec::new();
    whole.write(&mut lines).unwrap();
    for cut in 0..lines.len() - 2 {
        let Ok(history) = History::read(&lines[..cut]) else { panic!("cut at {cut}") };
        assert!(!history.is_whole(), "cut at {cut}");
    }
}

#[test]
fn a_whole_history_in_which_nothing_happened_proves_nothing() {
    let whole = |writer: Writer| judge(&writer.seen(Operation::Drained).seen(Operation::Audited).0);
    assert_eq!(whole(Writer::default()).undecided, ["nothing was acknowledged"]);
    assert_eq!(whole(three()).undecided, Vec::<String>::new());
}
