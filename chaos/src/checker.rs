//! The log workload's checker: linear in the history's size, but for sorting.
//!
//! Every fact is taken from the history alone: what was acknowledged, what
//! was read, and in which order. A record acknowledged but not in the final
//! drain is `lost-write` if something behind it was read, `unseen` if not.

use crate::history::{Event, History, Operation, Outcome, Read, Value};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Names of anomalies, as reports show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnomalyKind {
    /// Acknowledged, an offset beyond it was read, it never was.
    LostWrite,
    /// Acknowledged, nobody had read it after the final drain.
    Unseen,
    /// One value at two offsets.
    Duplicate,
    /// One offset, two values.
    InconsistentOffsets,
    /// A read of a send that certainly failed.
    G1a,
    /// Read, but never sent.
    PhantomRead,
    /// A payload that no process sends.
    CorruptRead,
    /// One consumer jumps over known records between polls.
    PollSkip,
    /// One consumer goes back between polls.
    NonmonotonicPoll,
    /// One poll jumps over known records.
    IntPollSkip,
    /// One poll goes back.
    IntNonmonotonicPoll,
    /// A process's acknowledged sends to one partition lie out of order.
    NonmonotonicSend,
}

/// One anomaly, with what proves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// Its name.
    pub kind: AnomalyKind,
    /// The proof in words.
    pub detail: String,
    /// Positions in the history of the operations that prove it.
    pub events: Vec<usize>,
}

/// The verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Sends acknowledged.
    pub acknowledged: u64,
    /// Records read.
    pub reads: u64,
    /// Everything found.
    pub anomalies: Vec<Anomaly>,
}

impl Report {
    /// The kinds found, each once.
    pub fn kinds(&self) -> BTreeSet<AnomalyKind> {
        self.anomalies.iter().map(|anomaly| anomaly.kind).collect()
    }
}

type Place = (u32, u64);

/// What the history says about sends and reads, gathered in one pass.
#[derive(Default)]
struct Facts {
    invoked: HashSet<Value>,
    failed: HashMap<Value, usize>,
    acked: Vec<(usize, u32, Value, u64)>,
    /// Every offset read: the first value seen there, and where.
    log: BTreeMap<Place, (Value, usize)>,
    drained: bool,
    report: Report,
}

impl Facts {
    fn found(&mut self, kind: AnomalyKind, detail: String, events: Vec<usize>) {
        self.report.anomalies.push(Anomaly { kind, detail, events });
    }

    fn gather(&mut self, at: usize, event: &Event) {
        match (&event.operation, event.outcome) {
            (Operation::Send { value, .. }, Outcome::Invoke) => {
                self.invoked.insert(*value);
            }
            (Operation::Send { value, .. }, Outcome::Fail) => {
                self.failed.insert(*value, at);
            }
            (Operation::Send { partition, value, offset: Some(offset) }, Outcome::Ok) => {
                self.report.acknowledged += 1;
                self.acked.push((at, *partition, *value, *offset));
            }
            (Operation::Poll { reads }, Outcome::Ok) => self.gather_reads(at, reads),
            (Operation::Drain { reads }, Outcome::Ok) => {
                self.drained = true;
                self.gather_reads(at, reads);
            }
            _ => {}
        }
    }

    fn gather_reads(&mut self, at: usize, reads: &[Read]) {
        for read in reads {
            self.report.reads += 1;
            let place = (read.partition, read.offset);
            let Some(value) = read.value else {
                let detail = format!("{}@{} is no process's payload", place.0, place.1);
                self.found(AnomalyKind::CorruptRead, detail, vec![at]);
                continue;
            };
            match self.log.get(&place) {
                Some((first, seen)) if *first != value => {
                    let (seen, detail) = (*seen, two_values(place, first, &value));
                    self.found(AnomalyKind::InconsistentOffsets, detail, vec![seen, at]);
                }
                Some(_) => {}
                None => {
                    self.log.insert(place, (value, at));
                }
            }
        }
    }
}

fn two_values(place: Place, first: &Value, second: &Value) -> String {
    format!("{}@{} holds {first:?} and {second:?}", place.0, place.1)
}

/// Checks a whole history.
pub fn check(history: &History) -> Report {
    let mut facts = Facts::default();
    for (at, event) in history.events.iter().enumerate() {
        facts.gather(at, event);
    }
    check_acknowledged(&mut facts);
    check_values(&mut facts);
    check_send_order(&mut facts);
    check_polls(&mut facts, history);
    facts.report
}

fn check_acknowledged(facts: &mut Facts) {
    let mut furthest: HashMap<u32, u64> = HashMap::new();
    for (partition, offset) in facts.log.keys() {
        furthest.insert(*partition, *offset);
    }
    for (at, partition, value, offset) in facts.acked.clone() {
        match facts.log.get(&(partition, offset)) {
            Some((read, seen)) if *read != value => {
                let (seen, detail) = (*seen, two_values((partition, offset), read, &value));
                facts.found(AnomalyKind::InconsistentOffsets, detail, vec![at, seen]);
            }
            Some(_) => {}
            None if furthest.get(&partition).is_some_and(|read| *read > offset) => {
                let detail = format!("{value:?} was acknowledged at {partition}@{offset}");
                facts.found(AnomalyKind::LostWrite, detail, vec![at]);
            }
            None if facts.drained => {
                let detail = format!("{value:?} was acknowledged at {partition}@{offset}");
                facts.found(AnomalyKind::Unseen, detail, vec![at]);
            }
            None => {}
        }
    }
}

fn check_values(facts: &mut Facts) {
    let mut places: HashMap<Value, (Place, usize)> = HashMap::new();
    let log: Vec<_> = facts.log.iter().map(|(place, seen)| (*place, *seen)).collect();
    for (place, (value, at)) in log {
        if let Some(failed) = facts.failed.get(&value) {
            let (failed, detail) = (*failed, format!("{value:?} failed, yet is at {place:?}"));
            facts.found(AnomalyKind::G1a, detail, vec![failed, at]);
        } else if !facts.invoked.contains(&value) {
            let detail = format!("{value:?} at {place:?} was never sent");
            facts.found(AnomalyKind::PhantomRead, detail, vec![at]);
        }
        if let Some((first, seen)) = places.insert(value, (place, at)) {
            let detail = format!("{value:?} is at {first:?} and {place:?}");
            facts.found(AnomalyKind::Duplicate, detail, vec![seen, at]);
        }
    }
}

fn check_send_order(facts: &mut Facts) {
    let mut sends = facts.acked.clone();
    sends.sort_by_key(|(_, partition, value, _)| (*partition, value.process, value.counter));
    for pair in sends.windows(2) {
        let [(first, p, a, low), (second, q, b, high)] = pair else { continue };
        if p == q && a.process == b.process && low >= high {
            let detail = format!("{a:?} is at {p}@{low}, {b:?} at {q}@{high}");
            facts.found(AnomalyKind::NonmonotonicSend, detail, vec![*first, *second]);
        }
    }
}

/// Where a consumer stands in one partition: the last offset it was handed,
/// and by which poll.
type Standing = HashMap<(u32, u32), (u64, usize)>;

fn check_polls(facts: &mut Facts, history: &History) {
    let mut standing: Standing = HashMap::new();
    for (at, event) in history.events.iter().enumerate() {
        match (&event.operation, event.outcome) {
            (Operation::Assign, Outcome::Ok) => {
                standing.retain(|(process, _), _| *process != event.process);
            }
            (Operation::Poll { reads }, Outcome::Ok) => {
                for read in reads {
                    check_step(facts, &mut standing, at, event.process, read);
                }
            }
            _ => {}
        }
    }
}

fn check_step(facts: &mut Facts, standing: &mut Standing, at: usize, process: u32, read: &Read) {
    let before = standing.insert((process, read.partition), (read.offset, at));
    let Some((last, poll)) = before else { return };
    let inside = poll == at;
    let detail = format!("{}@{} after {last}, by process {process}", read.partition, read.offset);
    if read.offset <= last {
        let kind =
            if inside { AnomalyKind::IntNonmonotonicPoll } else { AnomalyKind::NonmonotonicPoll };
        facts.found(kind, detail, vec![poll, at]);
        return;
    }
    // Offsets may be absent; only records somebody has read count as skipped.
    let between = (read.partition, last + 1)..(read.partition, read.offset);
    if facts.log.range(between).next().is_some() {
        let kind = if inside { AnomalyKind::IntPollSkip } else { AnomalyKind::PollSkip };
        facts.found(kind, detail, vec![poll, at]);
    }
}
