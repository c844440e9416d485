//! When a PUT that takes long is sent once more. Pure.
//!
//! A store's slow tail is slow for one request, not for the object: a second PUT of the same key and bytes usually
//! overtakes. Both are create-only, so whoever comes second finds the other's object and reads its trailer (ONCE). It
//! costs requests, so no more than one PUT in twenty is hedged.

use std::collections::VecDeque;
use std::time::Duration;

/// The delay follows the last so many PUTs.
const REMEMBERED: usize = 128;
/// Before there are so many nothing is known of the tail.
const ENOUGH: usize = 20;
/// The share of PUTs that take less than the delay, in percent.
const PERCENTILE: usize = 95;
/// A PUT is never called slow before.
const SHORTEST: Duration = Duration::from_millis(50);
/// What each PUT adds to the right to hedge, and what a hedge costs.
const EARNED: u32 = 5;
const COST: u32 = 100;
/// Hedges that can be saved up for a bad moment.
const SAVED: u32 = 4 * COST;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Hedging {
    took: VecDeque<Duration>,
    credit: u32,
}

impl Hedging {
    /// An object is about to be PUT.
    pub(crate) fn started(&mut self) {
        self.credit = (self.credit + EARNED).min(SAVED);
    }

    /// One request has written an object, and took so long.
    pub(crate) fn finished(&mut self, took: Duration) {
        if self.took.len() == REMEMBERED {
            self.took.pop_front();
        }
        self.took.push_back(took);
    }

    /// After how long a PUT is slow. `None` while too little is known.
    pub(crate) fn delay(&self) -> Option<Duration> {
        if self.took.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<_> = self.took.iter().copied().collect();
        sorted.sort_unstable();
        let at = (sorted.len() * PERCENTILE / 100).min(sorted.len() - 1);
        Some(sorted[at].max(SHORTEST))
    }

    /// Whether a slow PUT may be sent once more now.
    pub(crate) fn take(&mut self) -> bool {
        let left = self.credit.checked_sub(COST);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_the_slow_tail() {
        let mut hedging = Hedging::default();
        for millis in 1..=100 {
            hedging.finished(Duration::from_millis(millis * 10));
        }
        assert_eq!(hedging.delay(), Some(Duration::from_millis(960)));
        // The store has become fast: what it was is forgotten.
        (0..REMEMBERED).for_each(|_| hedging.finished(Duration::from_millis(1)));
        assert_eq!(hedging.delay(), Some(SHORTEST));
    }

    #[test]
    fn nothing_is_slow_before_enough_is_known() {
        let mut hedging = Hedging::default();
        (1..ENOUGH).for_each(|_| hedging.finished(Duration::from_millis(1)));
        assert_eq!(hedging.delay(), None);
    }

    #[test]
    fn one_put_in_twenty_is_hedged_at_the_most() {
        let mut hedging = Hedging::default();
        let mut hedges = 0;
        for _ in 0..10_000 {
            hedging.started();
            hedges += usize::from(hedging.take());
        }
        assert_eq!(hedges, 500);
        // What was saved up is little.
        (0..10_000).for_each(|_| hedging.started());
        assert_eq!((0..10).filter(|_| hedging.take()).count(), 4);
    }
}
