//! Is the checker awake? One known-bad history an anomaly, and a good one.

use streamhouse_chaos::{AnomalyKind, Event, History, Operation, Outcome, Read, Value, check};

#[derive(Default)]
struct Writer(History);

fn value(counter: u64) -> Value {
    Value { process: 1, counter }
}

fn read(offset: u64, counter: u64) -> Read {
    Read { partition: 0, offset, value: Some(value(counter)) }
}

impl Writer {
    fn event(mut self, process: u32, outcome: Outcome, operation: Operation) -> Self {
        let time_us = self.0.events.len() as u64;
        self.0.events.push(Event { time_us, process, outcome, operation });
        self
    }

    fn send(self, counter: u64, outcome: Outcome, offset: Option<u64>) -> Self {
        let send = |offset| Operation::Send { partition: 0, value: value(counter), offset };
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

    fn shows(self, kind: AnomalyKind) {
        let report = check(&self.0);
        assert_eq!(report.kinds(), [kind].into(), "{:#?}", report.anomalies);
    }
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
fn a_phantom_is_reported() {
    Writer::default().drain(&[read(0, 1)]).shows(AnomalyKind::PhantomRead);
}

#[test]
fn a_corrupt_payload_is_reported() {
    let corrupt = Read { partition: 0, offset: 0, value: None };
    Writer::default().drain(&[corrupt]).shows(AnomalyKind::CorruptRead);
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
fn a_history_survives_being_written_and_read() {
    let history = three().0;
    let mut file = Vec::new();
    history.write(&mut file).unwrap();
    assert_eq!(History::read(file.as_slice()).unwrap(), history);
}

#[test]
fn a_damaged_history_voids_the_run() {
    let error = History::read("{\"time_us\":1}\n".as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("line 1 of the history"), "{error}");
}
