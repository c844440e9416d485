//! The order in which each consumer was handed records (READ: in offset order, without skipping).

use std::collections::HashMap;

use super::anomaly::{AnomalyKind, Report};
use super::log::Log;
use crate::history::{History, Operation, Outcome, Partition, Read};

/// Where a consumer stands in one partition: the offset that comes next, and by which poll or seek.
type Standing = HashMap<(u32, Partition), (u64, usize)>;

pub(super) fn check(history: &History, log: &Log, report: &mut Report) {
    let mut standing = Standing::new();
    for (at, event) in history.events.iter().enumerate() {
        match (&event.operation, event.outcome) {
            (Operation::Assign, Outcome::Ok) => {
                standing.retain(|(process, _), _| *process != event.process);
            }
            // It begins where its group has got to.
            (Operation::Own { at: partitions, .. }, Outcome::Ok) => {
                for at in partitions {
                    standing.remove(&(event.process, *at));
                }
            }
            (Operation::Seek { at: sought, offset }, Outcome::Ok) => {
                standing.insert((event.process, *sought), (*offset, at));
            }
            (Operation::Poll { reads, .. } | Operation::Drain { reads }, Outcome::Ok) => {
                for read in reads {
                    step(log, report, &mut standing, at, event.process, read);
                }
            }
            _ => {}
        }
    }
}

fn step(
    log: &Log,
    report: &mut Report,
    standing: &mut Standing,
    at: usize,
    process: u32,
    read: &Read,
) {
    let stands = standing.insert((process, read.at), (read.offset + 1, at));
    let Some((next, poll)) = stands else { return };
    let inside = poll == at;
    let detail =
        || format!("{}@{} where {next} comes next, by process {process}", read.at, read.offset);
    if read.offset < next {
        let kind =
            if inside { AnomalyKind::IntNonmonotonicPoll } else { AnomalyKind::NonmonotonicPoll };
        report.found(kind, detail(), vec![poll, at]);
        return;
    }
    // Offsets may be absent; only records somebody has read count as skipped.
    let between = (read.at, next)..(read.at, read.offset);
    if read.offset > next && log.read.range(between).next().is_some() {
        let kind = if inside { AnomalyKind::IntPollSkip } else { AnomalyKind::PollSkip };
        report.found(kind, detail(), vec![poll, at]);
    }
}
