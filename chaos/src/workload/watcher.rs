//! Those who only look: at leases, as any client can, and at the controllers' states, past all faults.

use std::collections::BTreeMap;
use std::time::Duration;

use streamhouse_client::TopicDescription;

use super::World;
use crate::cluster;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome, Partition};
use crate::recorder::HARNESS;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);

/// Watchers of leases, each of whom asks controllers of its own.
pub(super) const WATCHERS: usize = 2;

/// Reads all leases, linearizably, again and again: what one controller answers must fit what another one did.
pub(super) async fn leases(world: World, number: usize) -> Result<(), ChaosError> {
    let admin = cluster::admin(&own(&world.access.controllers, number))?;
    let process = world.start("lease watcher", false);
    while world.pause(LOOK).await {
        for (topic, number) in world.topics.iter().zip(0..) {
            for partition in 0..topic.partitions {
                let at = Partition { topic: number, partition };
                world.recorder.record(process, Outcome::Invoke, asked(at));
            }
            if let Ok(described) = admin.describe_topic(&topic.name).await {
                record(&world, process, number, &described);
            }
        }
    }
    Ok(())
}

/// The controllers that this watcher asks and the other one does not, where there are several.
fn own(controllers: &[String], number: usize) -> Vec<String> {
    let mine = controllers.iter().skip(number % controllers.len().max(1)).step_by(WATCHERS);
    mine.cloned().collect()
}

fn asked(at: Partition) -> Operation {
    Operation::Lease { at, epoch: 0, session: 0, log_start: 0, high_watermark: 0 }
}

fn record(world: &World, process: u32, topic: u32, described: &TopicDescription) {
    for found in &described.partitions {
        let lease = Operation::Lease {
            at: Partition { topic, partition: found.partition },
            epoch: found.lease_epoch,
            session: found.holder.map_or(0, |session| session.0),
            log_start: found.log_start,
            high_watermark: found.high_watermark,
        };
        world.recorder.record(process, Outcome::Ok, lease);
    }
}

/// Notes each controller's hash at each index at which it is seen, once.
pub(super) async fn replicas(world: World) -> Result<(), ChaosError> {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    while world.pause(LOOK).await {
        for (_, status) in cluster::statuses(&world.access).await {
            if last.insert(status.id, status.applied) == Some(status.applied) {
                continue;
            }
            let (controller, applied, hash) = (status.id, status.applied, status.state_hash);
            let replica = Operation::Replica { controller, applied, hash };
            world.recorder.record(HARNESS, Outcome::Ok, replica);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_watchers_ask_different_controllers_where_there_are_several() {
        let of = |count, number| own(&["a", "b", "c"].map(String::from)[..count], number);
        assert_eq!((of(3, 0), of(3, 1)), (vec!["a".into(), "c".into()], vec!["b".into()]));
        assert_eq!((of(1, 0), of(1, 1)), (vec!["a".into()], vec!["a".into()]));
    }
}
