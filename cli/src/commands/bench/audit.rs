//! Were all acknowledged records kept, once each, in order, where their acknowledgement said? Pure.
//!
//! Records are numbered from 0 in the order in which they were sent; number `n` has key `n % keys`, and all records of a
//! key go to one partition.

use serde::Serialize;

/// Where an acknowledgement said that a record is: partition and offset.
pub(super) type Place = (u32, u64);

/// What became of the records.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// Acknowledged and not in the log.
    pub(super) lost: u64,
    /// Further copies of a record.
    pub(super) duplicated: u64,
    /// Records whose first copy stands behind a later one of the same key.
    pub(super) order_violations: u64,
    /// Acknowledged, and something else stands at their offset.
    pub(super) misplaced: u64,
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads the log back, partition by partition in offset order.
#[derive(Debug)]
pub(super) struct Audit<'a> {
    /// By number; `None`: not acknowledged.
    promised: &'a [Option<Place>],
    seen: Vec<bool>,
    kept: Vec<bool>,
    /// By key: one past the highest number so far.
    next: Vec<u64>,
    verdict: Verdict,
}

impl<'a> Audit<'a> {
    pub(super) fn new(promised: &'a [Option<Place>], keys: u64) -> Self {
        let unseen = vec![false; promised.len()];
        let next = vec![0; usize::try_from(keys).unwrap_or(usize::MAX)];
        Self { promised, kept: unseen.clone(), seen: unseen, next, verdict: Verdict::default() }
    }

    /// The record found there. `false`: no record of that number was sent.
    pub(super) fn found(&mut self, place: Place, number: u64) -> bool {
        let Some(index) = usize::try_from(number).ok().filter(|n| *n < self.promised.len()) else {
            return false;
        };
        self.kept[index] |= self.promised[index] == Some(place);
        if std::mem::replace(&mut self.seen[index], true) {
            self.verdict.duplicated += 1;
            return true;
        }
        let key = number % self.next.len() as u64;
        let next = &mut self.next[key as usize];
        if number < *next {
            self.verdict.order_violations += 1;
        }
        *next = (*next).max(number + 1);
        true
    }

    pub(super) fn end(mut self) -> Verdict {
        for (index, promised) in self.promised.iter().enumerate() {
            if promised.is_some() && !self.seen[index] {
                self.verdict.lost += 1;
            } else if promised.is_some() && !self.kept[index] {
                self.verdict.misplaced += 1;
            }
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a log of one partition, in which these numbers stand from offset 0 on.
    fn audit(promised: &[Option<Place>], log: &[u64]) -> Verdict {
        let mut audit = Audit::new(promised, 2);
        for (offset, number) in (0..).zip(log) {
            assert!(audit.found((0, offset), *number));
        }
        audit.end()
    }

    #[test]
    fn a_log_as_promised_is_clean() {
        let promised = [Some((0, 0)), Some((0, 1)), None];
        assert!(audit(&promised, &[0, 1]).is_clean());
        // One that was not acknowledged may be there.
        assert!(audit(&promised, &[0, 1, 2]).is_clean());
    }

    #[test]
    fn each_kind_of_damage_is_told() {
        let promised = [Some((0, 0)), None, Some((0, 1))];
        assert_eq!(audit(&promised, &[0]), Verdict { lost: 1, ..Verdict::default() });
        assert_eq!(audit(&promised, &[0, 2, 2]), Verdict { duplicated: 1, ..Verdict::default() });
        let swapped = Verdict { order_violations: 1, misplaced: 2, ..Verdict::default() };
        assert_eq!(audit(&promised, &[2, 0]), swapped);
    }

    #[test]
    fn keys_have_orders_of_their_own_and_a_duplicate_is_no_violation() {
        let none = [None; 4];
        assert!(audit(&none, &[1, 0, 3, 2]).is_clean());
        assert_eq!(audit(&none, &[0, 2, 0]), Verdict { duplicated: 1, ..Verdict::default() });
    }

    #[test]
    fn a_record_that_nobody_sent_is_noticed() {
        assert!(!Audit::new(&[None], 1).found((0, 0), 1));
    }
}
