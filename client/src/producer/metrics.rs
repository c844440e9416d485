//! What a producer counts and measures.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::{FlushError, ProduceError};
use super::histogram::{Histogram, LATENCIES, Recorder, SIZES};
use crate::clock;

/// What a producer counted and measured since it was built. See also
/// [`to_prometheus`](ProducerMetrics::to_prometheus).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ProducerMetrics {
    /// Since when.
    pub elapsed: Duration,
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
    /// Bytes of `buffer_memory` in use now: by records that wait or are on their way, and 2 KiB for each batch.
    pub queue_bytes: u64,
    /// `buffer_memory`.
    pub queue_limit_bytes: u64,
    /// How often `send` had to wait for room in the buffer.
    pub waits_for_room: u64,
    /// Agents that are left alone just now, after too many failures in a row.
    pub open_circuits: u64,
    /// Microseconds from a batch's first `send` to its acknowledgement, by batch.
    pub ack_latency_us: Histogram,
    /// Bytes of acknowledged batches, as sent, by batch.
    pub batch_bytes: Histogram,
}

impl ProducerMetrics {
    /// Records acknowledged a second, over the producer's whole life. For a rate over an interval take the difference
    /// of two snapshots.
    pub fn records_per_second(&self) -> f64 {
        per_second(self.records, self.elapsed)
    }

    /// Bytes sent and acknowledged a second, over the producer's whole life.
    pub fn bytes_per_second(&self) -> f64 {
        per_second(self.bytes, self.elapsed)
    }

    /// How many bytes became one; 1.0 if nothing was sent.
    pub fn compression_ratio(&self) -> f64 {
        if self.bytes == 0 { 1.0 } else { self.uncompressed_bytes as f64 / self.bytes as f64 }
    }

    /// The mean number of records in a batch; 0 if nothing was sent.
    pub fn records_per_batch(&self) -> f64 {
        self.records as f64 / self.batches.max(1) as f64
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

#[derive(Debug)]
pub(super) struct Counters {
    started: Instant,
    records: AtomicU64,
    bytes: AtomicU64,
    uncompressed_bytes: AtomicU64,
    batches: AtomicU64,
    failed_records: AtomicU64,
    retries: AtomicU64,
    ambiguous_retries: AtomicU64,
    ambiguous_records: AtomicU64,
    waits_for_room: AtomicU64,
    ack_latency_us: Recorder,
    batch_bytes: Recorder,
    since_flush: Mutex<Option<FlushError>>,
}

/// What is not counted but looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) used: usize,
    pub(super) limit: usize,
    pub(super) failing_agents: usize,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            started: clock::now(),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            uncompressed_bytes: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            failed_records: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            ambiguous_retries: AtomicU64::new(0),
            ambiguous_records: AtomicU64::new(0),
            waits_for_room: AtomicU64::new(0),
            ack_latency_us: Recorder::new(&LATENCIES),
            batch_bytes: Recorder::new(&SIZES),
            since_flush: Mutex::default(),
        }
    }
}

impl Counters {
    pub(super) fn acknowledged(&self, records: u32, bytes: usize, uncompressed: usize) {
        self.records.fetch_add(records.into(), Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.uncompressed_bytes.fetch_add(uncompressed as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.batch_bytes.record(bytes as u64);
    }

    /// A batch that was opened then is acknowledged.
    pub(super) fn took(&self, since: Instant) {
        let took = clock::now().saturating_duration_since(since);
        self.ack_latency_us.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn waited_for_room(&self) {
        self.waits_for_room.fetch_add(1, Relaxed);
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

    pub(super) fn snapshot(&self, queue: Queue) -> ProducerMetrics {
        ProducerMetrics {
            elapsed: clock::now().saturating_duration_since(self.started),
            records: self.records.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            uncompressed_bytes: self.uncompressed_bytes.load(Relaxed),
            batches: self.batches.load(Relaxed),
            failed_records: self.failed_records.load(Relaxed),
            retries: self.retries.load(Relaxed),
            ambiguous_retries: self.ambiguous_retries.load(Relaxed),
            ambiguous_records: self.ambiguous_records.load(Relaxed),
            queue_bytes: queue.used as u64,
            queue_limit_bytes: queue.limit as u64,
            waits_for_room: self.waits_for_room.load(Relaxed),
            open_circuits: queue.failing_agents as u64,
            ack_latency_us: self.ack_latency_us.snapshot(),
            batch_bytes: self.batch_bytes.snapshot(),
        }
    }
}
