//! What a producer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::error::{FlushError, ProduceError};

/// A producer's counters since it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ProducerMetrics {
    /// Records acknowledged.
    pub records: u64,
    /// Bytes of acknowledged batches, as sent.
    pub bytes: u64,
    /// Bytes of acknowledged batches before compression.
    pub uncompressed_bytes: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Records that failed for good.
    pub failed_records: u64,
    /// Batches sent once more.
    pub retries: u64,
    /// Of these, the ones whose earlier try may have been written: the upper bound of duplicated batches. 0 if the
    /// producer is idempotent.
    pub ambiguous_retries: u64,
    /// Records in batches of `ambiguous_retries`: the upper bound of duplicated records.
    pub ambiguous_records: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
    uncompressed_bytes: AtomicU64,
    batches: AtomicU64,
    failed_records: AtomicU64,
    retries: AtomicU64,
    ambiguous_retries: AtomicU64,
    ambiguous_records: AtomicU64,
    since_flush: Mutex<Option<FlushError>>,
}

impl Counters {
    pub(super) fn acknowledged(&self, records: u32, bytes: usize, uncompressed: usize) {
        self.records.fetch_add(records.into(), Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.uncompressed_bytes.fetch_add(uncompressed as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self, records: u32, error: &ProduceError) {
        self.failed_records.fetch_add(records.into(), Relaxed);
        let mut since = self.since_flush.lock();
        let failure = since.get_or_insert_with(|| FlushError { failed: 0, first: error.clone() });
        failure.failed += u64::from(records);
    }

    pub(super) fn retried(&self, records: u32, ambiguous: bool) {
        self.retries.fetch_add(1, Relaxed);
        if ambiguous {
            self.ambiguous_retries.fetch_add(1, Relaxed);
            self.ambiguous_records.fetch_add(records.into(), Relaxed);
        }
    }

    /// What failed since the last call.
    pub(super) fn take_failures(&self) -> Result<(), FlushError> {
        self.since_flush.lock().take().map_or(Ok(()), Err)
    }

    pub(super) fn snapshot(&self) -> ProducerMetrics {
        ProducerMetrics {
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            uncompressed_bytes: self.uncompressed_bytes.load(Relaxed),
            batches: self.batches.load(Relaxed),
            failed_records: self.failed_records.load(Relaxed),
            retries: self.retries.load(Relaxed),
            ambiguous_retries: self.ambiguous_retries.load(Relaxed),
            ambiguous_records: self.ambiguous_records.load(Relaxed),
        }
    }
}
