//! How far each partition was printed and written out, and how far it is to be.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Position {
    /// One past the last offset printed, which may still be in our buffer.
    next: u64,
    /// One past the last offset that was handed to the system.
    written: u64,
    /// Where to stop, if anywhere.
    end: u64,
}

/// Every partition that is read.
#[derive(Debug, Default)]
pub(super) struct Positions {
    read: BTreeMap<u32, Position>,
    /// Where partitions end, whether they are read or not.
    ends: BTreeMap<u32, u64>,
}

impl Positions {
    /// What is not among these is read no more.
    pub(super) fn keep(&mut self, assigned: &BTreeSet<u32>) {
        self.read.retain(|partition, _| assigned.contains(partition));
    }

    /// Gives partitions an end.
    pub(super) fn end_at(&mut self, ends: impl Iterator<Item = (u32, u64)>) {
        self.ends = ends.collect();
        for (partition, position) in &mut self.read {
            position.end = self.ends.get(partition).copied().unwrap_or(u64::MAX);
        }
    }

    /// Whether nothing is read.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    /// Whether the record at `offset` is to be printed; it then counts as printed. A partition that is new begins there.
    pub(super) fn take(&mut self, partition: u32, offset: u64) -> bool {
        let position = self.entry(partition, offset);
        let wanted = offset < position.end;
        if wanted {
            position.next = offset + 1;
        }
        wanted
    }

    /// There is no record between what was printed and `next`.
    pub(super) fn passed(&mut self, partition: u32, next: u64) {
        let position = self.entry(partition, next);
        position.next = position.next.max(next.min(position.end));
    }

    fn entry(&mut self, partition: u32, next: u64) -> &mut Position {
        let end = self.ends.get(&partition).copied().unwrap_or(u64::MAX);
        self.read.entry(partition).or_insert(Position { next, written: next, end })
    }

    /// Whether every partition has reached its end.
    pub(super) fn all_ended(&self) -> bool {
        self.read.values().all(|position| position.next >= position.end)
    }

    /// All that was printed was written out.
    pub(super) fn flushed(&mut self) {
        self.read.values_mut().for_each(|position| position.written = position.next);
    }

    /// One past the last offset written out: what may be committed.
    pub(super) fn written(&self, partition: u32) -> Option<u64> {
        self.read.get(&partition).map(|position| position.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions<const N: usize>(starts: [(u32, u64); N]) -> Positions {
        let mut positions = Positions::default();
        starts.into_iter().for_each(|(partition, next)| positions.passed(partition, next));
        positions
    }

    #[test]
    fn a_partition_that_comes_begins_with_its_first_record_and_has_its_end() {
        let mut positions = positions([(0, 5)]);
        positions.end_at([(0, 9), (1, 3)].into_iter());
        positions.keep(&BTreeSet::from([1]));
        assert_eq!((positions.written(0), positions.is_empty()), (None, true));
        assert!(positions.take(1, 2));
        // Not written out yet: a commit would skip it.
        assert_eq!(positions.written(1), Some(2));
        assert!(!positions.take(1, 3) && positions.all_ended());
    }

    #[test]
    fn what_came_after_the_end_was_set_is_not_printed() {
        let mut positions = positions([(0, 5), (1, 0)]);
        positions.end_at([(0, 7), (1, 0), (9, 9)].into_iter());
        assert!(!positions.all_ended());
        assert!(positions.take(0, 5) && positions.take(0, 6));
        assert!(!positions.take(0, 7));
        assert!(positions.all_ended());
        // The consumer is further than what was printed: a commit must not be.
        positions.passed(0, 8);
        positions.flushed();
        assert_eq!(positions.written(0), Some(7));
    }

    #[test]
    fn what_was_not_written_out_is_not_committed() {
        let mut positions = positions([(0, 5)]);
        assert!(positions.take(0, 5));
        positions.flushed();
        assert!(positions.take(0, 6) && positions.take(0, 7));
        positions.passed(0, 9);
        // The write failed here: 6 and 7 come again.
        assert_eq!(positions.written(0), Some(6));
        positions.flushed();
        assert_eq!(positions.written(0), Some(9));
    }

    #[test]
    fn offsets_without_records_can_be_the_last_ones() {
        let mut positions = positions([(0, 0)]);
        positions.end_at([(0, 3)].into_iter());
        assert!(positions.take(0, 1));
        positions.passed(0, 3);
        assert!(positions.all_ended());
    }

    #[test]
    fn without_an_end_it_goes_on() {
        let mut positions = positions([(0, 0)]);
        assert!(positions.take(0, 1 << 40));
        assert!(!positions.all_ended());
    }
}
