//! What was sent and acknowledged against what was read.
//!
//! A record acknowledged and not in the final drain is `lost-write` if something behind it was read there, `unseen` if
//! not. What others had read before that makes no difference: it must still be there. In a history that ends before its
//! drain all reads count.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use crate::history::{Event, History, Operation, Outcome, Partition, Reached, Read, Value};

type Place = (Partition, u64);

/// An acknowledged send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    pub(super) event: usize,
    pub(super) at: Partition,
    pub(super) value: Value,
    pub(super) offset: u64,
}

/// What was read at an offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// The first value seen there.
    pub(super) value: Value,
    /// By which event.
    pub(super) event: usize,
    /// The final drain saw it.
    drained: bool,
}

/// What the history says about sends and reads, gathered in one pass.
#[derive(Default)]
pub(super) struct Log {
    /// Where each value was to go.
    invoked: HashMap<Value, Partition>,
    /// By value: where it failed, and whether it was told that it was fenced.
    failed: HashMap<Value, (usize, bool)>,
    pub(super) acked: Vec<Acked>,
    /// Every offset read.
    pub(super) read: BTreeMap<Place, Found>,
    /// Processes whose records may be there twice.
    repeating: HashSet<u32>,
    /// How many of which processes may be, at most, and who says so.
    accounts: Vec<(Vec<u32>, u64, usize)>,
    drained: bool,
}

impl Log {
    pub(super) fn gather(history: &History, report: &mut Report) -> Self {
        let mut log = Self::default();
        for (at, event) in history.events.iter().enumerate() {
            log.take(at, event, report);
        }
        log
    }

    fn take(&mut self, event: usize, line: &Event, report: &mut Report) {
        match (&line.operation, line.outcome) {
            (Operation::Start { duplicates: true, .. }, _) => {
                self.repeating.insert(line.process);
            }
            (Operation::Repeated { processes, most }, Outcome::Ok) => {
                self.accounts.push((processes.clone(), *most, event));
            }
            (Operation::Send { at, value, .. }, Outcome::Invoke) => {
                self.invoked.insert(*value, *at);
            }
            (Operation::Send { value, fenced, .. }, Outcome::Fail) => {
                self.failed.insert(*value, (event, *fenced));
            }
            (Operation::Send { at, value, offset: Some(offset), .. }, Outcome::Ok) => {
                report.acknowledged += 1;
                self.acked.push(Acked { event, at: *at, value: *value, offset: *offset });
            }
            (Operation::Poll { reads, .. }, Outcome::Ok) => {
                self.take_reads(event, reads, false, report);
            }
            (Operation::Drain { reads }, Outcome::Ok) => {
                self.drained = true;
                self.take_reads(event, reads, true, report);
            }
            _ => {}
        }
    }

    fn take_reads(&mut self, event: usize, reads: &[Read], drained: bool, report: &mut Report) {
        for read in reads {
            report.reads += 1;
            let place = (read.at, read.offset);
            let Some(value) = read.value else {
                let detail = format!("{}@{} is no process's payload", place.0, place.1);
                report.found(AnomalyKind::CorruptRead, detail, vec![event]);
                continue;
            };
            let found = Found { value, event, drained };
            let first = self.read.entry(place).or_insert(found);
            first.drained |= drained;
            if first.value != value {
                let detail = two_values(place, first.value, value);
                report.found(AnomalyKind::InconsistentOffsets, detail, vec![first.event, event]);
            }
        }
    }

    pub(super) fn check(&self, reached: Reached, report: &mut Report) {
        self.check_acknowledged(reached, report);
        self.check_values(report);
        self.check_send_order(report);
    }

    fn check_acknowledged(&self, reached: Reached, report: &mut Report) {
        let mut furthest: HashMap<Partition, u64> = HashMap::new();
        for ((at, offset), _) in self.read.iter().filter(|(_, found)| self.counts(found)) {
            furthest.insert(*at, *offset);
        }
        for Acked { event, at, value, offset } in &self.acked {
            let found = self.read.get(&(*at, *offset));
            if let Some(found) = found
                && found.value != *value
            {
                let detail = two_values((*at, *offset), found.value, *value);
                report.found(AnomalyKind::InconsistentOffsets, detail, vec![*event, found.event]);
                continue;
            }
            if found.is_some_and(|found| self.counts(found)) || *event >= reached.drained {
                continue;
            }
            let kind = match furthest.get(at) {
                Some(read) if read > offset => AnomalyKind::LostWrite,
                _ if self.drained => AnomalyKind::Unseen,
                _ => continue,
            };
            let mut detail = format!("{value} was acknowledged at {at}@{offset}");
            let mut proof = vec![*event];
            if let Some(found) = found {
                detail.push_str(", was read, and was not there any more in the end");
                proof.push(found.event);
            }
            report.found(kind, detail, proof);
        }
    }

    /// Whether it shows that an acknowledged record was kept.
    fn counts(&self, found: &Found) -> bool {
        found.drained || !self.drained
    }

    fn check_values(&self, report: &mut Report) {
        let mut places: HashMap<Value, (Place, usize)> = HashMap::with_capacity(self.read.len());
        let mut repeated: HashMap<u32, u64> = HashMap::new();
        for (place, Found { value, event, .. }) in &self.read {
            let (at, offset) = place;
            self.check_origin(*place, *value, *event, report);
            let Some(((first, low), seen)) = places.insert(*value, (*place, *event)) else {
                continue;
            };
            if self.repeating.contains(&value.process) {
                report.allowed_duplicates += 1;
                *repeated.entry(value.process).or_default() += 1;
            } else {
                let detail = format!("{value} is at {first}@{low} and {at}@{offset}");
                report.found(AnomalyKind::Duplicate, detail, vec![seen, *event]);
            }
        }
        self.check_accounts(&repeated, report);
    }

    /// What is read was sent, to there, and did not certainly fail.
    fn check_origin(&self, (at, offset): Place, value: Value, event: usize, report: &mut Report) {
        if let Some((failed, fenced)) = self.failed.get(&value) {
            let kind = if *fenced { AnomalyKind::FalseFenced } else { AnomalyKind::G1a };
            let detail = format!("{value} failed, yet is at {at}@{offset}");
            report.found(kind, detail, vec![*failed, event]);
            return;
        }
        let detail = match self.invoked.get(&value) {
            None => format!("{value} at {at}@{offset} was never sent"),
            Some(sent) if *sent != at => format!("{value} at {at}@{offset} was sent to {sent}"),
            Some(_) => return,
        };
        report.found(AnomalyKind::PhantomRead, detail, vec![event]);
    }

    /// A client that may repeat a record counts what it repeats without knowing what became of it.
    fn check_accounts(&self, repeated: &HashMap<u32, u64>, report: &mut Report) {
        for (processes, most, event) in &self.accounts {
            let twice: u64 = processes.iter().filter_map(|process| repeated.get(process)).sum();
            if twice > *most {
                let detail = format!(
                    "{twice} records of processes {processes:?} stand twice, by their own account at most {most}"
                );
                report.found(AnomalyKind::Duplicate, detail, vec![*event]);
            }
        }
    }

    /// A client that may repeat a record promises an order of first appearances only: the acknowledged one may be a
    /// later one.
    fn check_send_order(&self, report: &mut Report) {
        let mut first: HashMap<(Partition, Value), u64> = HashMap::new();
        for ((at, offset), Found { value, .. }) in &self.read {
            if self.repeating.contains(&value.process) {
                first.entry((*at, *value)).or_insert(*offset);
            }
        }
        let mut sends = self.acked.clone();
        for send in &mut sends {
            send.offset = first.get(&(send.at, send.value)).copied().unwrap_or(send.offset);
        }
        sends.sort_by_key(|send| (send.at, send.value.process, send.value.counter));
        for pair in sends.windows(2) {
            let [a, b] = pair else { continue };
            if a.at == b.at && a.value.process == b.value.process && a.offset >= b.offset {
                let detail = format!(
                    "{} is at {}@{}, {} at {}@{}",
                    a.value, a.at, a.offset, b.value, b.at, b.offset
                );
                report.found(AnomalyKind::NonmonotonicSend, detail, vec![a.event, b.event]);
            }
        }
    }
}

fn two_values((at, offset): Place, first: Value, second: Value) -> String {
    format!("{at}@{offset} holds {first} and {second}")
}
