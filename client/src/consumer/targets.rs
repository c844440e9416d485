//! What the consumer wants to read and from where: set by its handle, followed by the fetcher.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use streamhouse_segment::ids::TopicId;
use tokio::sync::Notify;

use crate::types::TopicPartition;

/// From which offset a partition is to be read; `None`: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Counts the changes, so that what was read for an earlier target is told apart. Goes on counting when the slot
    /// gets another partition.
    pub(super) version: u64,
    pub(super) offset: Option<u64>,
}

/// A partition that is read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) at: Arc<TopicPartition>,
    pub(super) topic: TopicId,
    /// As far as was known when it was assigned.
    pub(super) high_watermark: u64,
}

/// One target per slot, and the bell that wakes the fetcher.
#[derive(Debug, Default)]
pub(super) struct Targets {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<Entry>,
    /// Slots that the fetcher has not looked at since they changed.
    changed: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    target: Target,
    place: Option<Arc<Place>>,
}

impl Targets {
    /// The slot belongs to that partition from now on.
    pub(super) fn assign(&self, slot: usize, place: Place, offset: Option<u64>) {
        let mut state = self.state.lock();
        if state.slots.len() <= slot {
            let none = Entry { target: Target { version: 0, offset: None }, place: None };
            state.slots.resize(slot + 1, none);
        }
        state.slots[slot].place = Some(Arc::new(place));
        drop(state);
        self.set(slot, offset);
    }

    /// The slot is nobody's any more.
    pub(super) fn release(&self, slot: usize) {
        self.state.lock().slots[slot].place = None;
        self.set(slot, None);
    }

    pub(super) fn version(&self, slot: usize) -> u64 {
        self.state.lock().slots[slot].target.version
    }

    /// Reads the partition from there. What was fetched for it before is dropped.
    pub(super) fn set(&self, slot: usize, offset: Option<u64>) {
        let mut state = self.state.lock();
        let target = &mut state.slots[slot].target;
        target.version += 1;
        target.offset = offset;
        state.changed.insert(slot);
        drop(state);
        self.ring();
    }

    /// Reads the slot's partition no further. What was fetched for it is dropped.
    pub(super) fn stop(&self, slot: usize) {
        if self.state.lock().slots[slot].target.offset.is_some() {
            self.set(slot, None);
        }
    }

    /// What changed since this was asked last.
    pub(super) fn changes(&self) -> Vec<(usize, Target, Option<Arc<Place>>)> {
        let mut state = self.state.lock();
        let changed = std::mem::take(&mut state.changed).into_iter();
        let entry = |slot: usize| (slot, state.slots[slot].target, state.slots[slot].place.clone());
        changed.map(entry).collect()
    }

    /// Something was taken or moved: the fetcher should look.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_s_versions_go_on_when_it_gets_another_partition() {
        let targets = Targets::default();
        let place = |partition| Place {
            at: Arc::new(TopicPartition::new("t", partition)),
            topic: TopicId::from_bytes([0; 16]),
            high_watermark: 0,
        };
        targets.assign(1, place(0), Some(5));
        let first = targets.version(1);
        targets.release(1);
        targets.assign(1, place(1), Some(7));
        assert!(targets.version(1) > first);
        let changes = targets.changes();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].1.offset, Some(7));
        assert_eq!(changes[0].2.as_ref().unwrap().at.partition, 1);
        assert!(targets.changes().is_empty());
    }
}
