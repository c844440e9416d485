//! Time and chance: the only place in this crate that asks for either.
#![expect(clippy::disallowed_methods, reason = "this is the module that the ban points to")]

use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

/// Monotonic time, for timers.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// `wait` after `moment`; a wait that is too long to count, as `Duration::MAX` is, lasts for years.
pub(crate) fn later(moment: Instant, wait: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    moment.checked_add(wait).unwrap_or(moment + FOR_EVER).min(moment + FOR_EVER)
}

/// Waits for a moment that there may not be.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Wall-clock time in milliseconds since 1970, for record timestamps and for nothing else.
pub(crate) fn wall_ms() -> i64 {
    match streamhouse_host::clock::wall().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// A uniformly distributed number in `0.0..1.0`, for jitter.
pub(crate) fn chance() -> f64 {
    rand::random()
}

/// Sixteen random bytes, for ids.
pub(crate) fn random_id() -> [u8; 16] {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_for_ever_is_no_overflow() {
        let start = now();
        assert_eq!(later(start, Duration::from_secs(3)), start + Duration::from_secs(3));
        for long in [Duration::MAX, Duration::from_secs(1 << 40)] {
            assert!(later(start, long) > start + Duration::from_secs(1 << 28));
        }
    }
}
