//! Which partition has which slot. Pure.
//!
//! Partitions come and go; everything that is kept per partition (position, target, what was fetched) goes by a small
//! number, its slot, which the next partition gets when this one is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use streamhouse_segment::ids::TopicId;

use crate::types::TopicPartition;

#[derive(Debug, Default)]
pub(super) struct Table {
    /// By slot; a slot that is free keeps its last partition, whose remains may still be on their way.
    slots: Vec<(Arc<TopicPartition>, TopicId)>,
    taken: BTreeMap<Arc<TopicPartition>, usize>,
    free: BTreeSet<usize>,
}

impl Table {
    /// A slot for the partition; `None` if it has one.
    pub(super) fn insert(&mut self, at: &Arc<TopicPartition>, topic: TopicId) -> Option<usize> {
        if self.taken.contains_key(at) {
            return None;
        }
        let slot = match self.free.pop_first() {
            Some(slot) => {
                self.slots[slot] = (at.clone(), topic);
                slot
            }
            None => {
                self.slots.push((at.clone(), topic));
                self.slots.len() - 1
            }
        };
        self.taken.insert(at.clone(), slot);
        Some(slot)
    }

    /// Frees the partition's slot.
    pub(super) fn remove(&mut self, at: &TopicPartition) -> Option<usize> {
        let slot = self.taken.remove(at)?;
        self.free.insert(slot);
        Some(slot)
    }

    pub(super) fn slot(&self, at: &TopicPartition) -> Option<usize> {
        self.taken.get(at).copied()
    }

    /// Whose the slot is, or was.
    pub(super) fn at(&self, slot: usize) -> &Arc<TopicPartition> {
        &self.slots[slot].0
    }

    pub(super) fn topic(&self, slot: usize) -> TopicId {
        self.slots[slot].1
    }

    /// All partitions in order, with their topic's id and their slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<TopicPartition>, TopicId, usize)> {
        self.taken.iter().map(|(at, slot)| (at, self.topic(*slot), *slot))
    }

    /// The topics that are read.
    pub(super) fn topics(&self) -> BTreeSet<TopicId> {
        self.iter().map(|(_, topic, _)| topic).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_given_to_the_next_partition_when_it_is_free() {
        let mut table = Table::default();
        let at = |partition| Arc::new(TopicPartition::new("t", partition));
        let topic = TopicId::from_bytes([1; 16]);
        assert_eq!(table.insert(&at(0), topic), Some(0));
        assert_eq!(table.insert(&at(1), topic), Some(1));
        assert_eq!(table.insert(&at(1), topic), None);
        assert_eq!(table.remove(&at(0)), Some(0));
        assert_eq!(table.remove(&at(0)), None);
        assert_eq!(table.at(0).partition, 0);
        assert_eq!(table.insert(&at(2), topic), Some(0));
        let slots: Vec<_> = table.iter().map(|(at, _, slot)| (at.partition, slot)).collect();
        assert_eq!(slots, [(1, 1), (2, 0)]);
    }
}
