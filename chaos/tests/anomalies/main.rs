//! Is the checker awake? At least one known-bad history an anomaly, and good ones that come close.

mod form;
mod groups;
mod index;
mod records;
mod registers;
mod size;
mod table;
mod watermarks;

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
        self.event(process, Outcome::Ok, Operation::Poll { reads: reads.to_vec(), failure: None })
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
        self.asks_lease(0).hears_lease(0, lease(epoch, session, 0, high_watermark))
    }

    /// As one of several watchers.
    fn asks_lease(self, process: u32) -> Self {
        self.event(process, Outcome::Invoke, lease(0, 0, 0, 0))
    }

    fn hears_lease(self, process: u32, lease: Operation) -> Self {
        self.event(process, Outcome::Ok, lease)
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
        self.shows_all([kind]);
    }

    fn shows_all<const N: usize>(self, kinds: [AnomalyKind; N]) {
        let report = check(&self.0);
        assert_eq!(report.kinds(), kinds.into(), "{:#?}", report.anomalies);
        assert_eq!(report.undecided, Vec::<String>::new());
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

fn lease(epoch: u32, session: u64, log_start: u64, high_watermark: u64) -> Operation {
    Operation::Lease { at: AT, epoch, session, log_start, high_watermark }
}

fn of(text: &str) -> Answer {
    Answer::Value(text.to_owned())
}

fn three() -> Writer {
    let all = [read(0, 1), read(1, 2), read(2, 3)];
    Writer::default().acked(1, 0).acked(2, 1).acked(3, 2).drain(&all)
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
