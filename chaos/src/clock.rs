//! Monotonic time: the only place in this crate that asks for it.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, for durations and deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970: names run folders, and makes a seed where nobody gave one.
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
