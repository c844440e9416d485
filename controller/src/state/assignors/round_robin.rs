//! Kafka's round-robin assignor: all partitions in order, dealt to the members
//! in turn; one who does not subscribe to a topic is passed over.

use super::{Assignment, Work};

pub(super) fn assign(work: &Work) -> Assignment {
    let subscribers = work.subscribers();
    let mut assignment = Assignment::new();
    let mut turn = 0;
    for (topic, key) in work.partitions() {
        // After the last member comes the first.
        let next = subscribers.next(topic, turn).or_else(|| subscribers.next(topic, 0));
        if let Some(next) = next {
            assignment.insert(key, next);
            turn = next + 1;
        }
    }
    assignment
}
