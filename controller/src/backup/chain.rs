//! Which of the slices found in the bucket were committed after the backup:
//! the rule by which a partition's index is rolled forward. Pure.
//!
//! An *era* is a lease epoch of one generation; eras are ordered by
//! generation, then epoch. Each slice says at which offset its era began, and
//! that gives the rule:
//!
//! 1. DENSE: what was committed continues the index without a gap.
//! 2. FENCE: once an era has begun at an offset, nothing of an earlier one was
//!    committed at that offset or behind it. So a slice that reaches as far as
//!    the beginning of a later era is not the one that was committed there.
//! 3. ONCE: within one era an offset never stands for two things. What 2 leaves
//!    at an offset is therefore one slice.
//! 4. A slice whose refusal the bucket tells was not committed.
//!
//! Every slice that was committed is brought back as long as those before it
//! are found. Behind them, slices may follow that were stored and whose
//! commit was never applied, or was refused without a trace in the bucket:
//! nobody was told that they had succeeded, and nothing acknowledged was ever
//! put where they stand.

use crate::state::command::GenerationKey;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A lease epoch of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Era {
    /// The generation.
    pub generation: GenerationKey,
    /// The lease epoch in it.
    pub epoch: u32,
}

/// What the backup knows of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// One past the last offset in the index.
    pub next_offset: u64,
    /// The era at the time of the backup.
    pub era: Era,
    /// The offset at which it began.
    pub era_start: u64,
}

/// What of a slice the rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// When it was written.
    pub era: Era,
    /// The offset at which that era began.
    pub era_start: u64,
    /// First offset.
    pub base: u64,
    /// Last offset.
    pub last: u64,
    /// A later object of its session says that it was refused, or given up.
    pub refused: bool,
}

/// What becomes of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The index goes on with it.
    Placed,
    /// It was never committed.
    Refused,
    /// A later generation had gone on from this offset before it was
    /// committed, if it was: two clusters wrote to one bucket.
    Outlived(u64),
    /// Nothing that was found holds the offsets from here on to its first.
    Gap(u64),
    /// Its last offset lies before its first, or an offset stands for two
    /// things in one era.
    Contradiction,
}

/// The slices of one partition: one verdict each, and the placed ones'
/// positions in the order in which they continue the index.
pub fn chain(known: &Known, found: &[Found]) -> (Vec<Verdict>, Vec<usize>) {
    let later = Later::of(known, found);
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(found.len());
    // By offset; at one offset the latest era first.
    let mut open: BTreeMap<(u64, Reverse<Era>), Vec<usize>> = BTreeMap::new();
    for (position, slice) in found.iter().enumerate() {
        let verdict = judge(known, slice, &later);
        if verdict.is_none() {
            open.entry((slice.base, Reverse(slice.era))).or_default().push(position);
        }
        verdicts.push(verdict.unwrap_or(Verdict::Contradiction));
    }
    let mut next = known.next_offset;
    let mut placed = Vec::new();
    for ((base, _), positions) in open {
        let verdict = match positions.as_slice() {
            [only] if base == next => {
                placed.push(*only);
                next = found[*only].last + 1;
                Verdict::Placed
            }
            _ if base > next => Verdict::Gap(next),
            // One that begins inside what was placed, or two at one offset.
            _ => Verdict::Contradiction,
        };
        for position in positions {
            verdicts[position] = verdict;
        }
    }
    (verdicts, placed)
}

/// `None`: it may have been committed.
fn judge(known: &Known, slice: &Found, later: &Later) -> Option<Verdict> {
    if slice.last < slice.base || slice.last == u64::MAX || slice.base < slice.era_start {
        return Some(Verdict::Contradiction);
    }
    if slice.refused {
        return Some(Verdict::Refused);
    }
    let (generation, epoch) = later.first_after(&slice.era);
    if let Some(start) = generation.filter(|start| *start <= slice.last) {
        return Some(Verdict::Outlived(start));
    }
    let fenced = epoch.is_some_and(|start| start <= slice.last);
    // What the index holds there is another slice: this one came too late.
    (fenced || slice.base < known.next_offset).then_some(Verdict::Refused)
}

/// Where eras began.
struct Later {
    /// Ascending; with the lowest start of this era and of all behind it in
    /// the same generation, and of all in later generations.
    eras: Vec<(Era, u64, Option<u64>)>,
}

impl Later {
    fn of(known: &Known, found: &[Found]) -> Self {
        let mut starts = BTreeMap::from([(known.era, known.era_start)]);
        for slice in found {
            let start = starts.entry(slice.era).or_insert(slice.era_start);
            *start = (*start).min(slice.era_start);
        }
        let mut eras: Vec<(Era, u64, Option<u64>)> = Vec::with_capacity(starts.len());
        for (era, start) in starts.into_iter().rev() {
            let next = match eras.last() {
                None => (era, start, None),
                Some((after, lowest, beyond)) if after.generation == era.generation => {
                    (era, start.min(*lowest), *beyond)
                }
                Some((_, lowest, beyond)) => {
                    (era, start, Some(beyond.map_or(*lowest, |beyond| beyond.min(*lowest))))
                }
            };
            eras.push(next);
        }
        eras.reverse();
        Self { eras }
    }

    /// The lowest offsets at which a later generation, and a later epoch of
    /// the same generation, began.
    fn first_after(&self, era: &Era) -> (Option<u64>, Option<u64>) {
        let at = self.eras.partition_point(|(other, ..)| other <= era);
        let own = self.eras[..at].last().filter(|(other, ..)| other == era);
        let generation = own.and_then(|(.., beyond)| *beyond);
        let epoch = self.eras.get(at).filter(|(next, ..)| next.generation == era.generation);
        (generation, epoch.map(|(_, lowest, _)| *lowest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn era(counter: u32, epoch: u32) -> Era {
        Era { generation: GenerationKey { counter, random: 1 }, epoch }
    }

    fn slice(era: Era, era_start: u64, base: u64, last: u64) -> Found {
        Found { era, era_start, base, last, refused: false }
    }

    const KNOWN: Known = Known {
        next_offset: 10,
        era: Era { generation: GenerationKey { counter: 1, random: 1 }, epoch: 3 },
        era_start: 5,
    };

    #[test]
    fn the_index_goes_on_across_epochs_and_generations() {
        let found = [
            slice(era(2, 5), 30, 30, 39),
            slice(era(1, 4), 20, 20, 29),
            slice(era(1, 3), 5, 10, 19),
        ];
        let (verdicts, placed) = chain(&KNOWN, &found);
        assert_eq!(verdicts, [Verdict::Placed; 3]);
        assert_eq!(placed, [2, 1, 0]);
    }

    #[test]
    fn a_slice_that_reaches_into_a_later_epoch_was_refused() {
        let found = [slice(era(1, 3), 5, 10, 19), slice(era(1, 5), 10, 10, 12)];
        let (verdicts, placed) = chain(&KNOWN, &found);
        assert_eq!(verdicts, [Verdict::Refused, Verdict::Placed]);
        assert_eq!(placed, [1]);
    }

    #[test]
    fn an_epoch_before_the_backup_s_is_over() {
        let (verdicts, _) = chain(&KNOWN, &[slice(era(1, 2), 0, 10, 19)]);
        assert_eq!(verdicts, [Verdict::Refused]);
    }

    #[test]
    fn what_lies_behind_a_hole_is_not_placed_and_says_where_the_hole_begins() {
        let found = [slice(era(1, 4), 12, 15, 19), slice(era(1, 3), 5, 10, 11)];
        let (verdicts, placed) = chain(&KNOWN, &found);
        assert_eq!(verdicts, [Verdict::Gap(12), Verdict::Placed]);
        assert_eq!(placed, [1]);
        // In the hole, nothing of an earlier epoch is taken for what is lost.
        let found = [slice(era(1, 4), 10, 15, 19), slice(era(1, 3), 5, 10, 14)];
        let (verdicts, placed) = chain(&KNOWN, &found);
        assert_eq!(verdicts, [Verdict::Gap(10), Verdict::Refused]);
        assert_eq!(placed, [0; 0]);
    }

    #[test]
    fn what_an_older_generation_wrote_on_is_told_apart() {
        let found = [slice(era(1, 9), 10, 10, 19), slice(era(2, 4), 10, 10, 12)];
        let (verdicts, placed) = chain(&KNOWN, &found);
        assert_eq!(verdicts, [Verdict::Outlived(10), Verdict::Placed]);
        assert_eq!(placed, [1]);
    }

    #[test]
    fn two_things_at_one_offset_of_one_era_are_not_chosen_from() {
        let found = [slice(era(1, 3), 5, 10, 19), slice(era(1, 3), 5, 10, 12)];
        let (verdicts, placed) = chain(&KNOWN, &found);
        assert_eq!(verdicts, [Verdict::Contradiction; 2]);
        assert_eq!(placed, [0; 0]);
    }

    /// What one writer and the state machine do with one partition.
    #[derive(Debug, Clone)]
    enum Step {
        /// A slice goes into the bucket behind those in flight.
        Write(u8),
        /// The oldest in flight is committed, or refused if it does not fit.
        Commit,
        /// The oldest in flight was not stored in time; it landed all the same.
        Abandon,
        /// The lease goes to another agent; what is in flight stays in flight.
        Move,
        /// The cluster is restored: a new generation goes on from the end.
        Restore,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (1..4u8).prop_map(Step::Write),
            6 => Just(Step::Commit),
            1 => Just(Step::Abandon),
            1 => Just(Step::Move),
            1 => Just(Step::Restore),
        ]
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        InFlight,
        Committed,
        Refused,
    }

    struct History {
        era: Era,
        era_start: u64,
        next: u64,
        /// Where the holder writes next.
        write: u64,
        /// Positions in `slices`, oldest first.
        in_flight: std::collections::VecDeque<usize>,
        slices: Vec<(Found, Fate)>,
        /// What the newest backup knows.
        backup: Known,
    }

    impl History {
        fn new() -> Self {
            Self {
                era: era(1, 1),
                era_start: 0,
                next: 0,
                write: 0,
                in_flight: std::collections::VecDeque::new(),
                slices: Vec::new(),
                backup: Known { next_offset: 0, era: era(1, 1), era_start: 0 },
            }
        }

        fn back_up(&mut self) {
            let Self { next, era, era_start, .. } = *self;
            self.backup = Known { next_offset: next, era, era_start };
        }

        /// The slices that the newest backup has not in its index.
        fn after_the_backup(&self) -> Vec<usize> {
            let settled = |(found, fate): &(Found, Fate)| {
                *fate == Fate::Committed && found.last < self.backup.next_offset
            };
            (0..self.slices.len()).filter(|at| !settled(&self.slices[*at])).collect()
        }

        fn raise(&mut self) {
            self.era.epoch += 1;
            self.era_start = self.next;
            self.write = self.next;
        }

        fn take(&mut self, step: &Step) {
            match step {
                Step::Write(count) => {
                    let last = self.write + u64::from(*count) - 1;
                    let found = slice(self.era, self.era_start, self.write, last);
                    self.in_flight.push_back(self.slices.len());
                    self.slices.push((found, Fate::InFlight));
                    self.write = last + 1;
                }
                Step::Commit => {
                    let Some(position) = self.in_flight.pop_front() else { return };
                    let found = self.slices[position].0;
                    if found.era != self.era {
                        self.slices[position].1 = Fate::Refused;
                    } else if found.base == self.next {
                        self.slices[position].1 = Fate::Committed;
                        self.next = found.last + 1;
                    } else {
                        self.slices[position].1 = Fate::Refused;
                        self.raise();
                    }
                }
                Step::Abandon => {
                    let Some(position) = self.in_flight.pop_front() else { return };
                    self.slices[position].1 = Fate::Refused;
                    if self.slices[position].0.era == self.era {
                        self.raise();
                    }
                }
                Step::Move => self.raise(),
                Step::Restore => {
                    self.era.generation.counter += 1;
                    // Nothing of the old generation is committed any more,
                    // but the restore may bring back its tail.
                    self.in_flight.clear();
                    let after = self.after_the_backup();
                    let all: Vec<_> = after.iter().map(|at| self.slices[*at].0).collect();
                    let (_, placed) = chain(&self.backup, &all);
                    for position in placed.into_iter().map(|at| after[at]) {
                        self.slices[position].1 = Fate::Committed;
                        self.next = self.next.max(self.slices[position].0.last + 1);
                    }
                    self.raise();
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_was_committed_is_brought_back_and_nothing_refused_before_it(
            before in prop::collection::vec(step(), 0..30),
            after in prop::collection::vec(step(), 0..60),
            told in prop::collection::vec(any::<bool>(), 100),
            order in any::<u64>(),
        ) {
            let mut history = History::new();
            before.iter().for_each(|step| history.take(step));
            history.back_up();
            let known = history.backup;
            after.iter().for_each(|step| history.take(step));

            // Some later object may tell the refusals.
            let mut all: Vec<(Found, Fate)> =
                history.after_the_backup().iter().map(|at| history.slices[*at]).collect();
            for ((found, fate), told) in all.iter_mut().zip(told.iter().cycle()) {
                found.refused = *told && *fate == Fate::Refused;
            }
            // Listings come in any order.
            all.sort_by_key(|(found, _)| (found.base ^ order, found.last, found.era));

            let found: Vec<_> = all.iter().map(|(found, _)| *found).collect();
            let (verdicts, placed) = chain(&known, &found);
            let committed = all.iter().filter(|(_, fate)| *fate == Fate::Committed).count();
            let fates: Vec<Fate> = placed.iter().map(|at| all[*at].1).collect();
            prop_assert!(fates.len() >= committed, "{fates:?}");
            // First all that was committed, then at most what nobody was told.
            prop_assert!(fates[..committed].iter().all(|fate| *fate == Fate::Committed));
            let mut next = known.next_offset;
            for at in &placed {
                prop_assert_eq!(found[*at].base, next);
                prop_assert_eq!(verdicts[*at], Verdict::Placed);
                next = found[*at].last + 1;
            }
            // Nothing acknowledged goes unnamed.
            for ((_, fate), verdict) in all.iter().zip(&verdicts) {
                prop_assert!(*fate != Fate::Committed || *verdict == Verdict::Placed);
            }
        }

        #[test]
        fn a_lost_object_takes_only_what_is_behind_it(
            steps in prop::collection::vec(step(), 1..60),
            lost in any::<prop::sample::Index>(),
        ) {
            let mut history = History::new();
            steps.iter().for_each(|step| history.take(step));
            let known = Known { next_offset: 0, era: era(1, 1), era_start: 0 };
            let committed: Vec<Found> = history.slices.iter()
                .filter(|(_, fate)| *fate == Fate::Committed).map(|(found, _)| *found).collect();
            prop_assume!(!committed.is_empty());
            let lost = committed[lost.index(committed.len())];
            let found: Vec<Found> = history.slices.iter()
                .map(|(found, _)| *found).filter(|found| *found != lost).collect();
            let (verdicts, placed) = chain(&known, &found);
            for slice in committed.iter().filter(|slice| slice.last < lost.base) {
                prop_assert!(placed.iter().any(|at| found[*at] == *slice));
            }
            // Whatever was acknowledged behind it is placed or named.
            for (slice, verdict) in found.iter().zip(&verdicts) {
                if committed.contains(slice) {
                    prop_assert!(*verdict != Verdict::Refused, "{slice:?}");
                }
            }
        }
    }
}
