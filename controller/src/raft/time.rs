//! The one place of this folder that reads a clock. Monotonic only: nothing
//! here depends on the time of day (CLOCK).

use std::time::{Duration, Instant};

/// Now, on the monotonic clock.
pub(super) fn now() -> Instant {
    streamhouse_host::clock::now()
}

/// The moment `delay` from now, on the runtime's clock.
pub(super) fn after(delay: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + delay
}
