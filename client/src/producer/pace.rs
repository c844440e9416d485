//! How soon a partition's batches are sent again after a failure.
//!
//! Most failures are a lease on its way from an agent that died to another, which takes about a second. A wait that
//! doubles from the start would sleep through the moment at which it has arrived, so it stays short for as long as that
//! may take and doubles from then on.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::retry::Backoff;

/// A lease has moved by then: the controllers give a silent agent 3 s.
const EAGER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Pace {
    base: Duration,
    max: Duration,
    backoff: Backoff,
    /// When the first failure since the last success was.
    failing_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, backoff: Backoff::new(base, max), failing_since: None }
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        self.next_at(clock::now())
    }

    fn next_at(&mut self, now: Instant) -> Duration {
        let since = *self.failing_since.get_or_insert(now);
        if now.saturating_duration_since(since) < EAGER {
            return Backoff::new(self.base, self.max).next();
        }
        self.backoff.next()
    }

    /// A success: the next failure waits as little as the first.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.failing_since = None;
    }

    /// Nothing failed since the last success.
    pub(super) fn is_fresh(&self) -> bool {
        self.failing_since.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_short_while_a_lease_may_be_moving_and_double_from_then_on() {
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut pace = Pace::new(base, max);
        let start = clock::now();
        assert!(pace.is_fresh());
        for tenth in 0..30 {
            let wait = pace.next_at(start + Duration::from_millis(100) * tenth);
            assert!(wait >= base / 2 && wait <= base, "{wait:?}");
        }
        let later = start + EAGER;
        for longest in [100, 200, 400, 800, 1000, 1000] {
            let longest = Duration::from_millis(longest);
            let wait = pace.next_at(later);
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
        }
        assert!(!pace.is_fresh());
        pace.reset();
        assert!(pace.is_fresh() && pace.next_at(later) <= base);
    }
}
