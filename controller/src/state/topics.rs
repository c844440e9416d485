//! Topics. Creating or deleting one of many partitions goes in chunks: the
//! first in the command's own entry, the rest by `Continue`, so that no entry
//! is large and a new leader resumes where the old one stopped.

use super::command::{PartitionKey, TopicKey};
use super::keys::{Key, tag, trailing_id};
use super::kv::{KvError, KvRead, Transaction};
use super::names::{check_name, shown};
use super::partitions::{self, Partition};
use super::reply::{Effect, LeaseChange, Refusal, Reply};
use super::{groups, leases, offsets, segments, sequences, typed, work};
use bincode::{Decode, Encode};

/// Most partitions of one topic.
pub const MAX_PARTITIONS: u32 = 10_000;
/// Most topics of a cluster.
pub const MAX_TOPICS: usize = 10_000;
/// Most partitions of all topics of a cluster.
pub const MAX_ALL_PARTITIONS: u64 = 1_000_000;
/// Partitions created, or index entries deleted, in one entry.
const CHUNK: usize = 1_000;
/// Configuration: the agent group that serves the topic.
pub const CONFIG_AGENT_GROUP: &str = "agent.group";
const DEFAULT_AGENT_GROUP: &str = "default";

/// A topic's record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// What it was created with, in key order.
    pub config: Vec<(String, String)>,
    /// Where it is in its life.
    pub stage: TopicStage,
    /// Cluster time of its creation.
    pub created_ms: u64,
}

/// Where a topic is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum TopicStage {
    /// Partitions from this number on are still to be created.
    Creating(u32),
    /// In use.
    Ready,
    /// Deleted by name; its partitions are being removed.
    Deleting,
}

impl Topic {
    /// The agent group that serves it.
    pub fn agent_group(&self) -> &str {
        let configured = self.config.iter().find(|(key, _)| key == CONFIG_AGENT_GROUP);
        configured.map_or(DEFAULT_AGENT_GROUP, |(_, value)| value.as_str())
    }
}

fn topic_key(topic: &TopicKey) -> Vec<u8> {
    Key::new(tag::TOPIC).bytes(topic).done()
}

fn name_key(name: &str) -> Vec<u8> {
    Key::new(tag::TOPIC_NAME).bytes(name.as_bytes()).done()
}

/// A topic by id, in whatever stage.
pub fn topic(kv: &dyn KvRead, id: &TopicKey) -> Result<Option<Topic>, KvError> {
    typed::get(kv, &topic_key(id))
}

/// The id of a topic that exists under `name`.
pub fn topic_id(kv: &dyn KvRead, name: &str) -> Result<Option<TopicKey>, KvError> {
    typed::get(kv, &name_key(name))
}

fn count_key() -> Vec<u8> {
    Key::new(tag::TOPIC_COUNT).done()
}

/// How many topics there are, those being created or deleted included.
pub fn topic_count(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &count_key())?.unwrap_or(0))
}

fn partition_count_key() -> Vec<u8> {
    Key::new(tag::PARTITION_COUNT).done()
}

/// How many partitions those topics have.
pub fn partition_count(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &partition_count_key())?.unwrap_or(0))
}

/// The topics that are not being deleted, by name.
pub fn topics(kv: &dyn KvRead) -> Result<Vec<(TopicKey, Topic)>, KvError> {
    let (start, end) = Key::new(tag::TOPIC_NAME).range();
    let mut found = Vec::new();
    for (key, value) in kv.scan(&start, &end, MAX_TOPICS)? {
        let id: TopicKey = typed::decode(&key, &value)?;
        if let Some(topic) = topic(kv, &id)? {
            found.push((id, topic));
        }
    }
    Ok(found)
}

fn check(
    tx: &Transaction<'_>,
    name: &str,
    count: u32,
    config: &[(String, String)],
) -> Result<Result<(), Refusal>, KvError> {
    if let Err(refusal) = check_name("topic", name) {
        return Ok(Err(refusal));
    }
    if count == 0 || count > MAX_PARTITIONS {
        return Ok(Err(Refusal::Invalid(format!(
            "topic '{}' cannot have {count} partitions; allowed are 1 to {MAX_PARTITIONS}",
            shown(name)
        ))));
    }
    for (key, value) in config {
        if key != CONFIG_AGENT_GROUP {
            let known = CONFIG_AGENT_GROUP;
            let message =
                format!("topic configuration '{}' is unknown; known: {known}", shown(key));
            return Ok(Err(Refusal::Invalid(message)));
        }
        if let Err(refusal) = check_name("agent group", value) {
            return Ok(Err(refusal));
        }
    }
    if topic_id(tx, name)?.is_some() {
        return Ok(Err(Refusal::TopicExists(name.to_owned())));
    }
    if topic_count(tx)? >= MAX_TOPICS as u64 {
        return Ok(Err(Refusal::Limit(format!("the cluster has {MAX_TOPICS} topics already"))));
    }
    let partitions = partition_count(tx)?;
    if partitions + u64::from(count) > MAX_ALL_PARTITIONS {
        return Ok(Err(Refusal::Limit(format!(
            "the cluster has {partitions} partitions, and {count} more would exceed its limit of \
             {MAX_ALL_PARTITIONS}"
        ))));
    }
    Ok(Ok(()))
}

pub(super) fn create(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    id: TopicKey,
    name: &str,
    count: u32,
    config: &[(String, String)],
) -> Result<(Reply, Vec<Effect>), KvError> {
    if let Err(refusal) = check(tx, name, count, config)? {
        return Ok((Reply::Refused(refusal), Vec::new()));
    }
    if topic(tx, &id)?.is_some() {
        let message = "the topic id of this request is taken".to_owned();
        return Ok((Reply::Refused(Refusal::Invalid(message)), Vec::new()));
    }
    let topic = Topic {
        name: name.to_owned(),
        partitions: count,
        config: config.to_vec(),
        stage: TopicStage::Creating(0),
        created_ms: now_ms,
    };
    let topics = topic_count(tx)? + 1;
    typed::put(tx, count_key(), &topics);
    let partitions = partition_count(tx)? + u64::from(count);
    typed::put(tx, partition_count_key(), &partitions);
    typed::put(tx, name_key(name), &id);
    typed::put(tx, topic_key(&id), &topic);
    let mut effects = Vec::new();
    continue_creation(tx, &id, &mut effects)?;
    Ok((Reply::Topic(id), effects))
}

/// Restores a topic's record, and counts it.
pub(super) fn restore(
    tx: &mut Transaction<'_>,
    id: &TopicKey,
    restored: &Topic,
) -> Result<(), KvError> {
    if topic(tx, id)?.is_none() {
        let topics = topic_count(tx)? + 1;
        typed::put(tx, count_key(), &topics);
        let partitions = partition_count(tx)? + u64::from(restored.partitions);
        typed::put(tx, partition_count_key(), &partitions);
    }
    typed::put(tx, topic_key(id), restored);
    Ok(())
}

/// Creates the next chunk of partitions and grants their leases.
pub(super) fn continue_creation(
    tx: &mut Transaction<'_>,
    id: &TopicKey,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let Some(mut topic) = topic(tx, id)? else { return Ok(()) };
    let TopicStage::Creating(from) = topic.stage else { return Ok(()) };
    let to = topic.partitions.min(from + CHUNK as u32);
    let new: Vec<_> = (from..to).map(|partition| PartitionKey { topic: *id, partition }).collect();
    for key in &new {
        partitions::put(tx, key, &Partition::default());
    }
    leases::assign(tx, topic.agent_group(), &new, LeaseChange::Created, effects)?;
    if to == topic.partitions {
        topic.stage = TopicStage::Ready;
        work::done(tx, work::Kind::CreateTopic, id);
        effects.push(Effect::TopicReady(*id));
    } else {
        topic.stage = TopicStage::Creating(to);
        work::add(tx, work::Kind::CreateTopic, id, effects);
    }
    typed::put(tx, topic_key(id), &topic);
    Ok(())
}

pub(super) fn delete(
    tx: &mut Transaction<'_>,
    name: &str,
) -> Result<(Reply, Vec<Effect>), KvError> {
    let found = match topic_id(tx, name)? {
        Some(id) => topic(tx, &id)?.map(|topic| (id, topic)),
        None => None,
    };
    let Some((id, mut topic)) = found else {
        let refusal = Refusal::UnknownTopic(shown(name));
        return Ok((Reply::Refused(refusal), Vec::new()));
    };
    work::done(tx, work::Kind::CreateTopic, &id);
    topic.stage = TopicStage::Deleting;
    typed::put(tx, topic_key(&id), &topic);
    tx.delete(name_key(name));
    let mut effects = vec![Effect::TopicDeleted(id)];
    work::add(tx, work::Kind::DeleteTopic, &id, &mut effects);
    continue_deletion(tx, &id, &mut effects)?;
    Ok((Reply::Topic(id), effects))
}

/// Removes the next chunk of a deleted topic; at the end the topic itself.
pub(super) fn continue_deletion(
    tx: &mut Transaction<'_>,
    id: &TopicKey,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let Some(topic) = topic(tx, id)? else {
        work::done(tx, work::Kind::DeleteTopic, id);
        return Ok(());
    };
    let mut budget = CHUNK;
    let some = partitions::partitions(tx, id, 0, CHUNK)?;
    let all = some.len() < CHUNK;
    for (key, partition) in some {
        let removed = segments::delete_some(tx, &key, budget)?;
        budget -= removed;
        budget -= sequences::delete_some(tx, &key, budget)?;
        if budget == 0 {
            return Ok(());
        }
        leases::drop_partition(tx, topic.agent_group(), &key, &partition, effects)?;
        partitions::delete(tx, &key);
    }
    if !all
        || !offsets::delete_topic(tx, id, budget)?
        || !groups::drop_topic(tx, id, CHUNK, effects)?
    {
        return Ok(());
    }
    tx.delete(topic_key(id));
    let left = topic_count(tx)?.checked_sub(1);
    count_down(tx, count_key(), left);
    let left = partition_count(tx)?.checked_sub(u64::from(topic.partitions));
    count_down(tx, partition_count_key(), left);
    work::done(tx, work::Kind::DeleteTopic, id);
    leases::rebalance(tx, topic.agent_group(), effects)
}

/// A count of 0 is none.
fn count_down(tx: &mut Transaction<'_>, key: Vec<u8>, left: Option<u64>) {
    match left {
        Some(left @ 1..) => typed::put(tx, key, &left),
        // Or what is deleted was made before there was a count.
        Some(0) | None => tx.delete(key),
    }
}

/// The topic in the last 16 bytes of a work key.
pub(super) fn subject(key: &[u8]) -> Result<TopicKey, KvError> {
    trailing_id(key).ok_or_else(|| typed::malformed(key))
}
