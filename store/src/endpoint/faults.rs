//! What an endpoint does to its callers, for as long as a test wants.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use s3s::{S3ErrorCode, S3Result, s3_error};

/// How the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weather {
    /// Every request is answered.
    #[default]
    Fair,
    /// Every second request is answered with 503 SlowDown, and has no effect.
    Throttling,
    /// Connections are closed as soon as they are made, and requests on those that are there fail.
    Out,
}

/// The weather, and what came of it.
#[derive(Debug, Default)]
pub struct Faults {
    weather: Mutex<Weather>,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl Faults {
    /// From now on it is like this.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock() = weather;
    }

    /// Requests so far, and how many of them were refused.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    pub(super) fn is_out(&self) -> bool {
        *self.weather.lock() == Weather::Out
    }

    /// Whether a request may go on.
    pub(super) fn pass(&self) -> S3Result<()> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let weather = *self.weather.lock();
        let error = match weather {
            Weather::Fair => return Ok(()),
            Weather::Throttling if number.is_multiple_of(2) => return Ok(()),
            Weather::Throttling => s3_error!(SlowDown),
            Weather::Out => S3ErrorCode::InternalError.into(),
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(error)
    }
}
