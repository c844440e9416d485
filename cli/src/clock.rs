//! Monotonic time: the only place in this crate that asks for it.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::Instant;

/// Now, for durations and deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}
