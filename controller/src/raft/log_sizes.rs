//! How many bytes the log has, and where in it: in runs of entries, so that a
//! log of any length takes little memory. Sans-I/O.
//!
//! Within a run entries count as equally large: answers are right to a run.

use std::collections::VecDeque;

/// A run ends once it has so many bytes.
const RUN_BYTES: u64 = 64 << 10;

/// Neighbouring entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    bytes: u64,
}

impl Run {
    /// The same, of entries `first..=last` only, which it has.
    fn part(self, first: u64, last: u64) -> Self {
        let (all, left) = (self.last - self.first + 1, last - first + 1);
        Self { first, last, bytes: self.bytes * left / all }
    }
}

/// See the module. BOUND: a run for every 64 KiB of log.
#[derive(Debug, Default)]
pub(crate) struct LogSizes {
    runs: VecDeque<Run>,
}

impl LogSizes {
    /// The entry at `index`, which follows the last one, has so many bytes.
    pub(crate) fn push(&mut self, index: u64, bytes: u64) {
        match self.runs.back_mut() {
            Some(run) if run.bytes < RUN_BYTES && run.last + 1 == index => {
                (run.last, run.bytes) = (index, run.bytes + bytes);
            }
            _ => self.runs.push_back(Run { first: index, last: index, bytes }),
        }
    }

    /// Entries from `index` on are gone.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut()
            && run.last >= index
        {
            *run = run.part(run.first, index - 1);
        }
    }

    /// Entries up to and including `index` are gone.
    pub(crate) fn purge(&mut self, index: u64) {
        while self.runs.front().is_some_and(|run| run.last <= index) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut()
            && run.first <= index
        {
            *run = run.part(index + 1, run.last);
        }
    }

    /// Bytes of all entries.
    pub(crate) fn total(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    /// Bytes of the entries after `after`, up to and including `upto`.
    pub(crate) fn between(&self, after: u64, upto: u64) -> u64 {
        let within = |run: &Run| {
            let (first, last) = (run.first.max(after.saturating_add(1)), run.last.min(upto));
            if first <= last { run.part(first, last).bytes } else { 0 }
        };
        self.runs.iter().map(within).sum()
    }

    /// The last entry that must go, so that those up to and including `upto`
    /// take no more than `keep` bytes; `None` if they do not.
    pub(crate) fn beyond(&self, upto: u64, keep: u64) -> Option<u64> {
        let mut kept = 0;
        let within = self.runs.iter().rev().filter(|run| run.first <= upto);
        for run in within {
            let part = run.part(run.first, run.last.min(upto));
            kept += part.bytes;
            if kept > keep {
                return Some(part.last);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(bytes: &[u64]) -> LogSizes {
        let mut sizes = LogSizes::default();
        for (index, bytes) in (1..).zip(bytes) {
            sizes.push(index, *bytes);
        }
        sizes
    }

    #[test]
    fn large_entries_are_counted_one_by_one() {
        let mut sizes = sizes(&[RUN_BYTES; 10]);
        assert_eq!(sizes.total(), 10 * RUN_BYTES);
        assert_eq!(sizes.between(2, 5), 3 * RUN_BYTES);
        // Of the first six, two may stay.
        assert_eq!(sizes.beyond(6, 2 * RUN_BYTES), Some(4));
        assert_eq!(sizes.beyond(6, 6 * RUN_BYTES), None);
        sizes.purge(4);
        assert_eq!((sizes.total(), sizes.beyond(6, 2 * RUN_BYTES)), (6 * RUN_BYTES, None));
        sizes.truncate(8);
        assert_eq!(sizes.total(), 3 * RUN_BYTES);
    }

    #[test]
    fn a_log_that_begins_anew_behind_a_snapshot_is_counted_from_there() {
        let mut sizes = sizes(&[10; 5]);
        sizes.purge(100);
        sizes.push(101, 7);
        assert_eq!((sizes.total(), sizes.between(0, 200)), (7, 7));
    }

    proptest! {
        #[test]
        fn counts_are_right_to_a_run(
            bytes in prop::collection::vec(1..100_000u64, 1..200),
            purge in 0..250u64,
            truncate in 1..250u64,
            keep in 0..5_000_000u64,
        ) {
            let mut sizes = sizes(&bytes);
            sizes.truncate(truncate);
            sizes.purge(purge);
            let left = |index: &u64| *index > purge && *index < truncate;
            let indices = (1..=bytes.len() as u64).filter(left);
            let exact: u64 = indices.map(|index| bytes[index as usize - 1]).sum();
            // A run is cut at either end, at most.
            let run = RUN_BYTES + 100_000;
            prop_assert!(sizes.total().abs_diff(exact) <= 2 * run);
            prop_assert!(sizes.between(0, u64::MAX) == sizes.total());
            if let Some(last) = sizes.beyond(u64::MAX, keep) {
                prop_assert!(sizes.total() > keep);
                sizes.purge(last);
            }
            prop_assert!(sizes.total() <= keep);
        }
    }
}
