//! Lease epochs (FENCE): as they were seen by linearizable reads, and as the final index has them. Entries are looked at
//! once all reads are known, so that each takes one search.

use std::collections::{BTreeMap, HashMap};

use super::anomaly::{AnomalyKind, Report};
use crate::history::{History, Operation, Outcome, Partition};

/// What was seen of a partition.
#[derive(Default)]
struct Seen {
    /// By epoch: the session that held it, and the event that says so.
    holders: BTreeMap<u32, (u64, usize)>,
    /// The highest epoch that a read had returned, and by which event.
    highest: Option<(u32, usize)>,
    /// By epoch: the highest watermark that a read of it showed, and by which event.
    watermarks: BTreeMap<u32, (u64, usize)>,
    /// The epoch of the last entry of the index so far.
    last_entry: Option<(u32, usize)>,
    /// By epoch, ascending: what of that and all later ones was seen at the lowest watermark.
    lowest: Vec<(u32, Sight)>,
}

/// An epoch as it was seen.
#[derive(Clone, Copy)]
struct Sight {
    epoch: u32,
    high_watermark: u64,
    event: usize,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut partitions: HashMap<Partition, Seen> = HashMap::new();
    // By process: what the highest epoch was when its read began.
    let mut begun: HashMap<(u32, Partition), Option<(u32, usize)>> = HashMap::new();
    for (event, line) in history.events.iter().enumerate() {
        match (&line.operation, line.outcome) {
            (Operation::Lease { at, .. }, Outcome::Invoke) => {
                let highest = partitions.entry(*at).or_default().highest;
                begun.insert((line.process, *at), highest);
            }
            (Operation::Lease { at, epoch, session, high_watermark, .. }, Outcome::Ok) => {
                let before = begun.remove(&(line.process, *at)).flatten();
                let seen = partitions.entry(*at).or_default();
                check_regression(report, *at, *epoch, before, event);
                hold(report, seen, *at, *epoch, *session, event);
                see(seen, *epoch, *high_watermark, event);
            }
            _ => {}
        }
    }
    for seen in partitions.values_mut() {
        seen.lowest = lowest(&seen.watermarks);
    }
    for (event, line) in history.events.iter().enumerate() {
        let (Operation::Entry { at, base, epoch, session, .. }, Outcome::Ok) =
            (&line.operation, line.outcome)
        else {
            continue;
        };
        let seen = partitions.entry(*at).or_default();
        hold(report, seen, *at, *epoch, *session, event);
        check_entry(report, seen, *at, *epoch, *base, event);
    }
}

fn lowest(watermarks: &BTreeMap<u32, (u64, usize)>) -> Vec<(u32, Sight)> {
    let mut lowest: Vec<(u32, Sight)> = Vec::with_capacity(watermarks.len());
    for (epoch, (high_watermark, event)) in watermarks.iter().rev() {
        let this = Sight { epoch: *epoch, high_watermark: *high_watermark, event: *event };
        let later = lowest.last().map(|(_, later)| *later);
        let least = later.filter(|later| later.high_watermark < this.high_watermark);
        lowest.push((*epoch, least.unwrap_or(this)));
    }
    lowest.reverse();
    lowest
}

fn see(seen: &mut Seen, epoch: u32, high_watermark: u64, event: usize) {
    if seen.highest.is_none_or(|(highest, _)| epoch > highest) {
        seen.highest = Some((epoch, event));
    }
    let known = seen.watermarks.entry(epoch).or_insert((high_watermark, event));
    // The lowest watermark of an epoch is nearest to where it began.
    if high_watermark < known.0 {
        *known = (high_watermark, event);
    }
}

fn check_regression(
    report: &mut Report,
    at: Partition,
    epoch: u32,
    before: Option<(u32, usize)>,
    event: usize,
) {
    if let Some((highest, seen)) = before
        && epoch < highest
    {
        let detail = format!("{at} had epoch {highest}, and then {epoch}");
        report.found(AnomalyKind::EpochRegression, detail, vec![seen, event]);
    }
}

fn hold(
    report: &mut Report,
    seen: &mut Seen,
    at: Partition,
    epoch: u32,
    session: u64,
    event: usize,
) {
    if session == 0 {
        return;
    }
    let (holder, known) = *seen.holders.entry(epoch).or_insert((session, event));
    if holder != session {
        let detail = format!("epoch {epoch} of {at} was held by sessions {holder} and {session}");
        report.found(AnomalyKind::DoubleGrant, detail, vec![known, event]);
    }
}

/// Entries come in the index's order.
fn check_entry(
    report: &mut Report,
    seen: &mut Seen,
    at: Partition,
    epoch: u32,
    base: u64,
    event: usize,
) {
    if let Some((last, before)) = seen.last_entry
        && epoch < last
    {
        let detail = format!("{at}@{base} is of epoch {epoch}, behind an entry of {last}");
        report.found(AnomalyKind::EpochRegression, detail, vec![before, event]);
    }
    seen.last_entry = Some((epoch, event));
    // FENCE: once a later epoch was seen at a watermark, no entry of an earlier one lies at or beyond that.
    let later = seen.lowest.partition_point(|(other, _)| *other <= epoch);
    let Some((_, lowest)) = seen.lowest.get(later) else { return };
    if base >= lowest.high_watermark {
        let detail = format!(
            "{at}@{base} was committed under epoch {epoch} after epoch {} was seen at {}",
            lowest.epoch, lowest.high_watermark
        );
        report.found(AnomalyKind::StaleEpochCommit, detail, vec![lowest.event, event]);
    }
}
