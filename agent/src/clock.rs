//! Time and chance: the only place in this crate that asks for either.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Duration, Instant};

/// Monotonic time, for timers and ages.
pub(crate) fn now() -> Instant {
    streamhouse_host::clock::now()
}

/// A duration drawn evenly from the upper half of `whole`, so that retries of many agents spread.
pub(crate) fn jittered(whole: Duration) -> Duration {
    let chance: f64 = rand::random();
    whole.mul_f64(0.5 + chance / 2.0)
}

/// Sixteen random bytes, for ids.
pub(crate) fn random_id() -> [u8; 16] {
    rand::random()
}

/// Cluster time as the leader last told it, carried on by the local monotonic clock.
///
/// CLOCK: it never goes backwards, whatever the leaders say, and the wall clock has no part in it.
#[derive(Debug, Default)]
pub(crate) struct ClusterClock {
    told: Option<(u64, Instant)>,
    last_ms: u64,
}

impl ClusterClock {
    /// Takes the leader's word for what the time is.
    pub(crate) fn observe(&mut self, cluster_time_ms: u64, now: Instant) {
        if cluster_time_ms > 0 {
            self.told = Some((cluster_time_ms, now));
        }
    }

    /// The cluster time in milliseconds; 0 before any leader was heard.
    pub(crate) fn read(&mut self, now: Instant) -> u64 {
        if let Some((told_ms, at)) = self.told {
            let since = now.saturating_duration_since(at).as_millis();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            self.last_ms = self.last_ms.max(told_ms.saturating_add(since));
        }
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_time_advances_and_never_goes_back() {
        let start = now();
        let mut clock = ClusterClock::default();
        assert_eq!(clock.read(start), 0);
        clock.observe(10_000, start);
        assert_eq!(clock.read(start + Duration::from_millis(500)), 10_500);
        // A new leader whose clock is a little behind: time stands still until it has caught up.
        clock.observe(9_000, start + Duration::from_millis(500));
        assert_eq!(clock.read(start + Duration::from_millis(600)), 10_500);
        assert_eq!(clock.read(start + Duration::from_millis(2_500)), 11_000);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_millis(100));
            assert!((50..=100).contains(&wait.as_millis()));
        }
    }
}
