//! Time, for deadlines of waits and for figures that are printed.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Duration, Instant};

pub(crate) fn now() -> Instant {
    Instant::now()
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
