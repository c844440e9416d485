//! Why a run in which nothing was found proves nothing: a fault was never there, or some kind of client was not served
//! in enough of the times in which it could have been.

use std::collections::{BTreeMap, HashMap};

use super::bounds;
use super::report::FaultRun;
use crate::checker::Report;
use crate::history::{Event, History, Operation, Outcome};

/// A calm stretch so long has room for every kind of operation.
const STRETCH_US: u64 = 2_000_000;
/// In how many of four stretches each kind must have succeeded. Members of a group that deal out its partitions anew,
/// and producers that take over, may need more than one.
const OF_FOUR: usize = 3;

/// What must succeed, by who does it.
const KINDS: [&str; 11] = [
    "send of idempotent producers",
    "send of plain producers",
    "send of named producers",
    "poll of assigned consumers",
    "poll of members of groups",
    "commit of members of groups",
    "fetch of members of groups",
    "operation on a topic",
    "operation on an offset register",
    "read of an offset register by who only reads",
    "read of a lease",
];

/// The reasons; none, if it proves something.
pub(super) fn reasons(
    history: &History,
    faults: &[FaultRun],
    checked: &Report,
    until_us: u64,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut installed: BTreeMap<&str, bool> = BTreeMap::new();
    for fault in faults {
        *installed.entry(fault.name).or_default() |= fault.installed;
    }
    let never = installed.iter().filter(|(_, installed)| !**installed);
    reasons.extend(never.map(|(name, _)| format!("{name} was never really installed")));
    reasons.extend(bounds::unjudged(faults));
    reasons.extend(unserved(history, &calm(faults, until_us)));
    reasons.extend(idle(history, faults, until_us));
    reasons.extend(checked.undecided.iter().cloned());
    reasons
}

/// From when all processes were at their work until the next fault: so much of it that there is room.
fn calm(faults: &[FaultRun], until_us: u64) -> Vec<(u64, u64)> {
    let ends = faults.iter().skip(1).map(|fault| fault.begun_us).chain([until_us]);
    let calm = faults.iter().zip(ends).map(|(fault, end)| (fault.whole_us, end));
    calm.filter(|(from, to)| to.saturating_sub(*from) >= STRETCH_US).collect()
}

/// Kinds of operations that succeeded in too few of these times.
fn unserved(history: &History, calm: &[(u64, u64)]) -> Vec<String> {
    if calm.is_empty() {
        return vec!["no time was calm, so nobody can tell whether clients were served".to_owned()];
    }
    let mut served: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    let mut clients = HashMap::new();
    for event in &history.events {
        if let Operation::Start { client, .. } = &event.operation {
            clients.insert(event.process, client.as_str());
        }
        let client = clients.get(&event.process).copied().unwrap_or_default();
        let Some(kind) = kind(event, client) else { continue };
        let stretch = calm.partition_point(|(_, to)| *to <= event.time_us);
        if calm.get(stretch).is_some_and(|(from, _)| event.time_us >= *from) {
            served.entry(kind).or_insert_with(|| vec![false; calm.len()])[stretch] = true;
        }
    }
    let count = |kind: &str| served.get(kind).map_or(0, |all| all.iter().filter(|s| **s).count());
    let few = KINDS.into_iter().filter(|kind| count(kind) * 4 < calm.len() * OF_FOUR);
    few.map(|kind| {
        let (count, of) = (count(kind), calm.len());
        format!("a {kind} succeeded in {count} of {of} calm times only, {OF_FOUR} of 4 are needed")
    })
    .collect()
}

/// What kind of success this is, if it is one.
fn kind(event: &Event, client: &str) -> Option<&'static str> {
    if event.outcome != Outcome::Ok {
        return None;
    }
    match (&event.operation, client) {
        (Operation::Send { .. }, "idempotent producer") => Some(KINDS[0]),
        (Operation::Send { .. }, "plain producer") => Some(KINDS[1]),
        (Operation::Send { .. }, "named producer") => Some(KINDS[2]),
        // To be handed nothing is no sign of being served.
        (Operation::Poll { reads, .. }, _) if reads.is_empty() => None,
        (Operation::Poll { .. }, "assigned consumer") => Some(KINDS[3]),
        (Operation::Poll { .. }, "group member") => Some(KINDS[4]),
        (Operation::CommitOffset { .. }, _) => Some(KINDS[5]),
        (Operation::FetchOffset { .. }, _) => Some(KINDS[6]),
        (Operation::Meta { key, .. }, _) if key.starts_with("topic ") => Some(KINDS[7]),
        (Operation::Meta { .. }, "offset register reader") => Some(KINDS[9]),
        (Operation::Meta { .. }, _) => Some(KINDS[8]),
        (Operation::Lease { .. }, _) => Some(KINDS[10]),
        _ => None,
    }
}

/// Faults in whose time, calm included, nothing was acknowledged.
fn idle(history: &History, faults: &[FaultRun], until_us: u64) -> Vec<String> {
    let acknowledged = history.events.iter().filter(|event| {
        event.outcome == Outcome::Ok && matches!(event.operation, Operation::Send { .. })
    });
    let times: Vec<u64> = acknowledged.map(|event| event.time_us).collect();
    let ends = faults.iter().skip(1).map(|fault| fault.begun_us).chain([until_us]);
    let idle = faults.iter().zip(ends).filter(|(fault, end)| {
        let next = times.get(times.partition_point(|time| *time < fault.begun_us));
        next.is_none_or(|time| time > end)
    });
    idle.map(|(fault, _)| format!("nothing was acknowledged from {} to the next fault", fault.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::fault;
    use super::*;
    use crate::history::{Answer, Ask, Partition, Read, Value};

    const AT: Partition = Partition { topic: 0, partition: 0 };

    /// A success of each kind, by processes of their own, in this second.
    fn all_kinds(second: u64) -> Vec<Event> {
        let meta = |key: &str| Operation::Meta {
            key: key.to_owned(),
            ask: Ask::Read,
            answer: Some(Answer::Absent),
        };
        let send = || Operation::Send {
            at: AT,
            value: Value { process: 1, counter: second },
            offset: Some(second),
            fenced: false,
        };
        let read = Read { at: AT, offset: second, value: None };
        let poll = || Operation::Poll { reads: vec![read], failure: None };
        let group = || "group-0".to_owned();
        let commit =
            Operation::CommitOffset { group: group(), at: AT, offset: second, member: true };
        let operations = [
            ("idempotent producer", send()),
            ("plain producer", send()),
            ("named producer", send()),
            ("assigned consumer", poll()),
            ("group member", poll()),
            ("group member", commit),
            ("group member", Operation::FetchOffset { group: group(), at: AT, offset: None }),
            ("metadata client", meta("topic a")),
            ("offset register client", meta("offset a")),
            ("offset register reader", meta("offset a")),
            (
                "lease watcher",
                Operation::Lease { at: AT, epoch: 1, session: 1, log_start: 0, high_watermark: 1 },
            ),
        ];
        let events = operations.into_iter().zip(1..).flat_map(|((client, operation), process)| {
            let client = client.to_owned();
            let start = Operation::Start { client, duplicates: false, follows: None };
            [start, operation].map(|operation| Event {
                time_us: second * 1_000_000,
                process,
                outcome: Outcome::Ok,
                operation,
            })
        });
        events.collect()
    }

    /// Four faults, each with a calm time of six seconds behind it.
    fn faults() -> Vec<FaultRun> {
        (0..4).map(|n| fault(n * 10, n * 10 + 4)).collect()
    }

    fn told(history: &History) -> Vec<String> {
        reasons(history, &faults(), &Report::default(), 40_000_000)
    }

    fn at(seconds: &[u64]) -> History {
        History { events: seconds.iter().flat_map(|second| all_kinds(*second)).collect() }
    }

    #[test]
    fn a_run_in_which_everybody_is_served_proves_something() {
        assert_eq!(told(&at(&[5, 15, 25, 35])), [""; 0]);
        // Not at once in each of the calm times.
        assert_eq!(told(&at(&[5, 11, 25, 39])), [""; 0]);
    }

    #[test]
    fn every_kind_that_is_served_too_seldom_is_named() {
        for (place, kind) in KINDS.into_iter().enumerate() {
            let process = place as u32 + 1;
            let mut history = at(&[5, 15, 25, 35]);
            history.events.retain(|event| event.process != process || event.time_us < 16_000_000);
            let reasons = told(&history);
            let named = format!("a {kind} succeeded in 2 of 4 calm times only");
            assert_eq!(reasons.len(), 1, "{kind}: {reasons:?}");
            assert!(reasons[0].starts_with(&named), "{reasons:?}");
        }
    }

    #[test]
    fn what_succeeds_only_while_faults_are_there_is_too_little() {
        assert_eq!(told(&at(&[1, 11, 21, 31])).len(), KINDS.len());
    }

    #[test]
    fn to_be_handed_nothing_is_not_to_be_served() {
        let mut history = at(&[5, 15, 25, 35]);
        for event in &mut history.events {
            if let Operation::Poll { reads, .. } = &mut event.operation {
                reads.clear();
            }
        }
        assert_eq!(told(&history).len(), 2);
    }

    #[test]
    fn a_fault_that_was_never_there_and_a_run_without_calm_prove_nothing() {
        let history = at(&[1, 5]);
        let faults = [FaultRun { installed: false, ..fault(0, 4) }];
        let reasons = reasons(&history, &faults, &Report::default(), 5_000_000);
        assert!(reasons[0].contains("was never really installed"), "{reasons:?}");
        assert!(reasons[1].contains("no time was calm"), "{reasons:?}");
    }
}
