//! The clocks. CLOCK: nothing but liveness may depend on them.
#![allow(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Instant, SystemTime};

/// Now, on the monotonic clock.
#[inline]
pub fn now() -> Instant {
    #[cfg(not(feature = "simulated"))]
    return Instant::now();
    #[cfg(feature = "simulated")]
    return tokio::time::Instant::now().into_std();
}

/// The time of day.
#[inline]
pub fn wall() -> SystemTime {
    #[cfg(not(feature = "simulated"))]
    return SystemTime::now();
    #[cfg(feature = "simulated")]
    return crate::simulated::wall();
}

/// Now, for what several hosts of one simulation measure together. Never given to a timer: a timer's host has a clock of
/// its own.
#[inline]
pub fn shared() -> Instant {
    #[cfg(not(feature = "simulated"))]
    return Instant::now();
    #[cfg(feature = "simulated")]
    return crate::simulated::shared();
}

/// When a file was last written, by the time of day; a simulation's files lie on a real disk, whose time means nothing there.
pub fn modified(file: &std::fs::File) -> Option<SystemTime> {
    #[cfg(not(feature = "simulated"))]
    return file.metadata().ok()?.modified().ok();
    #[cfg(feature = "simulated")]
    return file.metadata().ok().and(None);
}
