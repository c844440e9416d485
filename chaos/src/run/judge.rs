//! The checker's verdict about a run that was not held to its end, too.

use crate::checker::{Report, check_so_far};
use crate::history::History;

/// Checks a history. Of one that ends early only what needs no end is looked for: what is nowhere in it may only not have
/// been read, or asked for. One that was held to its end, and in which nothing happened, proves nothing.
pub fn judge(history: &History) -> Report {
    let mut report = check_so_far(history, history.reached());
    if history.is_whole() && report.acknowledged == 0 {
        report.undecided.push("nothing was acknowledged".to_owned());
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::AnomalyKind;
    use crate::history::{Alarm, Event, Failure, Operation, Outcome, Partition, Read, Value};

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

    fn kinds(history: History) -> Vec<AnomalyKind> {
        judge(&history).counts.into_keys().collect()
    }

    #[test]
    fn what_was_not_read_is_told_once_the_drain_was_complete() {
        let sends = (0..2).flat_map(|n| [send(Outcome::Invoke, n), send(Outcome::Ok, n)]);
        let read = Read { at: AT, offset: 1, value: Some(value(1)) };
        let read = (Outcome::Ok, Operation::Drain { reads: vec![read] });
        let early: Vec<_> = sends.chain([read]).collect();
        let and = |more: &[Operation]| {
            let more = more.iter().map(|operation| (Outcome::Ok, operation.clone()));
            history(early.iter().cloned().chain(more).collect())
        };
        assert_eq!(kinds(and(&[])), []);
        // The drain had not come to its end when its time was over.
        assert_eq!(kinds(and(&[Operation::Audited])), []);
        assert!(!and(&[Operation::Audited]).is_whole());
        // The audit could not be made.
        assert_eq!(kinds(and(&[Operation::Drained])), [AnomalyKind::LostWrite]);
        let whole = and(&[Operation::Drained, Operation::Audited]);
        assert!(whole.is_whole());
        assert_eq!(kinds(whole), [AnomalyKind::LostWrite]);
    }

    #[test]
    fn what_was_written_after_the_drain_is_missed_only_if_the_run_went_on() {
        let probed = [(Outcome::Ok, Operation::Drained), send(Outcome::Invoke, 0)];
        let probed = probed.into_iter().chain([send(Outcome::Ok, 0)]);
        let read = (Outcome::Ok, Operation::Drain { reads: Vec::new() });
        let early: Vec<_> = [read].into_iter().chain(probed).collect();
        assert_eq!(kinds(history(early.clone())), []);
        let whole = early.into_iter().chain([(Outcome::Ok, Operation::Audited)]).collect();
        assert_eq!(kinds(history(whole)), [AnomalyKind::Unseen]);
    }

    #[test]
    fn an_index_that_was_looked_at_in_part_leaves_nothing_out() {
        let extent = Operation::Extent { at: AT, log_start: 0, high_watermark: 5 };
        let early = vec![send(Outcome::Invoke, 0), send(Outcome::Ok, 0), (Outcome::Ok, extent)];
        assert_eq!(kinds(history(early.clone())), []);
        let whole = early.into_iter().chain([(Outcome::Ok, Operation::Audited)]).collect();
        let both = [AnomalyKind::AckedBeforeDurable, AnomalyKind::IndexGap];
        assert_eq!(kinds(history(whole)), both);
    }

    #[test]
    fn what_a_consumer_says_of_the_log_needs_no_end() {
        let failure = Failure { alarm: Some(Alarm::IndexGap), text: "a gap".to_owned() };
        let poll = Operation::Poll { reads: Vec::new(), failure: Some(failure) };
        assert_eq!(kinds(history(vec![(Outcome::Fail, poll)])), [AnomalyKind::IndexGap]);
    }

    #[test]
    fn what_needs_no_end_is_told_of_every_run() {
        let read = Read { at: AT, offset: 0, value: Some(value(7)) };
        let counts = judge(&history(vec![(
            Outcome::Ok,
            Operation::Poll { reads: vec![read], failure: None },
        )]));
        assert_eq!(counts.counts, [(AnomalyKind::PhantomRead, 1)].into());
    }
}
