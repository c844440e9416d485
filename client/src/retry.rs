//! How long to wait before another try.

use std::time::Duration;

use crate::clock;

/// Exponential backoff with jitter: the n-th wait is drawn uniformly from the upper half of `base * 2^n`, capped.
///
/// The lower half is kept so that a retry never follows at once; the upper half is random so that clients that failed
/// together do not return together ("equal jitter", M. Brooker, *Exponential Backoff And Jitter*, AWS 2015).
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max: max.max(base), failures: 0 }
    }

    /// The wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.wait(clock::chance());
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// A success: the next failure waits as little as the first.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Nothing failed since the last success.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    fn wait(&self, chance: f64) -> Duration {
        let doubled = self.base.saturating_mul(1 << self.failures.min(20));
        doubled.min(self.max).mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(failures: u32, chance: f64) -> Duration {
        let backoff = Backoff {
            failures,
            ..Backoff::new(Duration::from_millis(100), Duration::from_secs(1))
        };
        backoff.wait(chance)
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let longest: Vec<u128> = (0..6).map(|n| after(n, 1.0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(after(u32::MAX, 1.0), Duration::from_secs(1));
    }

    #[test]
    fn jitter_keeps_at_least_half_of_the_wait() {
        assert_eq!(after(1, 0.0), Duration::from_millis(100));
        assert_eq!(after(1, 0.5), Duration::from_millis(150));
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        assert!(backoff.is_fresh());
        for _ in 0..5 {
            backoff.next();
        }
        assert!(backoff.next() >= Duration::from_millis(500));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
