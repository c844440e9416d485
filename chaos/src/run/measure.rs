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

pub(super) fn gaps(history: &History, faults: &[FaultRun], until_us: u64) -> Vec<Gaps> {
    let successes = successes(history);
    let mut gaps = Vec::new();
    for kind in [Kind::Send, Kind::Poll, Kind::Metadata, Kind::Offsets] {
        let places: Vec<&Vec<u64>> =
            successes.iter().filter(|((k, _), _)| *k == kind).map(|(_, times)| times).collect();
        // Each fault's time ends where the next begins.
        let ends = faults.iter().skip(1).map(|fault| fault.begun_us).chain([until_us]);
        let mut longest: Vec<(u64, &FaultRun)> = faults
            .iter()
            .zip(ends)
            .map(|(fault, end)| {
                let of_place = |times: &&Vec<u64>| longest(times, fault.begun_us, end);
                (places.iter().map(of_place).max().unwrap_or(end - fault.begun_us), fault)
            })
            .collect();
        longest.sort_by_key(|(gap, _)| *gap);
        let Some((max, worst)) = longest.last() else { continue };
        let rank = |percent: usize| longest[(longest.len() * percent).div_ceil(100).max(1) - 1].0;
        gaps.push(Gaps {
            kind: format!("{kind:?}").to_lowercase(),
            p50_ms: rank(50) / 1_000,
            p99_ms: rank(99) / 1_000,
            max_ms: max / 1_000,
            worst_fault: worst.name.to_owned(),
            worst_at_s: worst.begun_us as f64 / 1e6,
        });
    }
    gaps
}

/// The longest time without a success that touches the time from `from` to `to`.
fn longest(times: &[u64], from: u64, to: u64) -> u64 {
    let first = times.partition_point(|time| *time <= from);
    let mut before = first.checked_sub(1).map_or(from, |at| times[at]);
    let mut longest = 0;
    for time in &times[first..] {
        longest = longest.max(time - before);
        before = *time;
        if *time >= to {
            return longest;
        }
    }
    longest.max(to.saturating_sub(before))
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

    #[test]
    fn a_gap_counts_where_it_touches_the_time_looked_at() {
        let times = [0, 10, 50, 55, 60];
        // From 10 to 50, although the fault began at 20.
        assert_eq!(longest(&times, 20, 58), 40);
        assert_eq!(longest(&times, 51, 60), 5);
        // Nothing came any more.
        assert_eq!(longest(&times, 70, 100), 40);
        assert_eq!(longest(&[], 70, 100), 30);
    }
}
