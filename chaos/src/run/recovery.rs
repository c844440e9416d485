//! What must come about after healing, and by when.

use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::GroupDescription;

use crate::audit::{self, Problem};
use crate::clock;
use crate::cluster::{Access, admin};
use crate::history::Partition;
use crate::recorder::Recorder;
use crate::workload::World;

use super::standstill::{Standstill, Watcher};

/// Every partition takes a record.
const WRITABLE: Duration = Duration::from_secs(5);
/// For so long it is waited for, so that the next fault does not meet what the one before has left.
const GIVE_UP: Duration = Duration::from_secs(60);
/// The controllers are seen at one applied index, with one hash.
const IDENTICAL: Duration = Duration::from_secs(30);
/// Every group has committed all there is, once nobody writes any more. Members may be away for eight seconds, and dead
/// for three until that is known.
const CAUGHT_UP: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Groups of the workload, by name.
const GROUPS: [&str; 2] = ["group-0", "group-1"];

/// Waits until all partitions have taken a record that was sent after `healed_us`, the recorder's mark, or that is
/// given up; why it took too long.
pub(super) async fn writable(
    recorder: &Recorder,
    partitions: &[Partition],
    healed_us: u64,
    watcher: &Watcher,
) -> Option<String> {
    loop {
        let written = partitions.iter().map(|at| (*at, recorder.written_us(*at)));
        let written: BTreeMap<Partition, Option<u64>> = written.collect();
        let missing = written.iter().filter(|(_, time)| time.is_none()).map(|(at, _)| at);
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            let written = written.into_iter().filter_map(|(at, time)| Some((at, time?)));
            return too_late(written.collect(), healed_us, &watcher.seen());
        }
        if recorder.elapsed_us().saturating_sub(healed_us) > GIVE_UP.as_micros() as u64 {
            let missing = list(missing);
            return Some(format!("not written for {GIVE_UP:?} after healing: {missing}"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Partitions whose first record came later than it may, apart from what the machine stood still meanwhile.
fn too_late(
    written: BTreeMap<Partition, u64>,
    healed_us: u64,
    standstill: &Standstill,
) -> Option<String> {
    let took = |time: u64| {
        let us = time.saturating_sub(healed_us) - standstill.within(healed_us, time);
        Duration::from_micros(us)
    };
    let mut late: BTreeMap<Partition, Duration> =
        written.into_iter().map(|(at, time)| (at, took(time))).collect();
    late.retain(|_, took| *took > WRITABLE);
    let last = late.values().max()?.as_secs_f64();
    let late = list(late.keys());
    Some(format!(
        "written again only {last:.1} s after healing, at most {WRITABLE:?} allowed: {late}"
    ))
}

fn list<'p>(partitions: impl IntoIterator<Item = &'p Partition>) -> String {
    partitions.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Waits until the controllers are identical; how long after `healed_us` that was, or why not.
pub(super) async fn identical(
    access: &Access,
    recorder: &Recorder,
    healed_us: u64,
    watcher: &Watcher,
) -> Result<Duration, String> {
    // What is left of the bound; the machine's standstill is nobody's.
    let left = || {
        let now_us = recorder.elapsed_us();
        let stood_us = watcher.seen().within(healed_us, now_us);
        let took = Duration::from_micros(now_us.saturating_sub(healed_us) - stood_us);
        IDENTICAL.saturating_sub(took)
    };
    let mut reason = "they were not asked".to_owned();
    loop {
        let left_now = left();
        if left_now.is_zero() {
            return Err(format!("controllers not identical {IDENTICAL:?} after healing: {reason}"));
        }
        let asked = admin(&access.direct).map_err(|error| error.to_string())?;
        match audit::compare(&asked, left_now).await {
            // One that begins anew is no member yet.
            Ok((found, None)) if found.controllers.len() < access.direct.len() => {
                reason = format!("they are {} only", found.controllers.len());
            }
            Ok((_, None)) if left().is_zero() => reason = "they were so only then".to_owned(),
            Ok((_, None)) => {
                return Ok(recorder.elapsed().saturating_sub(Duration::from_micros(healed_us)));
            }
            Ok((_, Some(Problem::ReplicaDivergence { applied, .. }))) => {
                return Err(format!("controllers differ at index {applied} after healing"));
            }
            Ok((_, Some(problem))) => reason = format!("{problem:?}"),
            Err(error) => reason = error.to_string(),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until each group, with the members that it has, has got to the ends; what kept one from that.
pub(super) async fn groups(world: &World) -> Vec<String> {
    let begun = clock::now();
    let mut problems = Vec::new();
    for group in GROUPS {
        loop {
            let Some(behind) = behind(world, group).await else { break };
            if begun.elapsed() > CAUGHT_UP {
                problems.push(format!(
                    "{group} is not at the ends {CAUGHT_UP:?} after the last record: {behind}"
                ));
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    problems
}

/// Where the group has not committed all.
async fn behind(world: &World, group: &str) -> Option<String> {
    let described = match admin(&world.access.direct) {
        Ok(admin) => admin.describe_group(group).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match described {
        Ok(described) => world.partitions().into_iter().find_map(|at| short(world, &described, at)),
        Err(error) => Some(error),
    }
}

fn short(world: &World, group: &GroupDescription, at: Partition) -> Option<String> {
    let mut found = group.partitions.iter();
    let found = found.find(|f| f.at.topic == *world.name(at) && f.at.partition == at.partition);
    let Some(found) = found else { return Some(format!("{at} is nobody's, nothing is committed")) };
    let owner = if found.owner.is_some() { "a member's" } else { "nobody's" };
    let committed = found.committed;
    (committed.unwrap_or(0) < found.end)
        .then(|| format!("{at} is {owner}, {committed:?} of {} is committed", found.end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::history::{Operation, Outcome, Value};

    const AT: [Partition; 2] =
        [Partition { topic: 0, partition: 0 }, Partition { topic: 0, partition: 1 }];

    fn recorder() -> (tempfile::TempDir, Arc<Recorder>, Watcher) {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Arc::new(Recorder::create(&folder.path().join("history.jsonl")).unwrap());
        let watcher = Watcher::start(Arc::clone(&recorder)).unwrap();
        (folder, recorder, watcher)
    }

    fn send(recorder: &Recorder, at: Partition, outcome: Outcome) {
        let value = Value { process: at.partition, counter: 0 };
        let send = Operation::Send { at, value, offset: Some(0), fenced: false };
        recorder.record(at.partition, outcome, send);
    }

    #[tokio::test]
    async fn partitions_that_are_written_at_once_are_no_problem() {
        let (_folder, recorder, watcher) = recorder();
        let healed_us = recorder.mark_us();
        for at in AT {
            send(&recorder, at, Outcome::Invoke);
            send(&recorder, at, Outcome::Ok);
        }
        assert_eq!(writable(&recorder, &AT, healed_us, &watcher).await, None);
    }

    #[tokio::test]
    async fn what_was_sent_before_healing_is_no_sign_of_it() {
        let (_folder, recorder, watcher) = recorder();
        AT.into_iter().for_each(|at| send(&recorder, at, Outcome::Invoke));
        while recorder.elapsed_us() < 1_000 {}
        let healed_us = recorder.mark_us();
        AT.into_iter().for_each(|at| send(&recorder, at, Outcome::Ok));
        let waits = writable(&recorder, &AT, healed_us, &watcher);
        let writes = async {
            tokio::time::sleep(4 * LOOK).await;
            for at in AT {
                send(&recorder, at, Outcome::Invoke);
                send(&recorder, at, Outcome::Ok);
            }
            recorder.elapsed_us()
        };
        let begun = recorder.elapsed_us();
        let (problem, written_us) = tokio::join!(waits, writes);
        assert_eq!(problem, None);
        assert!(recorder.written_us(AT[0]).unwrap() > begun);
        assert!(recorder.written_us(AT[1]).unwrap() <= written_us);
    }

    #[test]
    fn a_partition_that_was_written_too_late_is_named_unless_the_machine_stood_still() {
        let written = || BTreeMap::from([(AT[0], 1_000_100), (AT[1], 6_000_100)]);
        let problem = too_late(written(), 100, &Standstill::default()).unwrap();
        assert!(problem.contains("only 6.0 s") && problem.ends_with(": 0/1"), "{problem}");
        // Only what lies in that time counts.
        let after = Standstill::of(&[(0, 100), (6_000_100, 9_000_000)]);
        assert!(too_late(written(), 100, &after).is_some());
        let meanwhile = Standstill::of(&[(3_000_000, 4_000_000)]);
        assert_eq!(too_late(written(), 100, &meanwhile), None);
    }
}
