//! What becomes of records: lost, twice, torn, out of order, skipped.

use streamhouse_chaos::{
    Alarm, AnomalyKind, Failure, Operation, Outcome, Partition, Read, Value, check,
};

use super::{AT, Writer, read, three, value};

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
fn what_was_read_once_and_is_gone_in_the_end_is_reported() {
    let polled = || Writer::default().acked(1, 0).acked(2, 1).poll(2, &[read(0, 1), read(1, 2)]);
    polled().drain(&[read(1, 2)]).shows(AnomalyKind::LostWrite);
    polled().drain(&[read(0, 1)]).shows(AnomalyKind::Unseen);
    polled().drain(&[read(0, 1), read(1, 2)]).shows_nothing();
    // Nobody got as far as the drain.
    polled().shows_nothing();
}

#[test]
fn a_record_in_another_partition_than_it_was_sent_to_is_reported() {
    let other = Partition { topic: 0, partition: 1 };
    let astray = Read { at: other, offset: 0, value: Some(value(1)) };
    let history = Writer::default().send(1, Outcome::Info, None);
    history.drain(&[astray]).shows(AnomalyKind::PhantomRead);
}

#[test]
fn a_duplicate_is_reported() {
    let twice = [read(0, 1), read(1, 1)];
    Writer::default().acked(1, 0).drain(&twice).shows(AnomalyKind::Duplicate);
}

#[test]
fn a_duplicate_of_a_client_that_may_is_counted_only() {
    let start =
        Operation::Start { client: "plain producer".into(), duplicates: true, follows: None };
    let twice = [read(0, 1), read(1, 1)];
    let history = Writer::default().event(1, Outcome::Ok, start).acked(1, 0).drain(&twice).0;
    assert_eq!(check(&history).anomalies, []);
    assert_eq!(check(&history).allowed_duplicates, 1);
}

#[test]
fn more_duplicates_than_the_client_knows_of_are_reported() {
    let start =
        Operation::Start { client: "plain producer".into(), duplicates: true, follows: None };
    let twice = [read(0, 1), read(1, 1), read(2, 2), read(3, 2)];
    let told = |most| {
        let repeated = Operation::Repeated { processes: vec![1], most };
        let history = Writer::default().event(1, Outcome::Ok, start.clone()).acked(1, 0);
        history.acked(2, 2).event(1, Outcome::Ok, repeated).drain(&twice)
    };
    told(1).shows(AnomalyKind::Duplicate);
    let history = told(2).0;
    assert_eq!(check(&history).anomalies, []);
}

#[test]
fn the_same_offset_of_another_topic_is_another_place() {
    let elsewhere = Partition { topic: 1, partition: 0 };
    let other = Read { at: elsewhere, offset: 0, value: Some(value(2)) };
    let send = Operation::Send { at: elsewhere, value: value(2), offset: None, fenced: false };
    Writer::default()
        .acked(1, 0)
        .event(1, Outcome::Invoke, send.clone())
        .event(1, Outcome::Info, send)
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
fn a_consumer_that_sought_goes_on_from_there_and_nowhere_else() {
    let sought = |offset| {
        let history = three().poll(2, &[read(0, 1), read(1, 2)]);
        history.event(2, Outcome::Ok, Operation::Seek { at: AT, offset })
    };
    sought(1).poll(2, &[read(1, 2), read(2, 3)]).shows_nothing();
    // What it had read ahead before it sought; what lies before where it sought.
    sought(0).poll(2, &[read(2, 3)]).shows(AnomalyKind::PollSkip);
    sought(1).poll(2, &[read(0, 1)]).shows(AnomalyKind::NonmonotonicPoll);
    // A partition that it has not sought in goes on as it was.
    let other = Partition { topic: 0, partition: 1 };
    three()
        .poll(2, &[read(0, 1)])
        .event(2, Outcome::Ok, Operation::Seek { at: other, offset: 7 })
        .poll(2, &[read(2, 3)])
        .shows(AnomalyKind::PollSkip);
}

#[test]
fn what_a_consumer_says_of_the_log_is_reported() {
    let failed = |history: Writer, alarm| {
        let failure = Some(Failure { alarm, text: "the log is not as it must be".to_owned() });
        history.event(2, Outcome::Fail, Operation::Poll { reads: Vec::new(), failure })
    };
    let fault = |name: &str| {
        let (fault, detail) = (name.to_owned(), String::new());
        Writer::default().seen(Operation::Fault { fault, detail })
    };
    failed(Writer::default(), Some(Alarm::IndexGap)).shows(AnomalyKind::IndexGap);
    failed(Writer::default(), Some(Alarm::MissingObject)).shows(AnomalyKind::DanglingIndex);
    failed(fault("kill-leader"), Some(Alarm::Corrupt)).shows(AnomalyKind::CorruptRead);
    // The store did that, or nobody knows.
    failed(fault("store-bit-flip"), Some(Alarm::Corrupt)).shows_nothing();
    failed(Writer::default(), Some(Alarm::Corrupt)).shows_nothing();
    failed(fault("kill-leader"), None).shows_nothing();
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
        let start =
            Operation::Start { client: "plain producer".into(), duplicates: true, follows: None };
        Writer::default().event(1, Outcome::Ok, start)
    };
    // The answer to the first was lost, and the acknowledged one is its second appearance.
    let reads = [read(0, 1), read(1, 2), read(2, 1)];
    start().acked(2, 1).acked(1, 2).drain(&reads).shows_nothing();
    let reads = [read(1, 2), read(2, 1)];
    start().acked(2, 1).acked(1, 2).drain(&reads).shows(AnomalyKind::NonmonotonicSend);
}

#[test]
fn a_client_keeps_the_order_of_its_sends_under_another_number() {
    let start = |process, follows| {
        let client = "idempotent producer".to_owned();
        let start = Operation::Start { client, duplicates: false, follows };
        move |history: Writer| history.event(process, Outcome::Ok, start)
    };
    let send = |process, outcome, offset| {
        let value = Value { process, counter: 1 };
        let send = Operation::Send { at: AT, value, offset, fenced: false };
        move |history: Writer| history.event(process, outcome, send)
    };
    let read =
        |offset, process| Read { at: AT, offset, value: Some(Value { process, counter: 1 }) };
    let history = |follows| {
        let first = send(1, Outcome::Invoke, None)(start(1, None)(Writer::default()));
        let both = send(2, Outcome::Invoke, None)(start(2, follows)(first));
        send(1, Outcome::Ok, Some(1))(send(2, Outcome::Ok, Some(0))(both))
            .drain(&[read(0, 2), read(1, 1)])
    };
    history(Some(1)).shows(AnomalyKind::NonmonotonicSend);
    history(None).shows_nothing();
}

#[test]
fn a_record_without_an_answer_keeps_its_place_among_those_of_its_producer() {
    let sent = |repeats| {
        let start =
            Operation::Start { client: "producer".into(), duplicates: repeats, follows: None };
        let history = Writer::default().event(1, Outcome::Ok, start);
        history.send(1, Outcome::Info, None).send(2, Outcome::Info, None)
    };
    let swapped = [read(0, 2), read(1, 1)];
    sent(false).drain(&swapped).shows(AnomalyKind::NonmonotonicSend);
    sent(false).drain(&[read(0, 1), read(1, 2)]).shows_nothing();
    sent(false)
        .acked(3, 1)
        .drain(&[read(0, 1), read(1, 3), read(2, 2)])
        .shows(AnomalyKind::NonmonotonicSend);
    // A plain producer's may come at any time.
    sent(true).drain(&swapped).shows_nothing();
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
fn a_record_that_was_read_and_never_acknowledged_must_stay() {
    let polled = || {
        let sent = Writer::default().send(1, Outcome::Info, None).acked(2, 1);
        sent.poll(2, &[read(0, 1), read(1, 2)])
    };
    polled().drain(&[read(1, 2)]).shows(AnomalyKind::LostWrite);
    polled().drain(&[read(0, 1), read(1, 2)]).shows_nothing();
    // A drain that jumps over it skips it like any poll, acknowledged or not.
    let skipped = polled().acked(3, 2).drain(&[read(0, 1), read(2, 3)]);
    skipped.shows_all([AnomalyKind::LostWrite, AnomalyKind::IntPollSkip]);
    // Nobody got as far as the drain.
    polled().shows_nothing();
    // At the end of the log.
    let last = || {
        let sent = Writer::default().acked(1, 0).send(2, Outcome::Info, None);
        sent.poll(2, &[read(0, 1), read(1, 2)])
    };
    last().drain(&[read(0, 1)]).shows(AnomalyKind::Unseen);
    // Another one lies in its place.
    let replaced = last().acked(4, 1).drain(&[read(0, 1), read(1, 4)]);
    replaced.shows(AnomalyKind::InconsistentOffsets);
}

#[test]
fn what_a_producer_was_told_before_it_was_replaced_must_be_there() {
    let start = |process, follows| {
        let client = "idempotent producer".to_owned();
        (process, Operation::Start { client, duplicates: false, follows })
    };
    let sent = |process| {
        let send = move |offset| Operation::Send {
            at: AT,
            value: Value { process, counter: 0 },
            offset,
            fenced: false,
        };
        move |history: Writer, offset| {
            let asked = history.event(process, Outcome::Invoke, send(None));
            asked.event(process, Outcome::Ok, send(Some(offset)))
        }
    };
    let history = || {
        let (process, began) = start(1, None);
        let first = sent(1)(Writer::default().event(process, Outcome::Ok, began), 0);
        let (process, began) = start(4, Some(1));
        let next = first.event(1, Outcome::Ok, Operation::Crash).event(process, Outcome::Ok, began);
        sent(4)(next, 1)
    };
    let other =
        |offset, process| Read { at: AT, offset, value: Some(Value { process, counter: 0 }) };
    history().drain(&[other(1, 4)]).shows(AnomalyKind::LostWrite);
    history().drain(&[other(0, 1)]).shows(AnomalyKind::Unseen);
    history().drain(&[other(0, 1), other(1, 4)]).shows_nothing();
}

#[test]
fn a_log_of_which_nothing_is_left_is_reported() {
    // A drain that finds every log to be empty has no reads to tell of.
    let history = Writer::default().acked(1, 0).poll(2, &[read(0, 1)]);
    history.seen(Operation::Drained).shows(AnomalyKind::Unseen);
}

#[test]
fn two_acknowledgements_of_one_offset_are_reported() {
    Writer::default().acked(1, 0).acked(2, 0).shows(AnomalyKind::InconsistentOffsets);
}

#[test]
fn a_send_explains_no_read_before_it() {
    let polled = Writer::default().poll(2, &[read(0, 1)]);
    polled.send(1, Outcome::Info, None).shows(AnomalyKind::PhantomRead);
    // Nor two, of a client that sends once.
    let twice = [read(0, 1), read(1, 1)];
    Writer::default().send(1, Outcome::Info, None).drain(&twice).shows(AnomalyKind::Duplicate);
}
