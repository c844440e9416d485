//! The segment index, and the commits that write it.
//!
//! An entry's key holds its base offset, its value the rest, so that one big
//! entry can take the place of many small ones; its source is an enum, so that
//! other places than an agent's object can be added.

use super::collector::{self, ObjectName};
use super::command::{
    GenerationKey, ObjectCommit, ObjectContents, PartitionKey, RestoredObject, SliceCommit,
    TopicKey,
};
use super::dedup::Ledger;
use super::keys::{Key, tag, trailing_u64};
use super::kv::{KvError, KvRead, Transaction};
use super::partitions::{self, Partition};
use super::reply::{Effect, LeaseChange, ObjectReply, Refusal, Reply, SliceReply};
use super::sessions::{self, Session};
use super::topics::{self, TopicStage};
use super::{MAX_BATCH, cluster, dedup, typed};
use bincode::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_host::planted::{Mistake, is_planted};

/// RETRY: results kept per live session. An agent starts sequence n + 64 only
/// after n's answer.
pub const RESULTS_KEPT: u64 = 64;

/// One entry of the index: a run of record batches inside one object.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IndexEntry {
    /// Last offset of the range that begins at the key's base offset.
    pub last_offset: u64,
    /// Records in it.
    pub record_count: u32,
    /// Where the bytes are.
    pub source: Source,
    /// Byte position in the object.
    pub position: u64,
    /// Bytes.
    pub length: u32,
    /// Over those bytes.
    pub crc32c: u32,
    /// Cluster time at which the agent wrote it.
    pub append_time_ms: u64,
    /// Smallest record timestamp.
    pub min_timestamp_ms: i64,
    /// Largest record timestamp.
    pub max_timestamp_ms: i64,
    /// Epoch under which it was written.
    pub lease_epoch: u32,
    /// Bits of the segment format.
    pub flags: u32,
}

/// Where an entry's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Source {
    /// In the object an agent wrote.
    L0 {
        /// The cluster's when it was written.
        generation: GenerationKey,
        /// The agent's session.
        session: u64,
        /// The session's number for it.
        sequence: u64,
    },
}

/// An object that the index refers to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ObjectRecord {
    /// Bytes of the whole object.
    pub size: u64,
    /// Entries that refer to it; without any the record goes.
    pub live: u32,
}

fn segment_key(partition: &PartitionKey, base: u64) -> Vec<u8> {
    Key::new(tag::SEGMENT).partition(partition).u64(base).done()
}

fn object_key(session: u64, sequence: u64) -> Vec<u8> {
    Key::new(tag::OBJECT).u64(session).u64(sequence).done()
}

fn result_key(session: u64, sequence: u64) -> Vec<u8> {
    Key::new(tag::RESULT).u64(session).u64(sequence).done()
}

/// Up to `limit` entries, with their base offsets, from the one that holds
/// `offset` on.
pub fn segments_from(
    kv: &dyn KvRead,
    partition: &PartitionKey,
    offset: u64,
    limit: usize,
) -> Result<Vec<(u64, IndexEntry)>, KvError> {
    let (first, end) = Key::new(tag::SEGMENT).partition(partition).range();
    let mut start = segment_key(partition, offset);
    if let Some((key, value)) =
        kv.last(&first, &segment_key(partition, offset.saturating_add(1)))?
    {
        let entry: IndexEntry = typed::decode(&key, &value)?;
        if entry.last_offset >= offset {
            start = key;
        }
    }
    let pairs = kv.scan(&start, &end, limit)?;
    let entries = pairs.into_iter().map(|(key, value)| {
        let base = trailing_u64(&key).ok_or_else(|| typed::malformed(&key))?;
        Ok((base, typed::decode(&key, &value)?))
    });
    entries.collect()
}

/// The last entry that begins before `offset`, with its base offset.
pub fn last_before(
    kv: &dyn KvRead,
    partition: &PartitionKey,
    offset: u64,
) -> Result<Option<(u64, IndexEntry)>, KvError> {
    let (first, _) = Key::new(tag::SEGMENT).partition(partition).range();
    let Some((key, value)) = kv.last(&first, &segment_key(partition, offset))? else {
        return Ok(None);
    };
    let base = trailing_u64(&key).ok_or_else(|| typed::malformed(&key))?;
    Ok(Some((base, typed::decode(&key, &value)?)))
}

/// An object's record, while the index refers to it.
pub fn object(
    kv: &dyn KvRead,
    session: u64,
    sequence: u64,
) -> Result<Option<ObjectRecord>, KvError> {
    typed::get(kv, &object_key(session, sequence))
}

pub(super) fn commit(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    id: u64,
    instance: &[u8; 16],
    objects: &[ObjectCommit],
) -> Result<(Reply, Vec<Effect>), KvError> {
    let mut effects = Vec::new();
    let Some(mut session) = sessions::session(tx, id)? else {
        return Ok(refuse_all(id, objects, &Refusal::OutcomeUnknown));
    };
    // FENCE: the same number of another cluster, or of this one before it was
    // restored. None of its commits was applied here.
    if session.instance != *instance {
        return Ok(refuse_all(id, objects, &Refusal::SessionEnded(id)));
    }
    let before = session.last_sequence;
    let mut replies = Vec::with_capacity(objects.len());
    for object in objects {
        replies.push(commit_object(tx, now_ms, (id, &mut session), object, &mut effects)?);
    }
    if session.last_sequence != before {
        sessions::put(tx, id, &session);
    }
    Ok((Reply::Objects(replies), effects))
}

fn refuse_all(id: u64, objects: &[ObjectCommit], refusal: &Refusal) -> (Reply, Vec<Effect>) {
    let mut effects = Vec::new();
    let replies = objects.iter().map(|object| refuse(id, object, refusal.clone(), &mut effects));
    (Reply::Objects(replies.collect()), effects)
}

/// Refuses an object as a whole.
fn refuse(
    session: u64,
    object: &ObjectCommit,
    refusal: Refusal,
    effects: &mut Vec<Effect>,
) -> ObjectReply {
    let slices = match &object.contents {
        ObjectContents::Written(slices) => slices.len(),
        ObjectContents::Abandoned(_) => 0,
    };
    let (sequence, refused) = (object.sequence, vec![(None, refusal.clone())]);
    effects.push(Effect::CommitRefused { session, sequence, slices, refused });
    ObjectReply::Refused(refusal)
}

/// Tells of the slices of a written object that were refused, if any.
fn tell_refused(
    session: u64,
    sequence: u64,
    slices: &[SliceCommit],
    replies: &[SliceReply],
    effects: &mut Vec<Effect>,
) {
    let refused = slices.iter().zip(replies).filter_map(|(slice, reply)| {
        reply.refusal.clone().map(|refusal| (Some(slice.partition), refusal))
    });
    let refused: Vec<_> = refused.collect();
    if !refused.is_empty() {
        let slices = slices.len();
        effects.push(Effect::CommitRefused { session, sequence, slices, refused });
    }
}

fn commit_object(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    (id, session): (u64, &mut Session),
    object: &ObjectCommit,
    effects: &mut Vec<Effect>,
) -> Result<ObjectReply, KvError> {
    if !session.is_live() && is_planted(Mistake::FenceBeforeDuplicate) {
        return Ok(refuse(id, object, Refusal::SessionEnded(id), effects));
    }
    // RETRY: the duplicate check comes before the fence check.
    if object.sequence <= session.last_sequence {
        let kept = typed::get(tx, &result_key(id, object.sequence))?;
        return Ok(match kept {
            Some(kept) => kept,
            None => refuse(id, object, Refusal::OutcomeUnknown, effects),
        });
    }
    if !session.is_live() && !is_planted(Mistake::NoEpochCheck) {
        return Ok(refuse(id, object, Refusal::SessionEnded(id), effects));
    }
    let expected = session.last_sequence + 1;
    if object.sequence != expected {
        return Ok(refuse(id, object, Refusal::OutOfOrder { expected }, effects));
    }
    let slices = match &object.contents {
        ObjectContents::Written(slices) => {
            if slices.is_empty() || slices.len() > MAX_BATCH {
                let message =
                    format!("an object has 1 to {MAX_BATCH} slices, this one {}", slices.len());
                return Ok(refuse(id, object, Refusal::Invalid(message), effects));
            }
            commit_slices(tx, now_ms, id, object, slices, effects)?
        }
        ObjectContents::Abandoned(partitions) => {
            if partitions.len() > MAX_BATCH {
                let count = partitions.len();
                let message = format!("{count} partitions abandoned, allowed are {MAX_BATCH}");
                return Ok(refuse(id, object, Refusal::Invalid(message), effects));
            }
            abandon(tx, id, partitions, effects)?
        }
    };
    session.last_sequence = object.sequence;
    let reply = ObjectReply::Processed(slices);
    typed::put(tx, result_key(id, object.sequence), &reply);
    if let Some(old) = object.sequence.checked_sub(RESULTS_KEPT) {
        tx.delete(result_key(id, old));
    }
    Ok(reply)
}

/// What one object touches: read once, and its partitions written once.
#[derive(Default)]
struct Touched {
    partitions: BTreeMap<PartitionKey, Partition>,
    /// Whether they are in use.
    topics: BTreeMap<TopicKey, bool>,
}

fn commit_slices(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    id: u64,
    object: &ObjectCommit,
    slices: &[SliceCommit],
    effects: &mut Vec<Effect>,
) -> Result<Vec<SliceReply>, KvError> {
    let generation = cluster::cluster(tx)?
        .map(|cluster| cluster.generation)
        .ok_or_else(|| KvError("a session exists in a cluster without identity".into()))?;
    let source = Source::L0 { generation, session: id, sequence: object.sequence };
    let (mut touched, mut ledger) = (Touched::default(), Ledger::default());
    let mut replies = Vec::with_capacity(slices.len());
    let mut live = 0;
    for slice in slices {
        let loaded = load(tx, &mut touched, &slice.partition)?;
        let partition = match loaded {
            Ok(partition) => partition,
            Err(refusal) => {
                replies.push(gone(refusal));
                continue;
            }
        };
        let mut refusal = check_slice(id, object.size, slice, partition);
        if refusal.is_none() && !slice.producers.is_empty() {
            refusal = ledger.take(tx, slice, partition)?;
        }
        match refusal {
            None => {
                live += 1;
                append(tx, partition, slice, source.clone());
                effects.push(Effect::Appended(slice.partition, partition.next_offset));
            }
            // Whatever was written behind a refused slice of the current
            // epoch falls with it: its offsets no longer fit.
            Some(Refusal::Stale | Refusal::Invalid(_) | Refusal::Batches(_))
                if slice.lease_epoch == partition.lease_epoch
                    && !is_planted(Mistake::EpochNotRaisedOnRefusal) =>
            {
                partition.raise_epoch();
                let (partition, why) = (slice.partition, LeaseChange::SliceRefused);
                effects.push(Effect::Lease { partition, was: id, now: id, why });
            }
            Some(_) => {}
        }
        replies.push(reply_of(id, refusal, partition));
    }
    tell_refused(id, object.sequence, slices, &replies, effects);
    ledger.write(tx, now_ms);
    for (key, partition) in &touched.partitions {
        partitions::put(tx, key, partition);
    }
    if live > 0 {
        let record = ObjectRecord { size: object.size, live };
        typed::put(tx, object_key(id, object.sequence), &record);
    }
    Ok(replies)
}

/// DENSE: the partition's next entry.
fn append(
    tx: &mut Transaction<'_>,
    partition: &mut Partition,
    slice: &SliceCommit,
    source: Source,
) {
    partition.next_offset = slice.last_offset + 1;
    partition.last_stable_offset = partition.next_offset;
    partition.segments += 1;
    partition.bytes += u64::from(slice.length);
    let entry = entry_of(slice, source);
    typed::put(tx, segment_key(&slice.partition, slice.base_offset), &entry);
}

/// Puts slices of an object that a restore found back into the index; what
/// is in it already stays as it is.
pub(super) fn restore(
    tx: &mut Transaction<'_>,
    object: &RestoredObject,
    effects: &mut Vec<Effect>,
) -> Result<Vec<Option<Refusal>>, KvError> {
    let RestoredObject { generation, session, sequence, size, .. } = *object;
    let now_ms = cluster::time_ms(tx)?;
    let source = Source::L0 { generation, session, sequence };
    let mut touched = Touched::default();
    let mut refusals = Vec::with_capacity(object.slices.len());
    let known = self::object(tx, session, sequence)?;
    let mut record = known.unwrap_or(ObjectRecord { size, live: 0 });
    for slice in &object.slices {
        let partition = match load(tx, &mut touched, &slice.partition)? {
            Ok(partition) => partition,
            Err(refusal) => {
                refusals.push(Some(refusal));
                continue;
            }
        };
        let key = segment_key(&slice.partition, slice.base_offset);
        let there: Option<IndexEntry> = typed::get(tx, &key)?;
        let refusal = match there {
            // RETRY: this very slice, by an earlier try.
            Some(there) if there == entry_of(slice, source.clone()) => {
                refusals.push(None);
                continue;
            }
            // DENSE
            _ if slice.base_offset != partition.next_offset => Some(Refusal::Stale),
            // DEDUP: a copy that was refused stays out.
            _ if dedup::was_refused(tx, slice)? => Some(Refusal::Stale),
            _ => check_shape(size, slice),
        };
        if refusal.is_none() {
            append(tx, partition, slice, source.clone());
            // FENCE: epochs granted from now on are higher than any restored.
            partition.lease_epoch = partition.lease_epoch.max(slice.lease_epoch);
            dedup::restore(tx, now_ms, slice, partition)?;
            record.live += 1;
            effects.push(Effect::Appended(slice.partition, partition.next_offset));
        }
        refusals.push(refusal);
    }
    for (key, partition) in &touched.partitions {
        partitions::put(tx, key, partition);
    }
    if record.live > 0 {
        typed::put(tx, object_key(session, sequence), &record);
    }
    Ok(refusals)
}

/// The partition's record, if its topic is in use.
fn load<'a>(
    tx: &Transaction<'_>,
    touched: &'a mut Touched,
    key: &PartitionKey,
) -> Result<Result<&'a mut Partition, Refusal>, KvError> {
    use std::collections::btree_map::Entry;
    let vacant = match touched.partitions.entry(*key) {
        Entry::Occupied(occupied) => return Ok(Ok(occupied.into_mut())),
        Entry::Vacant(vacant) => vacant,
    };
    let in_use = match touched.topics.entry(key.topic) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(unknown) => {
            let topic = topics::topic(tx, &key.topic)?;
            *unknown.insert(topic.is_some_and(|topic| topic.stage != TopicStage::Deleting))
        }
    };
    if !in_use {
        let id = uuid::Uuid::from_bytes(key.topic).to_string();
        return Ok(Err(Refusal::UnknownTopic(id)));
    }
    match partitions::partition(tx, key)? {
        Some(partition) => Ok(Ok(vacant.insert(partition))),
        None => Ok(Err(Refusal::UnknownPartition(*key))),
    }
}

/// FENCE and DENSE: decided here, when the commit is applied.
fn check_slice(id: u64, size: u64, slice: &SliceCommit, partition: &Partition) -> Option<Refusal> {
    if partition.holder != id && !is_planted(Mistake::NoEpochCheck) {
        return Some(Refusal::NotHolder);
    }
    let past = slice.lease_epoch != partition.lease_epoch
        && !is_planted(Mistake::NoEpochCheck)
        && !is_planted(Mistake::NoOffsetCheck);
    let elsewhere =
        slice.base_offset != partition.next_offset && !is_planted(Mistake::NoOffsetCheck);
    if past || elsewhere {
        return Some(Refusal::Stale);
    }
    check_shape(size, slice)
}

/// What no slice can be, whoever wrote it.
fn check_shape(size: u64, slice: &SliceCommit) -> Option<Refusal> {
    // A range's length fits u64, and one past its end too.
    let range = slice.last_offset.checked_sub(slice.base_offset);
    let fits = range.is_some_and(|r| u64::from(slice.record_count) <= r.saturating_add(1));
    if !fits || slice.last_offset > i64::MAX as u64 - 1 || slice.record_count == 0 {
        return Some(Refusal::Invalid(format!(
            "a slice of {} records cannot cover offsets {} to {}",
            slice.record_count, slice.base_offset, slice.last_offset
        )));
    }
    let end = slice.position.checked_add(u64::from(slice.length));
    if slice.length == 0 || end.is_none_or(|end| end > size) {
        return Some(Refusal::Invalid(format!(
            "a slice of {} bytes at {} does not lie in an object of {size}",
            slice.length, slice.position
        )));
    }
    dedup::check_shape(slice)
}

fn entry_of(slice: &SliceCommit, source: Source) -> IndexEntry {
    IndexEntry {
        last_offset: slice.last_offset,
        record_count: slice.record_count,
        source,
        position: slice.position,
        length: slice.length,
        crc32c: slice.crc32c,
        append_time_ms: slice.append_time_ms,
        min_timestamp_ms: slice.min_timestamp_ms,
        max_timestamp_ms: slice.max_timestamp_ms,
        lease_epoch: slice.lease_epoch,
        flags: slice.flags,
    }
}

fn reply_of(id: u64, refusal: Option<Refusal>, partition: &Partition) -> SliceReply {
    SliceReply {
        refusal,
        lease_epoch: partition.lease_epoch,
        next_offset: partition.next_offset,
        still_holder: partition.holder == id,
    }
}

fn gone(refusal: Refusal) -> SliceReply {
    SliceReply { refusal: Some(refusal), lease_epoch: 0, next_offset: 0, still_holder: false }
}

/// ONCE: a PUT was given up, so what it may still write must never count.
fn abandon(
    tx: &mut Transaction<'_>,
    id: u64,
    keys: &[PartitionKey],
    effects: &mut Vec<Effect>,
) -> Result<Vec<SliceReply>, KvError> {
    let mut touched = Touched::default();
    let mut raised = BTreeSet::new();
    let mut replies = Vec::with_capacity(keys.len());
    for key in keys {
        match load(tx, &mut touched, key)? {
            Err(refusal) => replies.push(gone(refusal)),
            Ok(partition) => {
                if partition.holder == id && raised.insert(*key) {
                    partition.raise_epoch();
                    let why = LeaseChange::Abandoned;
                    effects.push(Effect::Lease { partition: *key, was: id, now: id, why });
                }
                replies.push(reply_of(id, Some(Refusal::Stale), partition));
            }
        }
    }
    for (key, partition) in &touched.partitions {
        partitions::put(tx, key, partition);
    }
    Ok(replies)
}

/// Removes up to `limit` entries of a partition, lowest offsets first; tells
/// how many.
pub(super) fn delete_some(
    tx: &mut Transaction<'_>,
    partition: &PartitionKey,
    limit: usize,
) -> Result<usize, KvError> {
    let (start, end) = Key::new(tag::SEGMENT).partition(partition).range();
    let pairs = tx.scan(&start, &end, limit)?;
    let removed = pairs.len();
    for (key, value) in pairs {
        let entry: IndexEntry = typed::decode(&key, &value)?;
        let Source::L0 { generation, session, sequence } = entry.source;
        if let Some(mut record) = object(tx, session, sequence)? {
            record.live -= 1;
            if record.live == 0 {
                tx.delete(object_key(session, sequence));
                let name = ObjectName { generation, session, sequence };
                collector::left_the_index(tx, &name)?;
            } else {
                typed::put(tx, object_key(session, sequence), &record);
            }
        }
        tx.delete(key);
    }
    Ok(removed)
}

/// Forgets the results of a session that ended long ago.
pub(super) fn forget_results(tx: &mut Transaction<'_>, session: u64) -> Result<(), KvError> {
    let (start, end) = Key::new(tag::RESULT).u64(session).range();
    for (key, _) in tx.scan(&start, &end, RESULTS_KEPT as usize)? {
        tx.delete(key);
    }
    Ok(())
}
