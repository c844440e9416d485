//! DEDUP at apply: whether a slice's batches are their producers' next ones.
//!
//! A slice is accepted or refused as a whole, for its offsets were given out
//! as a whole; one bad batch refuses it, and the answer names every bad one.
//! Each is judged as if those refused ahead of it were not there, so that what
//! is left is accepted when it comes again.

use super::command::{PartitionKey, ProducerBatch, SliceCommit};
use super::kv::{KvError, Transaction};
use super::partitions::Partition;
use super::producers::{self, Producer};
use super::reply::{BatchFault, BatchRefusal, Refusal};
use super::sequences::{self, Committed, MAX_PARTITION_PRODUCERS};
use std::collections::{BTreeMap, btree_map};
use streamhouse_host::planted::{Mistake, is_planted};
use streamhouse_segment::sequences::{Sequences, Standing};

/// What one object changes of producers: read once, written once.
#[derive(Default)]
pub(super) struct Ledger {
    producers: BTreeMap<u64, Option<Producer>>,
    partitions: BTreeMap<(PartitionKey, u64), Entry>,
}

#[derive(Clone, Default)]
struct Entry {
    epoch: u16,
    sequences: Sequences,
    /// Under what time it is filed; `None` if it is new.
    filed_ms: Option<u64>,
}

impl Entry {
    fn load(
        tx: &Transaction<'_>,
        partition: &PartitionKey,
        producer: u64,
    ) -> Result<Option<Self>, KvError> {
        let found = sequences::committed(tx, partition, producer)?;
        Ok(found.map(|found| Self {
            epoch: found.epoch,
            sequences: found.sequences(),
            filed_ms: Some(found.used_ms),
        }))
    }

    /// Takes the batch if it is the next one.
    fn take(&mut self, batch: &ProducerBatch, base_offset: u64) -> Result<(), BatchFault> {
        let epoch = batch.producer.epoch;
        if epoch > self.epoch {
            // A newer epoch begins at 0.
            if batch.base_sequence != 0 {
                return Err(BatchFault::OutOfOrder { expected: 0 });
            }
            (self.epoch, self.sequences) = (epoch, Sequences::default());
        }
        match self.sequences.judge(batch.base_sequence, batch.records) {
            Standing::Next => {
                self.sequences.append(batch.records, base_offset + batch.offset_delta);
                Ok(())
            }
            Standing::Had { position }
                if is_planted(Mistake::DuplicateOffByOne)
                    && position + u64::from(batch.records) == self.sequences.records =>
            {
                Ok(())
            }
            Standing::Had { position } => {
                Err(BatchFault::Committed(self.sequences.offset_of(position)))
            }
            Standing::OutOfOrder { expected } => Err(BatchFault::OutOfOrder { expected }),
        }
    }
}

impl Ledger {
    /// Takes the batches of a slice that is in order otherwise; if it is
    /// refused, nothing of it is taken.
    pub(super) fn take(
        &mut self,
        tx: &Transaction<'_>,
        slice: &SliceCommit,
        partition: &mut Partition,
    ) -> Result<Option<Refusal>, KvError> {
        let mut taken: BTreeMap<u64, Entry> = BTreeMap::new();
        let mut refused = Vec::new();
        let mut room = MAX_PARTITION_PRODUCERS.saturating_sub(partition.producers);
        for (index, batch) in (0..).zip(&slice.producers) {
            let id = batch.producer.id;
            let mut fault = self.fence(tx, batch)?;
            if fault.is_none() {
                let known = match taken.remove(&id) {
                    Some(entry) => Some(entry),
                    None => self.entry(tx, &slice.partition, id)?,
                };
                let is_new = known.is_none();
                let mut entry = known.unwrap_or_default();
                fault = match is_new && room == 0 {
                    true => Some(BatchFault::TooMany),
                    false => entry.take(batch, slice.base_offset).err(),
                };
                if !is_new || fault.is_none() {
                    room -= u32::from(is_new);
                    taken.insert(id, entry);
                }
            }
            refused.extend(fault.map(|fault| BatchRefusal { index, fault }));
        }
        if !refused.is_empty() {
            if is_planted(Mistake::ProducerStateEarly) {
                let taken = taken.into_iter().map(|(id, entry)| ((slice.partition, id), entry));
                self.partitions.extend(taken);
            }
            return Ok(Some(Refusal::Batches(refused)));
        }
        partition.producers = MAX_PARTITION_PRODUCERS - room;
        let taken = taken.into_iter().map(|(id, entry)| ((slice.partition, id), entry));
        self.partitions.extend(taken);
        Ok(None)
    }

    /// FENCE for producers: its epoch must be the producer's.
    fn fence(
        &mut self,
        tx: &Transaction<'_>,
        batch: &ProducerBatch,
    ) -> Result<Option<BatchFault>, KvError> {
        let asked = batch.producer;
        let known = match self.producers.entry(asked.id) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(vacant) => vacant.insert(producers::producer(tx, asked.id)?),
        };
        Ok(match known.as_ref().map(Producer::current) {
            Some(current) if current > asked.epoch => {
                let ignored = is_planted(Mistake::ProducerEpochIgnored);
                (!ignored).then_some(BatchFault::Fenced { current })
            }
            Some(current) if current == asked.epoch => None,
            Some(_) | None => Some(BatchFault::Unknown),
        })
    }

    fn entry(
        &self,
        tx: &Transaction<'_>,
        partition: &PartitionKey,
        producer: u64,
    ) -> Result<Option<Entry>, KvError> {
        match self.partitions.get(&(*partition, producer)) {
            Some(entry) => Ok(Some(entry.clone())),
            None => Entry::load(tx, partition, producer),
        }
    }

    /// Writes what the accepted slices changed.
    pub(super) fn write(self, tx: &mut Transaction<'_>, now_ms: u64) {
        for ((partition, id), entry) in &self.partitions {
            let value = Committed::of(entry.epoch, &entry.sequences, 0);
            sequences::put(tx, now_ms, (partition, *id), entry.filed_ms, &value);
            if let Some(Some(known)) = self.producers.get(id) {
                producers::touch(tx, now_ms, *id, known);
            }
        }
    }
}

/// Whether a slice that a restore found holds a batch that the partition has already, or one of an epoch before what it
/// has: such a slice was refused when it was to be committed, and nothing else in the bucket may say so.
pub(super) fn was_refused(tx: &Transaction<'_>, slice: &SliceCommit) -> Result<bool, KvError> {
    for batch in &slice.producers {
        let Some(mut known) = Entry::load(tx, &slice.partition, batch.producer.id)? else {
            continue;
        };
        let over = batch.producer.epoch < known.epoch;
        if over || matches!(known.take(batch, slice.base_offset), Err(BatchFault::Committed(_))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A slice that a restore put into the index was accepted once: what it says
/// of producers is so.
pub(super) fn restore(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    slice: &SliceCommit,
    partition: &mut Partition,
) -> Result<(), KvError> {
    for batch in &slice.producers {
        let id = batch.producer.id;
        producers::restore(tx, now_ms, batch.producer)?;
        let known = Entry::load(tx, &slice.partition, id)?;
        partition.producers += u32::from(known.is_none());
        let mut entry = known.unwrap_or_default();
        if let Err(BatchFault::OutOfOrder { .. }) = entry.take(batch, slice.base_offset) {
            // What came before it was forgotten meanwhile.
            let records = u64::from(batch.base_sequence);
            entry.epoch = batch.producer.epoch;
            entry.sequences = Sequences { records, runs: Vec::new() };
            entry.sequences.append(batch.records, slice.base_offset + batch.offset_delta);
        }
        let value = Committed::of(entry.epoch, &entry.sequences, 0);
        sequences::put(tx, now_ms, (&slice.partition, id), entry.filed_ms, &value);
    }
    Ok(())
}

/// What no slice can say of producers, whoever wrote it.
pub(super) fn check_shape(slice: &SliceCommit) -> Option<Refusal> {
    let range = slice.last_offset - slice.base_offset;
    let mut free = 0;
    for (index, batch) in slice.producers.iter().enumerate() {
        let end = batch.offset_delta.saturating_add(u64::from(batch.records));
        let sound = batch.records > 0
            && batch.base_sequence <= i32::MAX.unsigned_abs()
            && producers::can_be(batch.producer)
            && batch.offset_delta >= free
            && end - 1 <= range;
        if !sound {
            return Some(Refusal::Invalid(format!(
                "batch {index} of producer {} does not lie in a slice of offsets {} to {}",
                batch.producer.id, slice.base_offset, slice.last_offset
            )));
        }
        free = end;
    }
    None
}
