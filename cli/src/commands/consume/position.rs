//! How far each partition was printed and written out, and how far it is to be.

use std::collections::BTreeMap;

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
#[derive(Debug)]
pub(super) struct Positions(BTreeMap<u32, Position>);

impl Positions {
    /// Partitions and where each is read from; without an end.
    pub(super) fn new(starts: impl Iterator<Item = (u32, u64)>) -> Self {
        Self(
            starts
                .map(|(partition, next)| {
                    (partition, Position { next, written: next, end: u64::MAX })
                })
                .collect(),
        )
    }

    /// Gives partitions an end; those that are not read are passed over.
    pub(super) fn end_at(&mut self, ends: impl Iterator<Item = (u32, u64)>) {
        for (partition, end) in ends {
            if let Some(position) = self.0.get_mut(&partition) {
                position.end = end;
            }
        }
    }

    /// Whether the record at `offset` is to be printed; it then counts as printed.
    pub(super) fn take(&mut self, partition: u32, offset: u64) -> bool {
        match self.0.get_mut(&partition) {
            Some(position) if offset < position.end => {
                position.next = offset + 1;
                true
            }
            _ => false,
        }
    }

    /// There is no record between what was printed and `next`.
    pub(super) fn passed(&mut self, partition: u32, next: u64) {
        if let Some(position) = self.0.get_mut(&partition) {
            position.next = position.next.max(next.min(position.end));
        }
    }

    /// Whether every partition has reached its end.
    pub(super) fn all_ended(&self) -> bool {
        self.0.values().all(|position| position.next >= position.end)
    }

    /// All that was printed was written out.
    pub(super) fn flushed(&mut self) {
        self.0.values_mut().for_each(|position| position.written = position.next);
    }

    /// One past the last offset written out: what may be committed.
    pub(super) fn written(&self, partition: u32) -> Option<u64> {
        self.0.get(&partition).map(|position| position.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_the_end_was_set_is_not_printed() {
        let mut positions = Positions::new([(0, 5), (1, 0)].into_iter());
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
        let mut positions = Positions::new([(0, 5)].into_iter());
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
        let mut positions = Positions::new([(0, 0)].into_iter());
        positions.end_at([(0, 3)].into_iter());
        assert!(positions.take(0, 1));
        positions.passed(0, 3);
        assert!(positions.all_ended());
    }

    #[test]
    fn without_an_end_it_goes_on() {
        let mut positions = Positions::new([(0, 0)].into_iter());
        assert!(positions.take(0, 1 << 40));
        assert!(!positions.all_ended());
    }
}
