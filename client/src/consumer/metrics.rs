//! What a consumer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A consumer's counters since it was built. Those of the cache are its own, also where it shares the cache. See also
/// [`to_prometheus`](ConsumerMetrics::to_prometheus).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConsumerMetrics {
    /// Range GETs sent to the object store: retries and second tries of slow ones included.
    pub get_requests: u64,
    /// GETs sent a second time because the first was slow.
    pub hedged_gets: u64,
    /// GETs that failed and were sent again.
    pub retried_gets: u64,
    /// Bytes that the GETs brought.
    pub bytes_fetched: u64,
    /// Ranges whose bytes were not those that were written, and were fetched again.
    pub damaged_fetches: u64,
    /// Look-ups in the segment index, each for any number of partitions.
    pub look_ups: u64,
    /// Read plans that named an object that was gone, and were made anew.
    pub replans: u64,
    /// Slices found in the segment cache.
    pub cache_hits: u64,
    /// Slices that were not in the segment cache. 0 without a cache.
    pub cache_misses: u64,
    /// Records handed out by poll.
    pub records: u64,
    /// Commits that the controllers took, automatic ones included.
    pub commits: u64,
    /// Commits that failed.
    pub failed_commits: u64,
    /// Bytes held just now of what was fetched or decoded ahead of poll, or was handed out by the last one.
    pub buffered_bytes: u64,
}

impl ConsumerMetrics {
    /// How many of the slices were found in the cache, from 0 to 1. `None` if none was looked for.
    pub fn cache_hit_rate(&self) -> Option<f64> {
        let looked_for = self.cache_hits + self.cache_misses;
        (looked_for > 0).then(|| self.cache_hits as f64 / looked_for as f64)
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) get_requests: AtomicU64,
    pub(super) hedged_gets: AtomicU64,
    pub(super) retried_gets: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) damaged_fetches: AtomicU64,
    pub(super) look_ups: AtomicU64,
    pub(super) replans: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) failed_commits: AtomicU64,
}

/// Counts `by` more.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

impl Counters {
    pub(super) fn snapshot(&self, buffered_bytes: usize) -> ConsumerMetrics {
        ConsumerMetrics {
            get_requests: self.get_requests.load(Relaxed),
            hedged_gets: self.hedged_gets.load(Relaxed),
            retried_gets: self.retried_gets.load(Relaxed),
            bytes_fetched: self.bytes_fetched.load(Relaxed),
            damaged_fetches: self.damaged_fetches.load(Relaxed),
            look_ups: self.look_ups.load(Relaxed),
            replans: self.replans.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            cache_misses: self.cache_misses.load(Relaxed),
            records: self.records.load(Relaxed),
            commits: self.commits.load(Relaxed),
            failed_commits: self.failed_commits.load(Relaxed),
            buffered_bytes: buffered_bytes as u64,
        }
    }
}
