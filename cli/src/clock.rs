//! Time: the only place in this crate that asks for it.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Now, for durations and deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time in milliseconds since 1970, for times that a user gives relative to it.
pub(crate) fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}
