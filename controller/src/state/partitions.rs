//! One partition: its log's bounds and its write lease.

use super::command::{PartitionKey, TopicKey};
use super::keys::{Key, tag, trailing_partition};
use super::kv::{KvError, KvRead, Transaction};
use super::typed;
use bincode::{Decode, Encode};

/// A partition's record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Partition {
    /// DENSE: one past the last committed offset; the high watermark.
    pub next_offset: u64,
    /// First offset that may be read.
    pub log_start: u64,
    /// One past the last offset below which no transaction is open.
    pub last_stable_offset: u64,
    /// FENCE: raised by every grant and by every refusal of a current slice.
    pub lease_epoch: u32,
    /// `next_offset` when the epoch began.
    pub epoch_start_offset: u64,
    /// The session that holds the lease; 0 if none.
    pub holder: u64,
    /// Cluster time by which a revoked lease is taken; 0 if not revoked.
    pub revoke_deadline_ms: u64,
    /// Index entries.
    pub segments: u64,
    /// Bytes of those entries.
    pub bytes: u64,
    /// Idempotent producers of which it remembers something.
    pub producers: u32,
}

impl Partition {
    /// A new epoch begins at the end of the log. ONCE: whatever was written
    /// under the one before can no longer be committed.
    pub(super) fn raise_epoch(&mut self) {
        self.lease_epoch += 1;
        self.epoch_start_offset = self.next_offset;
    }
}

fn partition_key(partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::PARTITION).partition(partition).done()
}

/// The partition's record.
pub fn partition(kv: &dyn KvRead, key: &PartitionKey) -> Result<Option<Partition>, KvError> {
    typed::get(kv, &partition_key(key))
}

/// Up to `limit` partitions of a topic from number `from` on, in order.
pub fn partitions(
    kv: &dyn KvRead,
    topic: &TopicKey,
    from: u32,
    limit: usize,
) -> Result<Vec<(PartitionKey, Partition)>, KvError> {
    let (_, end) = Key::new(tag::PARTITION).bytes(topic).range();
    let start = partition_key(&PartitionKey { topic: *topic, partition: from });
    let pairs = kv.scan(&start, &end, limit)?;
    pairs
        .into_iter()
        .map(|(key, value)| {
            let partition = trailing_partition(&key).ok_or_else(|| typed::malformed(&key))?;
            Ok((partition, typed::decode(&key, &value)?))
        })
        .collect()
}

pub(super) fn put(tx: &mut Transaction<'_>, key: &PartitionKey, value: &Partition) {
    typed::put(tx, partition_key(key), value);
}

pub(super) fn delete(tx: &mut Transaction<'_>, key: &PartitionKey) {
    tx.delete(partition_key(key));
}
