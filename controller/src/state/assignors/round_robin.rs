//! Kafka's round-robin assignor: all partitions in order, dealt to the members
//! in turn; one who does not subscribe to a topic is passed over.

use super::{Assignment, Work};

pub(super) fn assign(work: &Work) -> Assignment {
    let count = work.members.len();
    let mut assignment = Assignment::new();
    let mut turn = 0;
    for (topic, key) in work.partitions() {
        // Somebody subscribes to it: the search ends.
        let next = (turn..turn + count).find(|turn| work.subscribes(turn % count, topic));
        if let Some(next) = next {
            assignment.insert(key, next % count);
            turn = (next + 1) % count;
        }
    }
    assignment
}
