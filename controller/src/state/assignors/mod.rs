//! Who of a group's members shall read which partition: pure functions.
//!
//! Each is a function of its arguments alone (PURE), gives every partition
//! that somebody subscribes to exactly one member, and one who subscribes to
//! its topic. None of them stops anybody: what moves is given up by its old
//! owner first, whatever the assignor (see [`groups`](super::groups)).

mod range;
mod round_robin;
mod sticky;

use super::command::{PartitionKey, TopicKey};
use bincode::{Decode, Encode};
use std::collections::BTreeMap;

/// How partitions are shared out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Assignor {
    /// Balanced, and as little moves as that allows.
    #[default]
    Sticky,
    /// Topic by topic, neighbouring partitions to one member: the same
    /// partition of topics of the same size goes to the same member.
    Range,
    /// Partition after partition, member after member.
    RoundRobin,
}

/// What there is to share out, and among whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Topics and how many partitions each has, in the order of their ids.
    pub topics: Vec<(TopicKey, u32)>,
    /// The different subscriptions: indices into `topics`, ascending.
    pub subscriptions: Vec<Vec<usize>>,
    /// Each member's subscription, by index. Members stand in the order in
    /// which they joined, so that a newcomer changes nobody's place.
    pub members: Vec<usize>,
    /// Who was to read what before, by index of the member.
    pub before: BTreeMap<PartitionKey, usize>,
}

impl Work {
    /// Every partition that somebody subscribes to.
    pub fn partitions(&self) -> impl Iterator<Item = (usize, PartitionKey)> {
        let wanted = self.wanted();
        let topics = self.topics.iter().enumerate().filter(move |(index, _)| wanted[*index]);
        topics.flat_map(|(index, (topic, count))| {
            (0..*count).map(move |partition| (index, PartitionKey { topic: *topic, partition }))
        })
    }

    /// Per topic, whether it has a subscriber.
    fn wanted(&self) -> Vec<bool> {
        let mut used = vec![false; self.subscriptions.len()];
        for subscription in &self.members {
            used[*subscription] = true;
        }
        let mut wanted = vec![false; self.topics.len()];
        let subscriptions = self.subscriptions.iter().zip(used).filter(|(_, used)| *used);
        for topic in subscriptions.flat_map(|(topics, _)| topics) {
            wanted[*topic] = true;
        }
        wanted
    }

    /// Who subscribes to each topic.
    fn subscribers(&self) -> Subscribers {
        let mut members = vec![Vec::new(); self.subscriptions.len()];
        for (member, subscription) in self.members.iter().enumerate() {
            members[*subscription].push(member);
        }
        let mut of_topic = vec![Vec::new(); self.topics.len()];
        for (subscription, topics) in self.subscriptions.iter().enumerate() {
            for topic in topics.iter().filter(|_| !members[subscription].is_empty()) {
                of_topic[*topic].push(subscription);
            }
        }
        Subscribers { members, of_topic }
    }

    /// Whether that member subscribes to that topic.
    fn subscribes(&self, member: usize, topic: usize) -> bool {
        self.subscriptions[self.members[member]].binary_search(&topic).is_ok()
    }
}

/// Members by what they subscribe to. There are few different things
/// ([`MAX_SUBSCRIPTIONS`](super::groups::MAX_SUBSCRIPTIONS)), so that who
/// subscribes to a topic is found without a look at every member.
struct Subscribers {
    /// Of each subscription, ascending.
    members: Vec<Vec<usize>>,
    /// Of each topic, the subscriptions that name it and that somebody has.
    of_topic: Vec<Vec<usize>>,
}

impl Subscribers {
    fn count(&self, topic: usize) -> usize {
        self.of_topic[topic].iter().map(|subscription| self.members[*subscription].len()).sum()
    }

    /// The first subscriber of the topic from that member on, in the members' order.
    fn next(&self, topic: usize, from: usize) -> Option<usize> {
        let first = |subscription: &usize| {
            let members = &self.members[*subscription];
            members.get(members.partition_point(|member| *member < from)).copied()
        };
        self.of_topic[topic].iter().filter_map(first).min()
    }
}

/// The member, by index, that shall read each partition.
pub type Assignment = BTreeMap<PartitionKey, usize>;

/// Shares the work out.
pub fn assign(assignor: Assignor, work: &Work) -> Assignment {
    match assignor {
        Assignor::Sticky => sticky::assign(work),
        Assignor::Range => range::assign(work),
        Assignor::RoundRobin => round_robin::assign(work),
    }
}
