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

/// Waits until all partitions have taken a record after `healed_us`, or that is given up; why it took too long.
pub(super) async fn writable(
    recorder: &Recorder,
    partitions: &[Partition],
    healed_us: u64,
) -> Option<String> {
    let healed = Duration::from_micros(healed_us);
    let mut bound = WRITABLE;
    // How long after healing each was seen to be written: what counts is when that was, not when it is looked at.
    let mut written: BTreeMap<Partition, Duration> = BTreeMap::new();
    loop {
        let mut missing = Vec::new();
        for at in partitions {
            match recorder.acknowledged_us(*at).filter(|time| *time >= healed_us) {
                Some(time) => {
                    written.entry(*at).or_insert(Duration::from_micros(time - healed_us));
                }
                None => missing.push(*at),
            }
        }
        if missing.is_empty() {
            written.retain(|_, took| *took > bound);
            let last = written.values().max()?.as_secs_f64();
            let late = list(written.keys());
            return Some(format!("written again only {last:.1} s after healing: {late}"));
        }
        if recorder.elapsed().saturating_sub(healed) > GIVE_UP {
            let missing = list(&missing);
            return Some(format!("not written for {GIVE_UP:?} after healing: {missing}"));
        }
        let begun = clock::now();
        tokio::time::sleep(LOOK).await;
        // When the suite itself stands still, so does all it looks at.
        bound += begun.elapsed().saturating_sub(2 * LOOK);
    }
}

fn list<'p>(partitions: impl IntoIterator<Item = &'p Partition>) -> String {
    partitions.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Waits until the controllers are identical; how long after `healed_us` that was, or why not.
pub(super) async fn identical(
    access: &Access,
    recorder: &Recorder,
    healed_us: u64,
) -> Result<Duration, String> {
    let healed = Duration::from_micros(healed_us);
    let mut reason = "they were not asked".to_owned();
    loop {
        let left = (healed + IDENTICAL).saturating_sub(recorder.elapsed());
        if left.is_zero() {
            return Err(format!("controllers not identical {IDENTICAL:?} after healing: {reason}"));
        }
        let asked = admin(&access.direct).map_err(|error| error.to_string())?;
        match audit::compare(&asked, left).await {
            // One that begins anew is no member yet.
            Ok((found, None)) if found.controllers.len() < access.direct.len() => {
                reason = format!("they are {} only", found.controllers.len());
            }
            Ok((_, None)) => return Ok(recorder.elapsed().saturating_sub(healed)),
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
    use super::*;
    use crate::history::{Operation, Outcome, Value};

    const AT: [Partition; 2] =
        [Partition { topic: 0, partition: 0 }, Partition { topic: 0, partition: 1 }];

    fn recorder() -> (tempfile::TempDir, Recorder) {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&folder.path().join("history.jsonl")).unwrap();
        (folder, recorder)
    }

    fn acknowledge(recorder: &Recorder, at: Partition) {
        let value = Value { process: 1, counter: 0 };
        let send = Operation::Send { at, value, offset: Some(0), fenced: false };
        recorder.record(1, Outcome::Ok, send);
    }

    #[tokio::test]
    async fn partitions_that_are_written_at_once_are_no_problem() {
        let (_folder, recorder) = recorder();
        AT.into_iter().for_each(|at| acknowledge(&recorder, at));
        assert_eq!(writable(&recorder, &AT, 0).await, None);
    }

    #[tokio::test]
    async fn partitions_that_are_looked_at_late_were_written_when_they_were() {
        let (_folder, recorder) = recorder();
        AT.into_iter().for_each(|at| acknowledge(&recorder, at));
        tokio::time::sleep(WRITABLE + Duration::from_millis(500)).await;
        assert_eq!(writable(&recorder, &AT, 0).await, None);
    }

    #[tokio::test]
    async fn a_partition_that_was_written_before_healing_only_is_named() {
        let (_folder, recorder) = recorder();
        AT.into_iter().for_each(|at| acknowledge(&recorder, at));
        let healed = recorder.elapsed() + Duration::from_millis(1);
        let healed_us = u64::try_from(healed.as_micros()).unwrap();
        let waits = writable(&recorder, &AT, healed_us);
        let writes = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            acknowledge(&recorder, AT[0]);
            tokio::time::sleep(Duration::from_millis(5_500)).await;
            acknowledge(&recorder, AT[1]);
        };
        let (problem, ()) = tokio::join!(waits, writes);
        let problem = problem.unwrap();
        assert!(problem.contains("only 5.") && problem.ends_with(": 0/1"), "{problem}");
    }
}
