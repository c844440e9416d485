//! Where each log begins and ends, as it was seen (ACK, DENSE): neither goes back, and the end is past all that was
//! acknowledged or read.
//!
//! Two reads are compared, whoever made them, if the later one began when the earlier one had returned. What the audit
//! says in the end was asked after everything that stands before it.

use std::collections::{HashMap, HashSet};

use super::anomaly::{AnomalyKind, Report};
use super::log::Log;
use crate::history::{Event, History, Operation, Outcome, Partition};

/// An offset, and the event that says so.
type Mark = (u64, usize);

/// What was known of a partition at some time; each only grows.
#[derive(Clone, Copy, Default)]
struct Known {
    log_start: Option<Mark>,
    /// The highest watermark that a read showed.
    shown: Option<Mark>,
    /// One past the highest offset that was acknowledged or read.
    reached: Option<Mark>,
}

#[derive(Default)]
struct Watermarks {
    partitions: HashMap<Partition, Known>,
    /// What was known when a process began to read.
    asked: HashMap<(u32, Partition), Known>,
    /// Logs of which it was told that they no longer begin at 0.
    trimmed: HashSet<Partition>,
}

pub(super) fn check(history: &History, log: &Log, report: &mut Report) {
    let mut watermarks = Watermarks::default();
    for (event, line) in history.events.iter().enumerate() {
        watermarks.take(event, line, log, report);
    }
}

impl Watermarks {
    fn take(&mut self, event: usize, line: &Event, log: &Log, report: &mut Report) {
        match (&line.operation, line.outcome) {
            (Operation::Lease { at, .. }, Outcome::Invoke) => {
                let known = self.partitions.get(at).copied().unwrap_or_default();
                self.asked.insert((line.process, *at), known);
            }
            (Operation::Lease { at, log_start, high_watermark, .. }, Outcome::Ok) => {
                let asked = self.asked.remove(&(line.process, *at)).unwrap_or_default();
                check_mark(report, *at, "log start", asked.log_start, *log_start, event);
                // What was shown and what was reached are one fact: it is told once.
                let high = asked.shown.max(asked.reached);
                check_mark(report, *at, "high watermark", high, *high_watermark, event);
                if *log_start > 0 && self.trimmed.insert(*at) {
                    report.found_trimmed(*at, *log_start, event);
                }
                self.show(*at, *log_start, *high_watermark, event);
            }
            (Operation::Extent { at, log_start, high_watermark }, Outcome::Ok) => {
                let known = self.partitions.get(at).copied().unwrap_or_default();
                check_mark(report, *at, "log start", known.log_start, *log_start, event);
                check_mark(report, *at, "high watermark", known.shown, *high_watermark, event);
                check_beyond(report, log, *at, *high_watermark, event);
                self.show(*at, *log_start, *high_watermark, event);
            }
            (Operation::Send { at, offset: Some(offset), .. }, Outcome::Ok) => {
                self.reach(*at, *offset, event);
            }
            (Operation::Poll { reads, .. } | Operation::Drain { reads }, Outcome::Ok) => {
                for read in reads {
                    self.reach(read.at, read.offset, event);
                }
            }
            _ => {}
        }
    }

    fn show(&mut self, at: Partition, log_start: u64, high_watermark: u64, event: usize) {
        let known = self.partitions.entry(at).or_default();
        raise(&mut known.log_start, log_start, event);
        raise(&mut known.shown, high_watermark, event);
    }

    fn reach(&mut self, at: Partition, offset: u64, event: usize) {
        let known = self.partitions.entry(at).or_default();
        raise(&mut known.reached, offset.saturating_add(1), event);
    }
}

fn raise(mark: &mut Option<Mark>, offset: u64, event: usize) {
    if mark.is_none_or(|(known, _)| offset > known) {
        *mark = Some((offset, event));
    }
}

fn check_mark(
    report: &mut Report,
    at: Partition,
    what: &str,
    before: Option<Mark>,
    now: u64,
    event: usize,
) {
    if let Some((known, seen)) = before
        && now < known
    {
        let detail = format!("the {what} of {at} was {known} or later, and then {now}");
        report.found(AnomalyKind::WatermarkRegression, detail, vec![seen, event]);
    }
}

/// A record that was read lies where the log, in the end, does not reach. Of one that was acknowledged that it is in no
/// entry of the index is told.
fn check_beyond(report: &mut Report, log: &Log, at: Partition, high_watermark: u64, event: usize) {
    let mut beyond = log.read.range((at, high_watermark)..=(at, u64::MAX)).rev();
    if let Some((place, found)) = beyond.find(|(place, _)| !log.is_acknowledged(**place)) {
        let detail = format!(
            "{} was read at {at}@{}, the log ends at {high_watermark}",
            found.value, place.1
        );
        report.found(AnomalyKind::WatermarkRegression, detail, vec![found.event, event]);
    }
}

impl Report {
    /// Topics of a trial have no retention, and nobody deletes records.
    pub(super) fn found_trimmed(&mut self, at: Partition, log_start: u64, event: usize) {
        let detail = format!("the log of {at} begins at {log_start}, and nothing trims it");
        self.found(AnomalyKind::IndexGap, detail, vec![event]);
    }
}
