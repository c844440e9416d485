//! The final index against itself (DENSE), against what was acknowledged (ACK) and against the store (GC).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use super::log::Log;
use crate::history::{History, Operation, Outcome, Partition, Reached};

struct Entry<'a> {
    event: usize,
    base: u64,
    last: u64,
    object: &'a str,
}

/// What the audit and the store's own record say.
#[derive(Default)]
struct Index<'a> {
    entries: BTreeMap<Partition, Vec<Entry<'a>>>,
    /// By partition: where it says so, log start and high watermark.
    extents: BTreeMap<Partition, (usize, u64, u64)>,
    /// By key: since which event.
    stored: HashMap<&'a str, usize>,
    deleted: HashMap<&'a str, usize>,
    missing: Vec<(usize, &'a str)>,
}

pub(super) fn check(history: &History, log: &Log, reached: Reached, report: &mut Report) {
    let index = gather(history, report);
    for (at, (event, log_start, high_watermark)) in &index.extents {
        if *log_start > 0 {
            report.found_trimmed(*at, *log_start, *event);
        }
        let entries = index.entries.get(at).map(Vec::as_slice).unwrap_or_default();
        if reached.audited {
            check_dense(report, *at, entries, *event, *log_start..*high_watermark);
        }
    }
    check_missing(&index, report);
    check_acknowledged(&index, log, reached, report);
}

fn gather<'a>(history: &'a History, report: &mut Report) -> Index<'a> {
    let mut index = Index::default();
    for (event, line) in history.events.iter().enumerate() {
        if line.outcome != Outcome::Ok {
            continue;
        }
        match &line.operation {
            Operation::Entry { at, base, last, object, .. } => {
                let entry = Entry { event, base: *base, last: *last, object };
                index.entries.entry(*at).or_default().push(entry);
            }
            Operation::Extent { at, log_start, high_watermark } => {
                index.extents.insert(*at, (event, *log_start, *high_watermark));
            }
            Operation::Stored { object } => {
                index.stored.entry(object).or_insert(event);
            }
            Operation::Deleted { object } => {
                index.deleted.insert(object, event);
            }
            Operation::Missing { object } => index.missing.push((event, object)),
            Operation::Damaged { object, at, base, problem } => {
                let detail = format!("the slice of {at} from {base} in {object}: {problem}");
                report.found(AnomalyKind::CorruptRead, detail, vec![event]);
            }
            Operation::Orphan { object } => {
                let detail = format!("nothing can refer to {object}");
                report.found(AnomalyKind::OrphanObject, detail, vec![event]);
            }
            _ => {}
        }
    }
    index
}

fn check_dense(
    report: &mut Report,
    at: Partition,
    entries: &[Entry<'_>],
    extent: usize,
    range: std::ops::Range<u64>,
) {
    let (mut expected, mut before) = (None, extent);
    for entry in entries {
        let proof = vec![before, entry.event];
        // The first entry may begin before the log start: only a part of it was trimmed.
        let gap = match expected {
            None => entry.base > range.start,
            Some(expected) => entry.base > expected,
        };
        let detail = || format!("{at} goes on at {}, expected {expected:?}", entry.base);
        if gap {
            report.found(AnomalyKind::IndexGap, detail(), proof);
        } else if expected.is_some_and(|expected| entry.base < expected) || entry.last < entry.base
        {
            report.found(AnomalyKind::IndexOverlap, detail(), proof);
        }
        expected = Some(entry.last + 1);
        before = entry.event;
    }
    let end = expected.unwrap_or(range.start);
    if end != range.end {
        let detail = format!("the index of {at} ends at {end}, the log at {}", range.end);
        let kind = if end < range.end { AnomalyKind::IndexGap } else { AnomalyKind::IndexOverlap };
        report.found(kind, detail, vec![before, extent]);
    }
}

/// GC: the collector deletes only what no entry can ever name, and a name is given once. So an object that was deleted
/// and is named in the end was deleted too early, whether or not somebody has looked for it since.
fn check_missing(index: &Index<'_>, report: &mut Report) {
    let mut told = HashSet::new();
    for entry in index.entries.values().flatten() {
        if let Some(deleted) = index.deleted.get(entry.object)
            && told.insert(entry.object)
        {
            report.found_deleted(entry.object, vec![*deleted, entry.event]);
        }
    }
    for (event, object) in &index.missing {
        match index.deleted.get(object) {
            Some(deleted) if told.insert(object) => {
                report.found_deleted(object, vec![*deleted, *event]);
            }
            Some(_) => {}
            None => {
                let detail = format!("the index names {object}, which the store does not have");
                report.found(AnomalyKind::DanglingIndex, detail, vec![*event]);
            }
        }
    }
}

impl Report {
    fn found_deleted(&mut self, object: &str, proof: Vec<usize>) {
        let detail = format!("{object} was deleted, and the index names it");
        self.found(AnomalyKind::PrematureDelete, detail, proof);
    }
}

/// ACK: what was acknowledged is in the index, and its object was in the store before. Histories without the store's
/// own record say nothing about the latter, and those without any extent nothing about the index.
fn check_acknowledged(index: &Index<'_>, log: &Log, reached: Reached, report: &mut Report) {
    for acked in &log.acked {
        let what = || format!("{} at {}@{}", acked.value, acked.at, acked.offset);
        let Some((extent, log_start, _)) = index.extents.get(&acked.at) else {
            if reached.audited && !index.extents.is_empty() {
                let detail = format!("{}: the index knows nothing of that partition", what());
                report.found(AnomalyKind::AckedBeforeDurable, detail, vec![acked.event]);
            }
            continue;
        };
        // That they are gone has been told.
        if acked.offset < *log_start {
            continue;
        }
        let entries = index.entries.get(&acked.at).map(Vec::as_slice).unwrap_or_default();
        let place = entries.partition_point(|entry| entry.last < acked.offset);
        let Some(entry) = entries.get(place).filter(|entry| entry.base <= acked.offset) else {
            if reached.audited {
                let detail = format!("{} is in no entry of the index", what());
                report.found(AnomalyKind::AckedBeforeDurable, detail, vec![acked.event, *extent]);
            }
            continue;
        };
        let problem = match index.stored.get(entry.object) {
            Some(stored) if *stored > acked.event => (*stored, "before"),
            None if !index.stored.is_empty() => (entry.event, "and never was"),
            _ => continue,
        };
        let detail = format!("{} was acknowledged, {} {} stored", what(), problem.1, entry.object);
        let proof = vec![acked.event, problem.0, entry.event];
        report.found(AnomalyKind::AckedBeforeDurable, detail, proof);
    }
}
