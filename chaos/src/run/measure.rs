//! What a history says about availability and speed: gaps per kind of operation and fault, and each second's figures.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::history::{Event, History, Operation, Outcome, Partition, Value};

use super::report::FaultRun;

/// Kinds of operations whose gaps are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Acknowledgements, partition by partition.
    Send,
    /// Records handed out for the first time, partition by partition.
    Poll,
    /// Answers of metadata clients, all together.
    Metadata,
    /// Offset commits and fetches, all together.
    Offsets,
}

/// The longest times without an operation of one kind, one for each fault.
#[derive(Debug, Clone, Serialize)]
pub struct Gaps {
    /// The kind.
    pub kind: String,
    /// Half of the faults kept it waiting no longer.
    pub p50_ms: u64,
    /// 99 of 100 faults.
    pub p99_ms: u64,
    /// All.
    pub max_ms: u64,
    /// The fault of the longest.
    pub worst_fault: String,
    /// When that began, seconds into the run.
    pub worst_at_s: f64,
}

/// One second of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Second {
    pub(super) acknowledged: u64,
    pub(super) read: u64,
    /// Milliseconds from the call to the acknowledgement.
    pub(super) latencies: Vec<f64>,
}

/// Successes of one kind, in one place, by time in microseconds.
type Successes = BTreeMap<(Kind, Option<Partition>), Vec<u64>>;

/// Notes for each fault how long partitions were not written in its time, and after its healing.
pub(super) fn pauses(history: &History, faults: &mut [FaultRun], until_us: u64) {
    let successes = successes(history);
    let sends = successes.iter().filter(|((kind, _), _)| *kind == Kind::Send);
    let places: Vec<&Vec<u64>> = sends.map(|(_, times)| times).collect();
    let ends = ends(faults, until_us);
    for (fault, end) in faults.iter_mut().zip(ends) {
        let of_place = |times: &&Vec<u64>| longest(times, fault.begun_us, end, until_us);
        fault.pause_us = places.iter().map(of_place).max().unwrap_or(0);
        let served = |times: &&Vec<u64>| {
            let first = times.partition_point(|time| *time < fault.healed_us);
            times.get(first).map(|time| time - fault.healed_us)
        };
        let all: Option<Vec<u64>> = places.iter().map(served).collect();
        fault.writable_us = all.and_then(|all| all.into_iter().max());
    }
}

/// Each fault's time ends where the next begins.
fn ends(faults: &[FaultRun], until_us: u64) -> Vec<u64> {
    faults.iter().skip(1).map(|fault| fault.begun_us).chain([until_us]).collect()
}

pub(super) fn gaps(history: &History, faults: &[FaultRun], until_us: u64) -> Vec<Gaps> {
    let successes = successes(history);
    let mut gaps = Vec::new();
    for kind in [Kind::Send, Kind::Poll, Kind::Metadata, Kind::Offsets] {
        let places: Vec<&Vec<u64>> =
            successes.iter().filter(|((k, _), _)| *k == kind).map(|(_, times)| times).collect();
        let longest = faults.iter().zip(ends(faults, until_us)).map(|(fault, end)| {
            let of_place = |times: &&Vec<u64>| longest(times, fault.begun_us, end, until_us);
            (places.iter().map(of_place).max().unwrap_or(0), fault)
        });
        gaps.extend(Gaps::of(&format!("{kind:?}").to_lowercase(), longest));
    }
    let writable = faults.iter().filter_map(|fault| Some((fault.writable_us?, fault)));
    gaps.extend(Gaps::of("writable again", writable));
    for name in ["kill-leader", "kill-agent"] {
        let of_name = faults.iter().filter(|fault| fault.name == name);
        gaps.extend(Gaps::of(&format!("send, {name}"), of_name.map(|f| (f.pause_us, f))));
    }
    gaps
}

impl Gaps {
    fn of<'f>(kind: &str, longest: impl Iterator<Item = (u64, &'f FaultRun)>) -> Option<Self> {
        let mut longest: Vec<_> = longest.collect();
        longest.sort_by_key(|(gap, _)| *gap);
        let (max, worst) = *longest.last()?;
        let rank = |percent: usize| longest[(longest.len() * percent).div_ceil(100).max(1) - 1].0;
        Some(Self {
            kind: kind.to_owned(),
            p50_ms: rank(50) / 1_000,
            p99_ms: rank(99) / 1_000,
            max_ms: max / 1_000,
            worst_fault: worst.name.to_owned(),
            worst_at_s: worst.begun_us as f64 / 1e6,
        })
    }
}

/// What may lie between two successes of a place that is served: a gap that began so shortly before a fault is its.
const USUAL_US: u64 = 1_000_000;

/// The longest time without a success that began from `from` to `to`; one that never ended counts to `end`.
fn longest(times: &[u64], from: u64, to: u64, end: u64) -> u64 {
    let (from, to) = (from.saturating_sub(USUAL_US), to.saturating_sub(USUAL_US));
    let first = times.partition_point(|time| *time < from);
    let begun = times[first..].iter().take_while(|time| **time < to);
    let ends = times[first..].iter().skip(1).chain([&end]);
    begun.zip(ends).map(|(begun, ended)| ended.saturating_sub(*begun)).max().unwrap_or(0)
}

fn successes(history: &History) -> Successes {
    let mut successes = Successes::new();
    let mut furthest: HashMap<Partition, u64> = HashMap::new();
    for Event { time_us, outcome, operation, .. } in &history.events {
        if *outcome != Outcome::Ok {
            continue;
        }
        let mut note = |kind, at| successes.entry((kind, at)).or_default().push(*time_us);
        match operation {
            Operation::Send { at, .. } => note(Kind::Send, Some(*at)),
            Operation::Poll { reads } => {
                for read in reads {
                    let known = furthest.entry(read.at).or_default();
                    if read.offset >= *known {
                        *known = read.offset + 1;
                        note(Kind::Poll, Some(read.at));
                    }
                }
            }
            Operation::Meta { key, .. } if key.starts_with("topic ") => note(Kind::Metadata, None),
            Operation::Meta { .. }
            | Operation::CommitOffset { .. }
            | Operation::FetchOffset { .. } => note(Kind::Offsets, None),
            _ => {}
        }
    }
    successes
}

pub(super) fn seconds(history: &History) -> Vec<Second> {
    let mut seconds: Vec<Second> = Vec::new();
    let mut asked: HashMap<Value, u64> = HashMap::new();
    for Event { time_us, outcome, operation, .. } in &history.events {
        let at = (*time_us / 1_000_000) as usize;
        if seconds.len() <= at {
            seconds.resize(at + 1, Second::default());
        }
        match (operation, outcome) {
            (Operation::Send { value, .. }, Outcome::Invoke) => {
                asked.insert(*value, *time_us);
            }
            (Operation::Send { value, .. }, Outcome::Ok) => {
                seconds[at].acknowledged += 1;
                if let Some(asked) = asked.remove(value) {
                    seconds[at].latencies.push((time_us - asked) as f64 / 1_000.0);
                }
            }
            (Operation::Poll { reads }, Outcome::Ok) => seconds[at].read += reads.len() as u64,
            _ => {}
        }
    }
    for second in &mut seconds {
        second.latencies.sort_by(f64::total_cmp);
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(begun: u64, healed: u64) -> FaultRun {
        FaultRun {
            name: "kill-agent",
            detail: String::new(),
            installed: true,
            begun_us: begun * 1_000_000,
            healed_us: healed * 1_000_000,
            whole_us: healed * 1_000_000,
            pause_us: 0,
            writable_us: None,
            problem: None,
        }
    }

    #[test]
    fn a_fault_is_over_for_producers_when_the_last_partition_is_written_again() {
        let acked = |second: u64, partition| Event {
            time_us: second * 1_000_000,
            process: 1,
            outcome: Outcome::Ok,
            operation: Operation::Send {
                at: Partition { topic: 0, partition },
                value: Value { process: 1, counter: second },
                offset: Some(second),
                fenced: false,
            },
        };
        let events =
            [(1, 0), (1, 1), (9, 0), (12, 0), (14, 1), (20, 0), (21, 0)].map(|(s, p)| acked(s, p));
        let history = History { events: events.to_vec() };
        let mut faults = [fault(2, 10), fault(30, 31)];
        pauses(&history, &mut faults, 40_000_000);
        // The one partition from 1 to 14; the other from 14 on, for good.
        assert_eq!((faults[0].pause_us, faults[0].writable_us), (26_000_000, Some(4_000_000)));
        assert_eq!(faults[1].writable_us, None);
    }

    #[test]
    fn a_gap_counts_for_the_fault_in_whose_time_it_began() {
        let seconds = |times: &[u64]| times.iter().map(|s| s * 1_000_000).collect::<Vec<_>>();
        let times = seconds(&[9, 10, 50, 55, 60]);
        let longest = |from, to| {
            let [from, to, end] = [from, to, 90].map(|s| s * 1_000_000);
            longest(&times, from, to, end) / 1_000_000
        };
        // It began with the last success before the fault, and reaches into the time of the next.
        assert_eq!(longest(11, 30), 40);
        assert_eq!(longest(30, 54), 5);
        // Nothing came any more.
        assert_eq!(longest(57, 80), 30);
        assert_eq!(longest(80, 90), 0);
    }
}
