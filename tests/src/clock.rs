//! Time, for deadlines of waits and for figures that are printed.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The machine's clock in microseconds: the same for all processes, so that what they saw can be put in order.
pub fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
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
