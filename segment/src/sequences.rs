//! Which batches of an idempotent producer a partition has (invariant DEDUP): the one rule, asked where commits are
//! decided, and beforehand by agents and producers.
//!
//! A producer numbers its records of a partition from 0 in each of its epochs; after `i32::MAX` comes 0 again (KIP-98).
//! Here they are counted in 64 bits, so that nothing wraps: a sequence number is the count of the records before it,
//! modulo 2^31.

/// Sequence numbers are below this.
const MODULUS: u64 = 1 << 31;
/// How far back a sequence number may lie and be taken for an old one. What is further away lies ahead.
const REACH: u64 = MODULUS / 2;
/// Runs kept: at least the last 64 batches are in them, which is as many as a producer may have in flight.
pub const MAX_RUNS: usize = 64;
/// No run is longer, so that one does not keep offsets for ever.
const MAX_RUN: u64 = REACH;

/// Records that follow each other both in their sequence and in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SequenceRun {
    /// How many records of the epoch come before.
    pub first: u64,
    /// How many records it has.
    pub records: u64,
    /// The offset of the first.
    pub base_offset: u64,
}

impl SequenceRun {
    fn end(&self) -> u64 {
        self.first.saturating_add(self.records)
    }
}

/// What a partition has of a producer in one of its epochs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sequences {
    /// How many records.
    pub records: u64,
    /// Where the last of them are, in order; [`MAX_RUNS`] at the most.
    pub runs: Vec<SequenceRun>,
}

/// What a batch is to a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It comes next.
    Next,
    /// The partition has it already; so many records come before it.
    Had {
        /// See above.
        position: u64,
    },
    /// It is neither: something is missing ahead of it, or it was cut differently before.
    OutOfOrder {
        /// The sequence number that comes next.
        expected: u32,
    },
}

/// The sequence number of the record that has so many before it.
pub fn sequence_at(position: u64) -> u32 {
    (position % MODULUS) as u32
}

impl Sequences {
    /// What the batch of `records` records is that begins with that sequence number.
    pub fn judge(&self, base_sequence: u32, records: u32) -> Standing {
        let expected = sequence_at(self.records);
        let base = u64::from(base_sequence);
        let back = (u64::from(expected) + MODULUS - base % MODULUS) % MODULUS;
        if base >= MODULUS {
            return Standing::OutOfOrder { expected };
        }
        if back == 0 {
            return Standing::Next;
        }
        if back <= self.records.min(REACH) && u64::from(records) <= back {
            return Standing::Had { position: self.records - back };
        }
        Standing::OutOfOrder { expected }
    }

    /// The next batch was written there.
    pub fn append(&mut self, records: u32, base_offset: u64) {
        let count = u64::from(records);
        let first = self.records;
        self.records = first.saturating_add(count);
        if let Some(last) = self.runs.last_mut()
            && last.end() == first
            && last.base_offset.checked_add(last.records) == Some(base_offset)
            && last.records + count <= MAX_RUN
        {
            last.records += count;
            return;
        }
        if self.runs.len() >= MAX_RUNS {
            self.runs.remove(0);
        }
        self.runs.push(SequenceRun { first, records: count, base_offset });
    }

    /// The offset of the record that has so many before it, while that is kept.
    pub fn offset_of(&self, position: u64) -> Option<u64> {
        let run = self.runs.iter().rev().find(|run| run.first <= position)?;
        (position < run.end()).then(|| run.base_offset + (position - run.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(batches: &[(u32, u64)]) -> Sequences {
        let mut sequences = Sequences::default();
        batches.iter().for_each(|(records, base)| sequences.append(*records, *base));
        sequences
    }

    #[test]
    fn an_unknown_producer_begins_with_sequence_zero() {
        let none = Sequences::default();
        assert_eq!(none.judge(0, 5), Standing::Next);
        assert_eq!(none.judge(5, 5), Standing::OutOfOrder { expected: 0 });
        assert_eq!(none.judge(i32::MAX.unsigned_abs(), 1), Standing::OutOfOrder { expected: 0 });
    }

    #[test]
    fn what_is_at_or_below_the_last_is_had_whatever_its_age() {
        let sequences = written(&[(10, 100), (5, 200)]);
        assert_eq!(sequences.judge(15, 1), Standing::Next);
        assert_eq!(sequences.judge(10, 5), Standing::Had { position: 10 });
        assert_eq!(sequences.judge(0, 10), Standing::Had { position: 0 });
        assert_eq!(sequences.judge(16, 1), Standing::OutOfOrder { expected: 15 });
        // Cut differently: half of it is new.
        assert_eq!(sequences.judge(10, 6), Standing::OutOfOrder { expected: 15 });
        assert_eq!((sequences.offset_of(0), sequences.offset_of(10)), (Some(100), Some(200)));
        assert_eq!((sequences.offset_of(14), sequences.offset_of(15)), (Some(204), None));
    }

    #[test]
    fn after_the_largest_sequence_number_comes_zero() {
        let mut sequences = Sequences { records: MODULUS - 3, runs: Vec::new() };
        assert_eq!(sequences.judge(i32::MAX.unsigned_abs() - 2, 5), Standing::Next);
        sequences.append(5, 1_000);
        assert_eq!(sequences.judge(2, 1), Standing::Next);
        let position = MODULUS - 3;
        assert_eq!(sequences.judge(i32::MAX.unsigned_abs() - 2, 5), Standing::Had { position });
        assert_eq!(sequences.offset_of(position), Some(1_000));
        assert_eq!(sequences.judge(3, 1), Standing::OutOfOrder { expected: 2 });
        assert_eq!(sequences.judge(u32::MAX, 1), Standing::OutOfOrder { expected: 2 });
    }

    #[test]
    fn batches_that_follow_each_other_in_the_log_share_a_run() {
        let sequences = written(&[(10, 0), (10, 10), (10, 50), (10, 60)]);
        assert_eq!(sequences.runs.len(), 2);
        let found: Vec<_> = [0, 10, 20, 39].map(|at| sequences.offset_of(at)).to_vec();
        assert_eq!(found, [Some(0), Some(10), Some(50), Some(69)]);
    }

    #[test]
    fn the_last_64_batches_keep_their_offsets_even_if_none_follows_another() {
        let batches: Vec<_> = (0..100).map(|number| (1, number * 2)).collect();
        let sequences = written(&batches);
        assert_eq!(sequences.runs.len(), MAX_RUNS);
        assert_eq!(sequences.offset_of(35), None);
        for number in 36..100 {
            assert_eq!(sequences.offset_of(number), Some(number * 2));
        }
        assert_eq!(sequences.judge(0, 1), Standing::Had { position: 0 });
    }
}
