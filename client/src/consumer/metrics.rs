//! What a consumer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A consumer's counters since it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConsumerMetrics {
    /// Range GETs sent to the object store, retries included.
    pub get_requests: u64,
    /// Bytes these brought.
    pub bytes_fetched: u64,
    /// Look-ups in the segment index, each for any number of partitions.
    pub look_ups: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) get_requests: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) look_ups: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self) -> ConsumerMetrics {
        ConsumerMetrics {
            get_requests: self.get_requests.load(Relaxed),
            bytes_fetched: self.bytes_fetched.load(Relaxed),
            look_ups: self.look_ups.load(Relaxed),
        }
    }
}
