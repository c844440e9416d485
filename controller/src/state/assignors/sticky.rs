//! Balanced with the fewest moves.
//!
//! 1. Whoever was to read a partition goes on, if it still may.
//! 2. What has nobody goes to the least loaded of its subscribers.
//! 3. As long as a member has two partitions more than another subscriber of
//!    one of them, that one moves.
//!
//! Where all members subscribe to the same topics no two differ by more than
//! one partition in the end, and no assignment that says so moves fewer.
//! Where subscriptions differ, no single move would improve it.

use super::{Assignment, Work};
use crate::state::command::PartitionKey;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn assign(work: &Work) -> Assignment {
    if work.members.is_empty() {
        return Assignment::new();
    }
    let mut shares = Shares::new(work);
    for (topic, key) in work.partitions() {
        let before = work.before.get(&key).copied();
        if let Some(member) = before.filter(|member| work.subscribes(*member, topic)) {
            shares.give(member, topic, key);
        }
    }
    for (topic, key) in work.partitions() {
        if !shares.assignment.contains_key(&key)
            && let Some(member) = shares.least_loaded(topic)
        {
            shares.give(member, topic, key);
        }
    }
    while shares.level() {}
    shares.assignment
}

/// Who has what so far.
struct Shares<'a> {
    work: &'a Work,
    assignment: Assignment,
    /// Per member, by topic.
    of_member: Vec<BTreeMap<usize, BTreeSet<PartitionKey>>>,
    loads: Vec<usize>,
    /// Members by load, for each subscription that some have.
    by_load: BTreeMap<usize, BTreeSet<(usize, usize)>>,
    /// Which of those subscriptions name a topic.
    of_topic: Vec<Vec<usize>>,
}

impl<'a> Shares<'a> {
    fn new(work: &'a Work) -> Self {
        let mut by_load = BTreeMap::<usize, BTreeSet<(usize, usize)>>::new();
        for (member, subscription) in work.members.iter().enumerate() {
            by_load.entry(*subscription).or_default().insert((0, member));
        }
        let mut of_topic = vec![Vec::new(); work.topics.len()];
        for subscription in by_load.keys() {
            for topic in &work.subscriptions[*subscription] {
                of_topic[*topic].push(*subscription);
            }
        }
        let count = work.members.len();
        let of_member = vec![BTreeMap::new(); count];
        let (assignment, loads) = (Assignment::new(), vec![0; count]);
        Self { work, assignment, of_member, loads, by_load, of_topic }
    }

    /// Of the subscribers of a topic; of equals the one who joined first.
    fn least_loaded(&self, topic: usize) -> Option<usize> {
        let subscriptions = self.of_topic[topic].iter();
        let least = subscriptions.filter_map(|subscription| self.by_load[subscription].first());
        least.min().map(|(_, member)| *member)
    }

    fn give(&mut self, member: usize, topic: usize, key: PartitionKey) {
        if let Some(was) = self.assignment.insert(key, member) {
            if let Some(partitions) = self.of_member[was].get_mut(&topic) {
                partitions.remove(&key);
            }
            self.weigh(was, self.loads[was] - 1);
        }
        self.of_member[member].entry(topic).or_default().insert(key);
        self.weigh(member, self.loads[member] + 1);
    }

    fn weigh(&mut self, member: usize, load: usize) {
        let by_load = self.by_load.entry(self.work.members[member]).or_default();
        by_load.remove(&(self.loads[member], member));
        by_load.insert((load, member));
        self.loads[member] = load;
    }

    /// One round, always from the most loaded member that can give; tells
    /// whether something moved. Each move makes the sum of the squares of all
    /// loads smaller, so the rounds come to an end.
    fn level(&mut self) -> bool {
        // Of equals the one who joined last gives first.
        let mut givers: BTreeSet<_> =
            self.loads.iter().enumerate().map(|(member, load)| (*load, member)).collect();
        let mut moved = false;
        while let Some((_, member)) = givers.pop_last() {
            if self.unload(member) {
                moved = true;
                givers.insert((self.loads[member], member));
            }
        }
        moved
    }

    /// Moves one partition of `member` to one who has two fewer, if there is
    /// such a one.
    fn unload(&mut self, member: usize) -> bool {
        let enough = |to: &usize| self.loads[*to] + 1 < self.loads[member];
        let found = self.of_member[member].iter().find_map(|(topic, partitions)| {
            let key = partitions.last()?;
            let to = self.least_loaded(*topic).filter(enough)?;
            Some((to, *topic, *key))
        });
        let Some((to, topic, key)) = found else { return false };
        self.give(to, topic, key);
        true
    }
}
