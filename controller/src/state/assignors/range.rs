//! Kafka's range assignor: of each topic every subscriber gets a run of
//! neighbouring partitions, the first ones one more if it does not come out
//! even.

use super::{Assignment, Work};
use crate::state::command::PartitionKey;

pub(super) fn assign(work: &Work) -> Assignment {
    let subscribers = work.subscribers();
    let mut assignment = Assignment::new();
    for (index, (topic, count)) in work.topics.iter().enumerate() {
        let among = subscribers.count(index);
        if among == 0 {
            continue;
        }
        let (each, more) = (*count as usize / among, *count as usize % among);
        let (mut partition, mut nth, mut from) = (0, 0, 0);
        // BOUND: no more steps than partitions; who comes after gets none.
        while partition < *count
            && let Some(member) = subscribers.next(index, from)
        {
            for _ in 0..each + usize::from(nth < more) {
                assignment.insert(PartitionKey { topic: *topic, partition }, member);
                partition += 1;
            }
            (nth, from) = (nth + 1, member + 1);
        }
    }
    assignment
}
