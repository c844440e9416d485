//! Monotonic time: the only place in this crate that asks for it.
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Now, for durations and deadlines.
pub(crate) fn now() -> Instant {
    streamhouse_host::clock::shared()
}

/// Seconds since 1970: names run folders, and makes a seed where nobody gave one.
pub(crate) fn wall() -> Duration {
    streamhouse_host::clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}
