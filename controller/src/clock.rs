//! The one place of this crate, beside the Raft layer's monotonic clock, that
//! reads clocks; and cluster time (CLOCK).
//!
//! Cluster time is carried by commands. The leader advances it by its
//! monotonic clock and slews it towards wall time: at double speed while it
//! is behind, at half speed while it is ahead. A jump of the wall clock thus
//! changes nothing at once, and whatever expires does so at most twice as
//! fast as it should.

use crate::raft::CommandClock;
use parking_lot::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use streamhouse_host::{Mistake, is_planted};

/// Now, on the monotonic clock.
pub(crate) fn now() -> Instant {
    streamhouse_host::clock::now()
}

fn wall_ms() -> u64 {
    let since =
        streamhouse_host::clock::wall().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago something of the file system's time was, for operators (CLOCK:
/// nothing is decided by it).
pub(crate) fn since(then: SystemTime) -> Duration {
    streamhouse_host::clock::wall().duration_since(then).unwrap_or(Duration::ZERO)
}

/// CLOCK: further apart, wall time and cluster time are an alarm, and nothing is deleted.
const APART: Duration = Duration::from_secs(60);

/// A leader's clock.
#[derive(Debug)]
pub struct ClusterClock(Mutex<Reading>);

#[derive(Debug)]
struct Reading {
    /// Cluster time in microseconds.
    micros: u64,
    /// When it was that.
    at: Instant,
}

impl Default for ClusterClock {
    fn default() -> Self {
        Self(Mutex::new(Reading { micros: 0, at: now() }))
    }
}

impl ClusterClock {
    /// A new leader goes on from the cluster time in its state; a new cluster
    /// begins at wall time.
    pub(crate) fn take_over(&self, state_ms: u64) {
        let start_ms = if state_ms == 0 { wall_ms() } else { state_ms };
        *self.0.lock() = Reading { micros: start_ms * 1_000, at: now() };
    }

    /// Not the leader's clock any more. What it stamps before it takes over
    /// anew is older than any state, which never goes back: while it followed
    /// nobody, it has slewed towards a wall clock that may be wrong.
    pub(crate) fn stand_down(&self) {
        *self.0.lock() = Reading { micros: 0, at: now() };
    }

    /// Cluster time, in milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        let (at, wall_ms) = (now(), wall_ms());
        let mut reading = self.0.lock();
        reading.micros = advance(&reading, at, wall_ms);
        reading.at = at;
        reading.micros / 1_000
    }
}

impl ClusterClock {
    /// How far cluster time is from wall time, if that is an alarm.
    pub(crate) fn apart(&self) -> Option<Duration> {
        apart(self.now_ms(), wall_ms())
    }
}

impl CommandClock for ClusterClock {
    fn stamp_ms(&self) -> u64 {
        self.now_ms()
    }

    fn apart(&self) -> Option<Duration> {
        ClusterClock::apart(self)
    }
}

fn apart(cluster_ms: u64, wall_ms: u64) -> Option<Duration> {
    let apart = Duration::from_millis(cluster_ms.abs_diff(wall_ms));
    (apart > APART).then_some(apart)
}

fn advance(reading: &Reading, at: Instant, wall_ms: u64) -> u64 {
    let elapsed = at.saturating_duration_since(reading.at).as_micros();
    let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
    let wall = wall_ms.saturating_mul(1_000);
    let expected = reading.micros.saturating_add(elapsed);
    if is_planted(Mistake::ExpiryByWallClock) {
        return wall.max(reading.micros);
    }
    if wall >= expected {
        let fastest = expected.saturating_add(elapsed);
        fastest.min(wall)
    } else {
        let slowest = reading.micros.saturating_add(elapsed / 2);
        slowest.max(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(micros: u64, elapsed_ms: u64, wall_ms: u64) -> u64 {
        let at = now();
        let reading = Reading { micros, at };
        advance(&reading, at + Duration::from_millis(elapsed_ms), wall_ms)
    }

    #[test]
    fn a_clock_that_is_behind_catches_up_at_double_speed_at_most() {
        assert_eq!(after(1_000_000, 100, 9_000), 1_200_000);
        assert_eq!(after(1_000_000, 100, 1_150), 1_150_000);
    }

    #[test]
    fn a_minute_between_cluster_time_and_wall_time_is_an_alarm() {
        assert_eq!(apart(1_000_000, 1_060_000), None);
        for (cluster_ms, wall_ms) in [(1_000_000, 1_060_001), (1_060_001, 1_000_000)] {
            assert_eq!(apart(cluster_ms, wall_ms), Some(Duration::from_millis(60_001)));
        }
        // A leader that takes over from a cluster that was down for an hour.
        let clock = ClusterClock::default();
        clock.take_over(wall_ms() - 3_600_000);
        assert!(clock.apart().is_some_and(|apart| apart > Duration::from_secs(3_500)));
        clock.take_over(0);
        assert_eq!(clock.apart(), None, "a new cluster begins at wall time");
    }

    #[test]
    fn a_clock_that_is_ahead_slows_down_and_never_goes_back() {
        assert_eq!(after(5_000_000, 100, 1_000), 5_050_000);
        assert_eq!(after(5_000_000, 0, 1_000), 5_000_000);
    }
}
