//! Consumer groups' committed offsets.
//!
//! GROUP: an offset is set by the member that owns the partition, or by
//! anybody while the group has no members; commits of one consumer are applied
//! in the order in which it sent them, and an older one that arrives late is
//! refused.

use super::command::{PartitionKey, RequestKey, TopicKey};
use super::groups::{self, MAX_GROUPS, MemberId};
use super::keys::{Key, tag, trailing_partition};
use super::kv::{KvError, KvRead, Transaction};
use super::names::check_group;
use super::reply::{Effect, Refusal, Reply};
use super::topics::{self, TopicStage};
use super::{MAX_BATCH, requests, typed};
use bincode::{Decode, Encode};
use streamhouse_host::planted;

/// Longest metadata of one committed offset, in bytes; Kafka's default.
pub const MAX_METADATA_BYTES: usize = 4_096;

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Group {
    /// Cluster time of its first commit.
    pub created_ms: u64,
    /// Cluster time of its last commit.
    pub committed_ms: u64,
}

/// One partition's committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CommittedOffset {
    /// Next offset to read.
    pub offset: u64,
    /// The application's own.
    pub metadata: String,
    /// Cluster time of the commit.
    pub committed_ms: u64,
}

fn group_key(group: &str) -> Vec<u8> {
    Key::new(tag::GROUP).bytes(group.as_bytes()).done()
}

fn offset_key(group: &str, partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::OFFSET).name(group).partition(partition).done()
}

fn topic_key(topic: &TopicKey, group: &str) -> Vec<u8> {
    Key::new(tag::OFFSET_TOPIC).bytes(topic).bytes(group.as_bytes()).done()
}

fn count_key() -> Vec<u8> {
    Key::new(tag::GROUP_COUNT).done()
}

/// How many groups there are.
pub fn group_count(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &count_key())?.unwrap_or(0))
}

/// Whether there is room for the group, if it is a new one.
pub(super) fn check_room(kv: &dyn KvRead, name: &str) -> Result<Result<(), Refusal>, KvError> {
    if group(kv, name)?.is_none() && group_count(kv)? >= MAX_GROUPS as u64 {
        let message = format!("the cluster has {MAX_GROUPS} consumer groups, as many as it may");
        return Ok(Err(Refusal::Limit(message)));
    }
    Ok(Ok(()))
}

/// The group is there from now on, for whoever joins it.
pub(super) fn ensure_group(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    name: &str,
) -> Result<(), KvError> {
    if group(tx, name)?.is_none() {
        put_group(tx, name, &Group { created_ms: now_ms, committed_ms: now_ms })?;
    }
    Ok(())
}

fn put_group(tx: &mut Transaction<'_>, name: &str, record: &Group) -> Result<(), KvError> {
    if group(tx, name)?.is_none() {
        let count = group_count(tx)? + 1;
        typed::put(tx, count_key(), &count);
    }
    typed::put(tx, group_key(name), record);
    Ok(())
}

/// Restores a group's record, and counts it.
pub(super) fn restore(tx: &mut Transaction<'_>, key: &[u8], record: &Group) -> Result<(), KvError> {
    let name = String::from_utf8(key[1..].to_vec()).map_err(|_| typed::malformed(key))?;
    put_group(tx, &name, record)
}

/// Removes up to `limit` offsets of a group; tells how many more it might
/// have.
pub(super) fn delete_some(
    tx: &mut Transaction<'_>,
    name: &str,
    limit: usize,
) -> Result<usize, KvError> {
    let (start, end) = Key::new(tag::OFFSET).name(name).range();
    let some = tx.scan(&start, &end, limit)?;
    let left = limit - some.len();
    for (key, _) in some {
        let partition = trailing_partition(&key).ok_or_else(|| typed::malformed(&key))?;
        tx.delete(topic_key(&partition.topic, name));
        tx.delete(key);
    }
    Ok(left)
}

/// Removes a group's record.
pub(super) fn delete_group(tx: &mut Transaction<'_>, name: &str) -> Result<(), KvError> {
    if group(tx, name)?.is_none() {
        return Ok(());
    }
    tx.delete(group_key(name));
    match group_count(tx)?.checked_sub(1) {
        Some(left @ 1..) => typed::put(tx, count_key(), &left),
        Some(0) | None => tx.delete(count_key()),
    }
    Ok(())
}

/// A group, once it has committed or somebody has joined it.
pub fn group(kv: &dyn KvRead, name: &str) -> Result<Option<Group>, KvError> {
    typed::get(kv, &group_key(name))
}

/// What the group committed for a partition.
pub fn committed(
    kv: &dyn KvRead,
    group: &str,
    partition: &PartitionKey,
) -> Result<Option<CommittedOffset>, KvError> {
    typed::get(kv, &offset_key(group, partition))
}

/// Up to `limit` offsets of the group, by partition.
pub fn all_committed(
    kv: &dyn KvRead,
    group: &str,
    limit: usize,
) -> Result<Vec<(PartitionKey, CommittedOffset)>, KvError> {
    let (start, end) = Key::new(tag::OFFSET).name(group).range();
    let pairs = kv.scan(&start, &end, limit)?;
    let offsets = pairs.into_iter().map(|(key, value)| {
        let partition = trailing_partition(&key).ok_or_else(|| typed::malformed(&key))?;
        Ok((partition, typed::decode(&key, &value)?))
    });
    offsets.collect()
}

pub(super) fn commit(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    by: Option<RequestKey>,
    name: &str,
    member: Option<(&MemberId, u32)>,
    offsets: &[(PartitionKey, u64, String)],
) -> Result<Reply, KvError> {
    if let Err(refusal) = check_group(name) {
        return Ok(Reply::Refused(refusal));
    }
    if offsets.len() > MAX_BATCH {
        let message = format!("{} offsets in one commit, allowed are {MAX_BATCH}", offsets.len());
        return Ok(Reply::Refused(Refusal::Limit(message)));
    }
    // GROUP: a consumer that is no member while others are changes nothing.
    if let Err(refusal) = groups::check_commit(tx, name, member)? {
        return Ok(Reply::Refused(refusal));
    }
    if let Err(refusal) = check_room(tx, name)? {
        return Ok(Reply::Refused(refusal));
    }
    // GROUP: whatever came between, a consumer's late commit stays late.
    if let Some(by) = by
        && requests::last_number(tx, &by.requester)? > by.number
    {
        return Ok(Reply::Offsets(vec![Some(Refusal::Superseded); offsets.len()]));
    }
    let mut results = Vec::with_capacity(offsets.len());
    for (partition, offset, metadata) in offsets {
        let refusal = match check(tx, partition, *offset, metadata)? {
            Some(refusal) => Some(refusal),
            None => match member {
                Some(member) => groups::check_owner(tx, name, member, partition)?,
                None => None,
            },
        };
        if refusal.is_none() {
            let value = CommittedOffset {
                offset: *offset,
                metadata: metadata.clone(),
                committed_ms: planted::own_clock_ms(now_ms),
            };
            typed::put(tx, offset_key(name, partition), &value);
            typed::mark(tx, topic_key(&partition.topic, name));
        }
        results.push(refusal);
    }
    if results.iter().any(Option::is_none) {
        let created_ms = group(tx, name)?.map_or(now_ms, |group| group.created_ms);
        put_group(tx, name, &Group { created_ms, committed_ms: now_ms })?;
    }
    Ok(Reply::Offsets(results))
}

/// Tells of what [`commit`] refused, if anything.
pub(super) fn refusals(
    name: &str,
    offsets: &[(PartitionKey, u64, String)],
    reply: &Reply,
) -> Vec<Effect> {
    let refused: Vec<_> = match reply {
        Reply::Refused(refusal) => vec![(None, refusal.clone())],
        Reply::Offsets(results) => {
            let results = offsets.iter().zip(results);
            let refused = results.filter_map(|((key, ..), result)| {
                result.clone().map(|refusal| (Some(*key), refusal))
            });
            refused.collect()
        }
        _ => Vec::new(),
    };
    match refused.is_empty() {
        true => Vec::new(),
        false => vec![Effect::OffsetsRefused { group: name.to_owned(), refused }],
    }
}

fn check(
    tx: &Transaction<'_>,
    partition: &PartitionKey,
    offset: u64,
    metadata: &str,
) -> Result<Option<Refusal>, KvError> {
    if metadata.len() > MAX_METADATA_BYTES {
        return Ok(Some(Refusal::Limit(format!(
            "offset metadata has {} bytes, allowed are {MAX_METADATA_BYTES}",
            metadata.len()
        ))));
    }
    if i64::try_from(offset).is_err() {
        return Ok(Some(Refusal::Invalid(format!("offset {offset} is not a 63-bit number"))));
    }
    match topics::topic(tx, &partition.topic)? {
        Some(topic) if topic.stage != TopicStage::Deleting => {
            if partition.partition >= topic.partitions {
                return Ok(Some(Refusal::UnknownPartition(*partition)));
            }
        }
        _ => {
            let id = uuid::Uuid::from_bytes(partition.topic).to_string();
            return Ok(Some(Refusal::UnknownTopic(id)));
        }
    }
    Ok(None)
}

/// Removes up to `limit` offsets of a deleted topic; tells whether all are
/// gone.
pub(super) fn delete_topic(
    tx: &mut Transaction<'_>,
    topic: &TopicKey,
    limit: usize,
) -> Result<bool, KvError> {
    let (start, end) = Key::new(tag::OFFSET_TOPIC).bytes(topic).range();
    let mut left = limit;
    for (mark, _) in tx.scan(&start, &end, limit)? {
        let group = String::from_utf8(mark[17..].to_vec()).map_err(|_| typed::malformed(&mark))?;
        let (first, last) = Key::new(tag::OFFSET).name(&group).bytes(topic).range();
        let offsets = tx.scan(&first, &last, left)?;
        left -= offsets.len();
        for (key, _) in offsets {
            tx.delete(key);
        }
        if left == 0 {
            return Ok(false);
        }
        tx.delete(mark);
    }
    Ok(tx.scan(&start, &end, 1)?.is_empty())
}
