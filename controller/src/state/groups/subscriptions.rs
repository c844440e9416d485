//! What members subscribe to. Members that subscribe to the same topics share
//! one record, so that thousands of them do not repeat a long list.

use super::{MAX_GROUP_PARTITIONS, MAX_SUBSCRIPTIONS};
use crate::state::command::TopicKey;
use crate::state::keys::{Key, tag, trailing_id};
use crate::state::kv::{KvError, KvRead, Transaction};
use crate::state::reply::{Effect, Refusal};
use crate::state::topics::{self, TopicStage};
use crate::state::{typed, work};
use bincode::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_128;

/// A subscription that some members of a group have.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Subscription {
    /// The topics, in the order of their ids.
    pub topics: Vec<TopicKey>,
    /// How many members have it.
    pub members: u32,
}

/// By what a subscription goes in the state.
pub(super) type SubscriptionKey = [u8; 16];

pub(super) fn key_of(topics: &BTreeSet<TopicKey>) -> SubscriptionKey {
    let bytes: Vec<u8> = topics.iter().flatten().copied().collect();
    xxh3_128(&bytes).to_be_bytes()
}

fn subscription_key(group: &str, key: &SubscriptionKey) -> Vec<u8> {
    Key::new(tag::SUBSCRIPTION).name(group).bytes(key).done()
}

fn topic_key(topic: &TopicKey, group: &str) -> Vec<u8> {
    Key::new(tag::SUBSCRIBED).bytes(topic).bytes(group.as_bytes()).done()
}

/// A subscription of a group.
pub fn subscription(
    kv: &dyn KvRead,
    group: &str,
    key: &[u8; 16],
) -> Result<Option<Subscription>, KvError> {
    typed::get(kv, &subscription_key(group, key))
}

/// All subscriptions of a group's members.
pub(super) fn all(
    kv: &dyn KvRead,
    group: &str,
) -> Result<BTreeMap<SubscriptionKey, Subscription>, KvError> {
    let (start, end) = Key::new(tag::SUBSCRIPTION).name(group).range();
    let pairs = kv.scan(&start, &end, MAX_SUBSCRIPTIONS)?.into_iter().map(|(key, value)| {
        let id = trailing_id(&key).ok_or_else(|| typed::malformed(&key))?;
        Ok((id, typed::decode(&key, &value)?))
    });
    pairs.collect()
}

/// The topics of those subscriptions that can be read, with their sizes.
pub(super) fn topics_of<'a>(
    kv: &dyn KvRead,
    subscriptions: impl IntoIterator<Item = &'a Subscription>,
) -> Result<BTreeMap<TopicKey, u32>, KvError> {
    let wanted: BTreeSet<&TopicKey> =
        subscriptions.into_iter().flat_map(|subscription| &subscription.topics).collect();
    let mut found = BTreeMap::new();
    for id in wanted {
        if let Some(topic) = topics::topic(kv, id)?
            && topic.stage == TopicStage::Ready
        {
            found.insert(*id, topic.partitions);
        }
    }
    Ok(found)
}

/// One more member has the subscription, unless that is too much for the
/// group.
pub(super) fn add(
    tx: &mut Transaction<'_>,
    group: &str,
    topics: &BTreeSet<TopicKey>,
) -> Result<Result<SubscriptionKey, Refusal>, KvError> {
    let key = key_of(topics);
    if let Some(mut known) = subscription(tx, group, &key)? {
        known.members += 1;
        typed::put(tx, subscription_key(group, &key), &known);
        return Ok(Ok(key));
    }
    let new = Subscription { topics: topics.iter().copied().collect(), members: 1 };
    let all = all(tx, group)?;
    if all.len() >= MAX_SUBSCRIPTIONS {
        return Ok(Err(Refusal::Limit(format!(
            "the group's members have {} different subscriptions, and one more would exceed the \
             limit of {MAX_SUBSCRIPTIONS}",
            all.len()
        ))));
    }
    let count = topics_of(tx, all.values().chain([&new]))?;
    let count: usize = count.values().map(|partitions| *partitions as usize).sum();
    if count > MAX_GROUP_PARTITIONS {
        return Ok(Err(Refusal::Limit(format!(
            "the topics of the group's members would have {count} partitions, allowed are \
             {MAX_GROUP_PARTITIONS}"
        ))));
    }
    for topic in topics {
        typed::mark(tx, topic_key(topic, group));
    }
    typed::put(tx, subscription_key(group, &key), &new);
    Ok(Ok(key))
}

/// One member fewer has the subscription.
pub(super) fn remove(
    tx: &mut Transaction<'_>,
    group: &str,
    key: &SubscriptionKey,
) -> Result<(), KvError> {
    let Some(mut known) = subscription(tx, group, key)? else { return Ok(()) };
    known.members -= 1;
    if known.members > 0 {
        typed::put(tx, subscription_key(group, key), &known);
        return Ok(());
    }
    tx.delete(subscription_key(group, key));
    let left = all(tx, group)?;
    let left: BTreeSet<&TopicKey> = left.values().flat_map(|other| &other.topics).collect();
    for topic in known.topics.iter().filter(|topic| !left.contains(topic)) {
        tx.delete(topic_key(topic, group));
    }
    Ok(())
}

/// A topic is gone: up to `limit` groups that read it are assigned anew. Tells
/// whether all are.
pub(in crate::state) fn drop_topic(
    tx: &mut Transaction<'_>,
    topic: &TopicKey,
    limit: usize,
    effects: &mut Vec<Effect>,
) -> Result<bool, KvError> {
    let (start, end) = Key::new(tag::SUBSCRIBED).bytes(topic).range();
    for (mark, _) in tx.scan(&start, &end, limit)? {
        work::add(tx, work::Kind::AssignMembers, &mark[17..], effects);
        tx.delete(mark);
    }
    Ok(tx.scan(&start, &end, 1)?.is_empty())
}

/// How many partitions the topics of a group's members would have, with one
/// more subscription.
pub(crate) fn partitions_with(
    kv: &dyn KvRead,
    group: &str,
    topics: &[TopicKey],
) -> Result<u64, KvError> {
    let new = Subscription { topics: topics.to_vec(), members: 1 };
    let all = all(kv, group)?;
    let counted = topics_of(kv, all.values().chain([&new]))?;
    Ok(counted.values().map(|partitions| u64::from(*partitions)).sum())
}
