//! What was sent and acknowledged against what was read.
//!
//! A record acknowledged, by whomever, and not in the final drain is `lost-write` if something behind it was read
//! there, `unseen` if not. What others had read before that makes no difference: it must still be there. So must a
//! record that was read, though nobody was told that it is written: who read it went by it. In a history that ends
//! before its drain all reads count.

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
    /// Where each value was to go, and since when.
    invoked: HashMap<Value, (Partition, usize)>,
    /// The first that was: which of the two became what cannot be told.
    sent_twice: Option<Value>,
    /// By value: where it failed, and whether it was told that it was fenced.
    failed: HashMap<Value, (usize, bool)>,
    /// By place, once all are known.
    pub(super) acked: Vec<Acked>,
    /// Every offset read.
    pub(super) read: BTreeMap<Place, Found>,
    /// Processes whose records may be there twice.
    repeating: HashSet<u32>,
    /// Of processes that take another's place, and of those others: the first in that place, and when each began.
    places: HashMap<u32, (u32, usize)>,
    /// How many of which processes may be, at most, and who says so.
    accounts: Vec<(Vec<u32>, u64, usize)>,
    /// Where the final drain read what is no process's payload: something is there.
    torn: HashSet<Place>,
    drained: bool,
}

impl Log {
    pub(super) fn gather(history: &History, report: &mut Report) -> Self {
        let mut log = Self::default();
        for (at, event) in history.events.iter().enumerate() {
            log.take(at, event, report);
        }
        let twice = log.sent_twice.map(|value| format!("{value} was sent twice"));
        report.undecided.extend(twice);
        log.acked.sort_by_key(|acked| (acked.at, acked.offset, acked.event));
        log
    }

    fn take(&mut self, event: usize, line: &Event, report: &mut Report) {
        match (&line.operation, line.outcome) {
            (Operation::Start { duplicates, follows, .. }, _) => {
                if *duplicates {
                    self.repeating.insert(line.process);
                }
                let first = follows.map_or(line.process, |before| self.place(before).0);
                self.places.insert(line.process, (first, event));
            }
            (Operation::Repeated { processes, most }, Outcome::Ok) => {
                self.accounts.push((processes.clone(), *most, event));
            }
            (Operation::Send { at, value, .. }, Outcome::Invoke) => {
                let before = self.invoked.insert(*value, (*at, event));
                self.sent_twice = self.sent_twice.or(before.map(|_| *value));
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
            // Where nothing is left, a drain has nothing to tell of.
            (Operation::Drained, Outcome::Ok) => self.drained = true,
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
                if drained {
                    self.torn.insert(place);
                }
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
        self.check_kept(reached, report);
        self.check_values(report);
        self.check_send_order(report);
    }

    /// Whether some client was told that what it sent is there.
    pub(super) fn is_acknowledged(&self, place: Place) -> bool {
        self.acked.binary_search_by_key(&place, |acked| (acked.at, acked.offset)).is_ok()
    }

    fn check_kept(&self, reached: Reached, report: &mut Report) {
        let mut furthest: HashMap<Partition, u64> = HashMap::new();
        for ((at, offset), _) in self.read.iter().filter(|(_, found)| self.counts(found)) {
            furthest.insert(*at, *offset);
        }
        for (at, offset) in &self.torn {
            let known = furthest.entry(*at).or_default();
            *known = (*offset).max(*known);
        }
        self.check_acknowledged(reached, &furthest, report);
        self.check_read(reached, &furthest, report);
    }

    fn check_acknowledged(
        &self,
        reached: Reached,
        furthest: &HashMap<Partition, u64>,
        report: &mut Report,
    ) {
        let mut before: Option<&Acked> = None;
        for acked in &self.acked {
            let Acked { event, at, value, offset } = acked;
            let place = (*at, *offset);
            let first = before.replace(acked).filter(|one| (one.at, one.offset) == place);
            let found = self.read.get(&place);
            let other = match (found, first) {
                (Some(found), _) => Some((found.value, found.event)),
                (None, first) => first.map(|first| (first.value, first.event)),
            };
            if let Some((other, seen)) = other
                && other != *value
            {
                let detail = two_values(place, other, *value);
                report.found(AnomalyKind::InconsistentOffsets, detail, vec![*event, seen]);
                continue;
            }
            if self.is_there(place, found) || *event >= reached.drained {
                continue;
            }
            let Some(kind) = self.gone(place, furthest) else { continue };
            let mut detail = format!("{value} was acknowledged at {at}@{offset}");
            let mut proof = vec![*event];
            if let Some(found) = found {
                detail.push_str(", was read, and was not there any more in the end");
                proof.push(found.event);
            }
            report.found(kind, detail, proof);
        }
    }

    /// What was read and never acknowledged: of all else was told.
    fn check_read(
        &self,
        reached: Reached,
        furthest: &HashMap<Partition, u64>,
        report: &mut Report,
    ) {
        for (place, found) in &self.read {
            if self.is_there(*place, Some(found))
                || found.event >= reached.drained
                || self.is_acknowledged(*place)
            {
                continue;
            }
            let Some(kind) = self.gone(*place, furthest) else { continue };
            let ((at, offset), value) = (place, found.value);
            let detail =
                format!("{value} was read at {at}@{offset}, and was not there any more in the end");
            report.found(kind, detail, vec![found.event]);
        }
    }

    /// Whether what was found there in the end is a record, or anything at all.
    fn is_there(&self, place: Place, found: Option<&Found>) -> bool {
        found.is_some_and(|found| self.counts(found)) || self.torn.contains(&place)
    }

    /// What it is called that nothing is found there.
    fn gone(&self, (at, offset): Place, furthest: &HashMap<Partition, u64>) -> Option<AnomalyKind> {
        match furthest.get(&at) {
            Some(read) if *read > offset => Some(AnomalyKind::LostWrite),
            _ => self.drained.then_some(AnomalyKind::Unseen),
        }
    }

    /// Whether it shows that a record was kept.
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

    /// What is read was sent before, to there, and did not certainly fail.
    fn check_origin(&self, (at, offset): Place, value: Value, event: usize, report: &mut Report) {
        if let Some((failed, fenced)) = self.failed.get(&value) {
            let kind = if *fenced { AnomalyKind::FalseFenced } else { AnomalyKind::G1a };
            let detail = format!("{value} failed, yet is at {at}@{offset}");
            report.found(kind, detail, vec![*failed, event]);
            return;
        }
        let detail = match self.invoked.get(&value) {
            None => format!("{value} at {at}@{offset} was never sent"),
            Some((sent, _)) if *sent != at => {
                format!("{value} at {at}@{offset} was sent to {sent}")
            }
            Some((_, sent)) if *sent > event => {
                format!("{value} was read at {at}@{offset} before it was sent")
            }
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

    /// The first process in this one's place, and when this one began.
    fn place(&self, process: u32) -> (u32, usize) {
        self.places.get(&process).copied().unwrap_or((process, 0))
    }

    /// Who takes another's place sends when that one has got all its answers, or is the same client under another
    /// number: their acknowledged sends have one order. What one process sent has an order also where it was not
    /// answered. A client that may repeat a record promises an order of acknowledged ones only, and of their first
    /// appearances: the acknowledged one may be a later one.
    fn check_send_order(&self, report: &mut Report) {
        let mut first: HashMap<(Partition, Value), (u64, usize)> = HashMap::new();
        for ((at, offset), Found { value, event, .. }) in &self.read {
            first.entry((*at, *value)).or_insert((*offset, *event));
        }
        let mut sends = self.acked.clone();
        for send in &mut sends {
            let read = first.remove(&(send.at, send.value));
            if let Some((offset, _)) = read
                && self.repeating.contains(&send.value.process)
            {
                send.offset = offset;
            }
        }
        let at_home = |at: Partition, value: &Value| {
            self.invoked.get(value).is_some_and(|(sent, _)| *sent == at)
                && !self.failed.contains_key(value)
                && !self.repeating.contains(&value.process)
        };
        let unanswered: HashMap<Value, Acked> = first
            .into_iter()
            .filter(|((at, value), _)| at_home(*at, value))
            .map(|((at, value), (offset, event))| (value, Acked { event, at, value, offset }))
            .collect();

        sends.sort_by_cached_key(|send| {
            (send.at, self.place(send.value.process), send.value.counter)
        });
        for pair in sends.windows(2) {
            if let [a, b] = pair
                && self.place(a.value.process).0 == self.place(b.value.process).0
            {
                in_order(a, b, report);
            }
        }
        if unanswered.is_empty() {
            return;
        }
        sends.extend(unanswered.values());
        sends.sort_by_key(|send| (send.at, send.value.process, send.value.counter));
        for pair in sends.windows(2) {
            if let [a, b] = pair
                && a.value.process == b.value.process
                && (unanswered.contains_key(&a.value) || unanswered.contains_key(&b.value))
            {
                in_order(a, b, report);
            }
        }
    }
}

fn in_order(a: &Acked, b: &Acked, report: &mut Report) {
    if a.at == b.at && a.offset > b.offset {
        let detail = format!(
            "{} is at {}@{}, {} at {}@{}",
            a.value, a.at, a.offset, b.value, b.at, b.offset
        );
        report.found(AnomalyKind::NonmonotonicSend, detail, vec![a.event, b.event]);
    }
}

fn two_values((at, offset): Place, first: Value, second: Value) -> String {
    format!("{at}@{offset} holds {first} and {second}")
}
