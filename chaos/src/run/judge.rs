//! The checker's verdict about a run that was not held to its end, too.

use crate::checker::{AnomalyKind, Report, check};
use crate::history::History;

/// Checks a history. Of one that ends early only what needs no end is told: what is nowhere in it may only not have been
/// looked for.
pub fn judge(history: &History) -> Report {
    let mut report = check(history);
    if !history.is_whole() {
        report.counts.retain(|kind, _| !needs_the_end(*kind));
        report.anomalies.retain(|anomaly| !needs_the_end(anomaly.kind));
    }
    report
}

fn needs_the_end(kind: AnomalyKind) -> bool {
    use AnomalyKind::{AckedBeforeDurable, IndexGap, IndexOverlap, LostWrite, Unseen};
    matches!(kind, LostWrite | Unseen | AckedBeforeDurable | IndexGap | IndexOverlap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Operation, Outcome, Partition, Read, Value};

    const AT: Partition = Partition { topic: 0, partition: 0 };

    fn value(counter: u64) -> Value {
        Value { process: 1, counter }
    }

    fn send(outcome: Outcome, counter: u64) -> (Outcome, Operation) {
        let offset = (outcome == Outcome::Ok).then_some(counter);
        (outcome, Operation::Send { at: AT, value: value(counter), offset, fenced: false })
    }

    fn history(lines: Vec<(Outcome, Operation)>) -> History {
        let event = |(outcome, operation)| Event { time_us: 0, process: 1, outcome, operation };
        History { events: lines.into_iter().map(event).collect() }
    }

    #[test]
    fn what_was_not_read_is_told_of_a_whole_run_only() {
        let sends = (0..2).flat_map(|n| [send(Outcome::Invoke, n), send(Outcome::Ok, n)]);
        let read = Read { at: AT, offset: 1, value: Some(value(1)) };
        let read = (Outcome::Ok, Operation::Drain { reads: vec![read] });
        let early: Vec<_> = sends.chain([read]).collect();
        assert_eq!(judge(&history(early.clone())).counts.len(), 0);
        let whole = early.into_iter().chain([(Outcome::Ok, Operation::Audited)]).collect();
        let counts = judge(&history(whole)).counts;
        assert_eq!(counts, [(AnomalyKind::LostWrite, 1)].into());
    }

    #[test]
    fn what_needs_no_end_is_told_of_every_run() {
        let read = Read { at: AT, offset: 0, value: Some(value(7)) };
        let counts = judge(&history(vec![(Outcome::Ok, Operation::Poll { reads: vec![read] })]));
        assert_eq!(counts.counts, [(AnomalyKind::PhantomRead, 1)].into());
    }
}
