//! What partitions have of idempotent producers.
//!
//! DEDUP: written by [`commit`](super::segments) in the entry that puts the
//! batches into the index, never otherwise; kept for a day of cluster time
//! after the last of them, longer than any batch can be on its way.
//!
//! ```text
//! 65  topic id, partition, producer id        Committed
//! 66  due, topic id, partition, producer id   (), forgotten at that time
//! ```

use super::command::PartitionKey;
use super::keys::{Key, tag, trailing_partition, trailing_u64};
use super::kv::{KvError, KvRead, Transaction};
use super::producers::{KEPT_MS, TOUCH_MS};
use super::{partitions, typed};
use bincode::{Decode, Encode};
use streamhouse_segment::sequences::{SequenceRun, Sequences};

/// Most producers that one partition remembers.
pub const MAX_PARTITION_PRODUCERS: u32 = 10_000;

/// What a partition has of a producer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Committed {
    /// The producer's epoch.
    pub epoch: u16,
    /// Records of that epoch.
    pub records: u64,
    /// Where the last of them are, in order.
    pub runs: Vec<Run>,
    /// Cluster time of the last, up to ten minutes earlier.
    pub used_ms: u64,
}

/// Records that follow each other in their sequence and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// How many records of the epoch come before.
    pub first: u64,
    /// How many it has.
    pub records: u64,
    /// The offset of the first.
    pub base_offset: u64,
}

impl Committed {
    /// As the rule takes it.
    pub(super) fn sequences(&self) -> Sequences {
        let run = |run: &Run| SequenceRun {
            first: run.first,
            records: run.records,
            base_offset: run.base_offset,
        };
        Sequences { records: self.records, runs: self.runs.iter().map(run).collect() }
    }

    /// As it is stored.
    pub(super) fn of(epoch: u16, sequences: &Sequences, used_ms: u64) -> Self {
        let run = |run: &SequenceRun| Run {
            first: run.first,
            records: run.records,
            base_offset: run.base_offset,
        };
        let runs = sequences.runs.iter().map(run).collect();
        Self { epoch, records: sequences.records, runs, used_ms }
    }
}

fn sequences_key(partition: &PartitionKey, producer: u64) -> Vec<u8> {
    Key::new(tag::SEQUENCES).partition(partition).u64(producer).done()
}

fn due_key(used_ms: u64, partition: &PartitionKey, producer: u64) -> Vec<u8> {
    let due = used_ms.saturating_add(KEPT_MS + TOUCH_MS);
    Key::new(tag::SEQUENCES_DUE).u64(due).partition(partition).u64(producer).done()
}

/// What the partition has of the producer.
pub fn committed(
    kv: &dyn KvRead,
    partition: &PartitionKey,
    producer: u64,
) -> Result<Option<Committed>, KvError> {
    typed::get(kv, &sequences_key(partition, producer))
}

/// Writes what there is now; `filed_ms` is under what time it was filed.
pub(super) fn put(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    (partition, producer): (&PartitionKey, u64),
    filed_ms: Option<u64>,
    value: &Committed,
) {
    let mut value = value.clone();
    value.used_ms = match filed_ms {
        Some(filed) if now_ms.saturating_sub(filed) < TOUCH_MS => filed,
        Some(filed) => {
            tx.delete(due_key(filed, partition, producer));
            now_ms
        }
        None => now_ms,
    };
    if filed_ms != Some(value.used_ms) {
        typed::mark(tx, due_key(value.used_ms, partition, producer));
    }
    typed::put(tx, sequences_key(partition, producer), &value);
}

/// Removes up to `limit` of a partition's; tells how many.
pub(super) fn delete_some(
    tx: &mut Transaction<'_>,
    partition: &PartitionKey,
    limit: usize,
) -> Result<usize, KvError> {
    let (start, end) = Key::new(tag::SEQUENCES).partition(partition).range();
    let pairs = tx.scan(&start, &end, limit)?;
    let removed = pairs.len();
    for (key, value) in pairs {
        let producer = trailing_u64(&key).ok_or_else(|| typed::malformed(&key))?;
        let value: Committed = typed::decode(&key, &value)?;
        tx.delete(due_key(value.used_ms, partition, producer));
        tx.delete(key);
    }
    Ok(removed)
}

fn due(kv: &dyn KvRead, now_ms: u64, limit: usize) -> Result<Vec<Vec<u8>>, KvError> {
    let start = Key::new(tag::SEQUENCES_DUE).done();
    let end = Key::new(tag::SEQUENCES_DUE).u64(now_ms).done();
    Ok(kv.scan(&start, &end, limit)?.into_iter().map(|(key, _)| key).collect())
}

/// Whether [`expire`] has something to do.
pub(super) fn expiry_is_due(kv: &dyn KvRead, now_ms: u64) -> Result<bool, KvError> {
    Ok(!due(kv, now_ms, 1)?.is_empty())
}

/// Forgets up to `limit` that nothing was added to for a day.
pub(super) fn expire(tx: &mut Transaction<'_>, now_ms: u64, limit: usize) -> Result<(), KvError> {
    for key in due(tx, now_ms, limit)? {
        let malformed = || typed::malformed(&key);
        let producer = trailing_u64(&key).ok_or_else(malformed)?;
        let at = trailing_partition(&key[..key.len() - 8]).ok_or_else(malformed)?;
        tx.delete(sequences_key(&at, producer));
        if let Some(mut partition) = partitions::partition(tx, &at)? {
            partition.producers = partition.producers.saturating_sub(1);
            partitions::put(tx, &at, &partition);
        }
        tx.delete(key);
    }
    Ok(())
}
