//! How long to wait before trying again, and how often all uploads together may.

use crate::clock;
use std::time::{Duration, Instant};

/// Jittered exponential backoff.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, first, most }
    }

    /// The wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = clock::jittered(self.next);
        self.next = (self.next * 2).min(self.most);
        wait
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A token bucket that all uploads share: a store that refuses everybody is not asked faster than this.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    per_second: u32,
    burst: u32,
    /// When the bucket would be full again.
    full_at: Option<Instant>,
}

impl RetryBudget {
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.max(1), burst, full_at: None }
    }

    /// Takes a token and says how long to wait until it may be used.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        let each = Duration::from_secs(1) / self.per_second;
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now) + each;
        self.full_at = Some(full_at);
        (full_at - now).saturating_sub(each * self.burst)
    }

    /// Takes a token if one may be used at once.
    pub(crate) fn take_now(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / self.per_second;
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now) + each;
        let free = full_at - now <= each * self.burst;
        if free {
            self.full_at = Some(full_at);
        }
        free
    }

    /// A request succeeded, which is worth a token: a store that refuses every second request is asked twice as often,
    /// and one that refuses all of them hardly at all.
    pub(crate) fn earn(&mut self, now: Instant) {
        let each = Duration::from_secs(1) / self.per_second;
        self.full_at = self.full_at.and_then(|at| at.checked_sub(each)).filter(|at| *at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_doubles_up_to_its_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let waits: Vec<_> = (0..8).map(|_| backoff.next()).collect();
        assert!(waits[0] <= Duration::from_millis(50));
        assert!(waits[7] >= Duration::from_secs(1) && waits[7] <= Duration::from_secs(2));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(50));
    }

    #[test]
    fn a_budget_allows_a_burst_and_then_its_rate() {
        let mut budget = RetryBudget::new(10, 2);
        let start = clock::now();
        assert_eq!(budget.take(start), Duration::ZERO);
        assert_eq!(budget.take(start), Duration::ZERO);
        assert_eq!(budget.take(start), Duration::from_millis(100));
        assert_eq!(budget.take(start), Duration::from_millis(200));
        // A second later the bucket is full again.
        assert_eq!(budget.take(start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn what_succeeds_earns_a_retry_and_nothing_is_taken_ahead_of_time() {
        let mut budget = RetryBudget::new(10, 2);
        let start = clock::now();
        assert!(budget.take_now(start) && budget.take_now(start));
        assert!(!budget.take_now(start));
        budget.earn(start);
        assert!(budget.take_now(start) && !budget.take_now(start));
        assert!(budget.take_now(start + Duration::from_millis(100)));
        // A full bucket holds no more than it can.
        (0..10).for_each(|_| budget.earn(start));
        assert_eq!((0..10).filter(|_| budget.take_now(start)).count(), 2);
    }
}
