//! What consumers say of the log themselves (READ, DENSE, GC).
//!
//! A gap in the index and an object that is missing are nobody's fault but the cluster's. Bytes that are others than were
//! written may come of a fault of the store, and be handed on a little later.

use super::anomaly::{AnomalyKind, Report};
use crate::history::{Alarm, Event, Failure, History, Operation, Outcome};

/// Faults by which what is read from the store is not what it has.
const HARMFUL: [&str; 3] = ["store-truncated", "store-bit-flip", "store-error-in-200"];
/// How long after such a fault what was read under it may still be told of.
const LATE_US: u64 = 30_000_000;

/// What harms reads.
enum Harm {
    /// The history does not tell of faults.
    Unknown,
    None,
    Now,
    Until(u64),
}

impl Harm {
    fn excuses(&self, time_us: u64) -> bool {
        match self {
            Self::Unknown | Self::Now => true,
            Self::None => false,
            Self::Until(healed) => time_us < healed + LATE_US,
        }
    }
}

pub(super) fn check(history: &History, report: &mut Report) {
    let told = history.events.iter().any(|one| matches!(one.operation, Operation::Fault { .. }));
    let mut harm = if told { Harm::None } else { Harm::Unknown };
    for (at, event) in history.events.iter().enumerate() {
        match &event.operation {
            Operation::Fault { fault, .. } if HARMFUL.contains(&fault.as_str()) => harm = Harm::Now,
            Operation::Heal { fault, .. } if HARMFUL.contains(&fault.as_str()) => {
                harm = Harm::Until(event.time_us);
            }
            Operation::Poll { failure: Some(failure), .. } if event.outcome == Outcome::Fail => {
                take(report, &harm, at, event, failure);
            }
            _ => {}
        }
    }
}

fn take(report: &mut Report, harm: &Harm, at: usize, event: &Event, failure: &Failure) {
    let kind = match failure.alarm {
        Some(Alarm::IndexGap) => AnomalyKind::IndexGap,
        Some(Alarm::MissingObject) => AnomalyKind::DanglingIndex,
        Some(Alarm::Corrupt) if !harm.excuses(event.time_us) => AnomalyKind::CorruptRead,
        Some(Alarm::Corrupt) | None => return,
    };
    report.found(kind, format!("process {}: {}", event.process, failure.text), vec![at]);
}
