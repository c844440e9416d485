//! Time, for deadlines of waits and for figures that are printed.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The machine's monotonic clock in microseconds: the same for all processes, so that what they saw can be put in order,
/// and nobody sets it.
///
/// # Panics
///
/// On a machine without one.
pub fn micros() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a monotonic clock");
    Duration::from(time).as_micros() as u64
}

/// How long something took.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self(now())
    }

    /// So far.
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.0)
    }
}
