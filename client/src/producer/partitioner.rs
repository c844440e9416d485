//! Which partition a record goes to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use siphasher::sip::SipHasher24;

use super::murmur2;

/// The two halves of the SipHash key. They are fixed for good: changing them would move every key.
const KEY_0: u64 = u64::from_le_bytes(*b"streamho");
const KEY_1: u64 = u64::from_le_bytes(*b"use/keys");

/// How partitions are chosen for records that do not name one.
///
/// ```
/// use streamhouse_client::producer::{ChoosePartition, Partitioner};
///
/// /// By the first byte of the value.
/// #[derive(Debug)]
/// struct FirstByte;
///
/// impl ChoosePartition for FirstByte {
///     fn choose(&self, _: &str, _: Option<&[u8]>, value: Option<&[u8]>, partitions: u32) -> u32 {
///         value.and_then(|value| value.first()).map_or(0, |byte| u32::from(*byte) % partitions)
///     }
/// }
///
/// let producer = streamhouse_client::Producer::builder().partitioner(Partitioner::custom(FirstByte));
/// # drop(producer);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Partitioner {
    /// By key: SipHash-2-4 of the key (keys: the ASCII bytes `streamho` and `use/keys`, read little-endian), modulo
    /// the number of partitions. Records without a key stay on one partition until its batch is sent, then go on to
    /// the next, which makes fuller batches than taking turns. The default.
    #[default]
    KeyHash,
    /// By key as Kafka's Java client does it: MurmurHash2 of the key, its sign bit cleared, modulo the number of
    /// partitions. For topics that Kafka's producers write as well, or did. Records without a key are treated as under
    /// [`KeyHash`](Self::KeyHash).
    Murmur2,
    /// All partitions take turns, record by record; keys play no part.
    RoundRobin,
    /// One partition until its batch is sent, then the next; keys play no part.
    Sticky,
    /// As the application decides.
    Custom(Arc<dyn ChoosePartition>),
}

/// An application's own way to choose partitions; see [`Partitioner::custom`].
pub trait ChoosePartition: fmt::Debug + Send + Sync {
    /// The partition of a record, below `partitions`, which is at least 1. An answer outside fails the record as
    /// [`UnknownPartition`](super::ProduceError::UnknownPartition).
    ///
    /// Called by `send`, on its thread, with a lock held: it must not block, nor call the producer.
    fn choose(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, partitions: u32)
    -> u32;
}

/// What a partitioner remembers of a topic.
#[derive(Debug, Default)]
pub(super) struct Turn {
    current: AtomicU32,
}

impl Turn {
    /// The batch of `partition` is closed: keyless records go elsewhere now.
    pub(super) fn pass_on(&self, partition: u32, partitions: u32) {
        let next = (partition + 1) % partitions.max(1);
        // If another batch was closed at the same moment, one step is enough.
        let _ =
            self.current.compare_exchange(partition, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn stay(&self, partitions: u32) -> u32 {
        self.current.load(Ordering::Relaxed) % partitions
    }

    fn advance(&self, partitions: u32) -> u32 {
        self.current.fetch_add(1, Ordering::Relaxed) % partitions
    }
}

impl Partitioner {
    /// As `choose` decides.
    pub fn custom(choose: impl ChoosePartition + 'static) -> Self {
        Self::Custom(Arc::new(choose))
    }

    /// The partition for a record; `partitions` is at least 1. Below that, unless a custom one chose otherwise.
    #[inline]
    pub(super) fn choose(
        &self,
        turn: &Turn,
        topic: &str,
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        partitions: u32,
    ) -> u32 {
        match (self, key) {
            (Self::KeyHash, Some(key)) => by_key(key, partitions),
            (Self::Murmur2, Some(key)) => murmur2::partition(key, partitions),
            (Self::KeyHash | Self::Murmur2, None) | (Self::Sticky, _) => turn.stay(partitions),
            (Self::RoundRobin, _) => turn.advance(partitions),
            (Self::Custom(custom), key) => custom.choose(topic, key, value, partitions),
        }
    }
}

#[inline]
fn by_key(key: &[u8], partitions: u32) -> u32 {
    let hash = SipHasher24::new_with_keys(KEY_0, KEY_1).hash(key);
    (hash % u64::from(partitions)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_s_partition_never_changes() {
        // Golden: keys that were written by one release must be found where they are by the next. The numbers come
        // from an independent SipHash-2-4.
        let golden =
            [("", 859), ("user123", 389), ("UA", 205), ("AA", 79), ("B6", 494), ("DL", 676)];
        for (key, partition) in golden {
            assert_eq!(by_key(key.as_bytes(), 1000), partition, "{key}");
        }
    }

    #[test]
    fn round_robin_takes_turns_and_ignores_keys() {
        let turn = Turn::default();
        let chosen: Vec<u32> = (0..5)
            .map(|_| Partitioner::RoundRobin.choose(&turn, "t", (Some(b"k"), None), 3))
            .collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn keyless_records_stay_until_their_batch_is_closed() {
        let turn = Turn::default();
        let choose = || Partitioner::KeyHash.choose(&turn, "t", (None, None), 3);
        assert_eq!([choose(), choose()], [0, 0]);
        turn.pass_on(0, 3);
        assert_eq!([choose(), choose()], [1, 1]);
        // Another partition's batch was closed: no reason to move.
        turn.pass_on(0, 3);
        assert_eq!(choose(), 1);
        turn.pass_on(1, 3);
        turn.pass_on(2, 3);
        assert_eq!(choose(), 0);
    }
}
