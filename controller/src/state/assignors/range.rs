//! Kafka's range assignor: of each topic every subscriber gets a run of
//! neighbouring partitions, the first ones one more if it does not come out
//! even.

use super::{Assignment, Work};
use crate::state::command::PartitionKey;

pub(super) fn assign(work: &Work) -> Assignment {
    let mut assignment = Assignment::new();
    for (index, (topic, count)) in work.topics.iter().enumerate() {
        let members = 0..work.members.len();
        let subscribers: Vec<_> = members.filter(|m| work.subscribes(*m, index)).collect();
        if subscribers.is_empty() {
            continue;
        }
        let (each, more) =
            (*count as usize / subscribers.len(), *count as usize % subscribers.len());
        let mut partition = 0;
        for (nth, member) in subscribers.into_iter().enumerate() {
            for _ in 0..each + usize::from(nth < more) {
                assignment.insert(PartitionKey { topic: *topic, partition }, member);
                partition += 1;
            }
        }
    }
    assignment
}
