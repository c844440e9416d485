//! Consumer groups with members.
//!
//! GROUP, and the rule this module stands for: *a partition has one owner at
//! most*. Each partition of a group has one record with its owner, who may
//! read and commit it, and its target, who is to. It gets a new owner only
//! once the old one gave it up, or is a member no more. The assignment is
//! computed here (PURE), after the model of Kafka's KIP-848:
//!
//! 1. A member joins, leaves, is ended by the leader for its silence, or
//!    changes its subscription; or a topic goes. That raises the *group epoch*
//!    and leaves work behind, so that many changes at once cost one
//!    assignment.
//! 2. `Continue` computes the targets. What has no owner is granted at once;
//!    of what has another one, that one hears that it is to give it up.
//! 3. It does so by `ReleasePartitions`, and the target gets it in the same
//!    entry.
//!
//! Who keeps its partitions hears nothing of all that.
//!
//! A grant carries the group epoch as of which it was made. Targets change
//! only with the epoch, so that partition, owner and epoch name one grant: a
//! release or commit of an earlier one is told apart. Which time the owner of
//! one was asked for it a release does not say: a member reads again what it
//! may keep after all only once its release was answered.

mod delete;
mod join;
mod leave;
mod ownership;
mod rebalance;
mod subscriptions;

pub(super) use delete::{delete, delete_some, expire};
pub(super) use join::join;
pub(super) use leave::{leave, release};
pub(super) use ownership::{check_commit, check_owner};
pub(super) use rebalance::rebalance;
pub(super) use subscriptions::drop_topic;
pub(crate) use subscriptions::partitions_with;
pub use subscriptions::{Subscription, subscription};

use super::assignors::Assignor;
use super::command::{GroupJoin, PartitionKey};
use super::keys::{Key, tag, trailing_id, trailing_partition};
use super::kv::{KvError, KvRead, Transaction};
use super::offsets;
use super::typed;
use bincode::{Decode, Encode};

/// Most members of a group.
pub const MAX_MEMBERS: usize = 10_000;
/// Most partitions of all topics that the members of a group subscribe to.
pub const MAX_GROUP_PARTITIONS: usize = 10_000;
/// Most consumer groups.
pub const MAX_GROUPS: usize = 100_000;
/// Most topics of one member's subscription.
pub const MAX_TOPICS: usize = 1_000;
/// Most different subscriptions in a group: what an assignment costs grows
/// with them.
pub const MAX_SUBSCRIPTIONS: usize = 64;
/// Longest client id or instance id, in bytes.
pub const MAX_ID_BYTES: usize = 255;
/// Session timeouts that a member may ask for, in milliseconds.
pub const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 500..=30 * 60_000;

/// Names one membership: random, never used again.
pub type MemberId = [u8; 16];

/// What a group's members share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Membership {
    /// Rises with every change of members, subscriptions or targets.
    pub epoch: u32,
    /// The epoch for which the targets were computed.
    pub assigned_epoch: u32,
    /// How many members there are.
    pub members: u32,
    /// By which the targets were computed.
    pub assignor: Assignor,
    /// Cluster time at which the last member went.
    pub emptied_ms: u64,
    /// The group is being removed.
    pub deleting: bool,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    /// Log index of its joining: members are served in this order. A static
    /// member keeps it when it starts again.
    pub joined: u64,
    /// The group epoch as of which it is a member.
    pub epoch: u32,
    /// Static membership: the instance that it is.
    pub instance: Option<String>,
    /// What it calls itself, for operators.
    pub client: String,
    /// The key of its [`Subscription`].
    pub subscription: [u8; 16],
    /// The assignor it asks for.
    pub assignor: Assignor,
    /// How long it may be silent.
    pub session_timeout_ms: u32,
    /// Cluster time of its joining.
    pub joined_ms: u64,
}

/// Who reads a partition for the group, and who is to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct GroupPartition {
    /// Who may read and commit it. One who is no member any more may not.
    pub owner: Option<MemberId>,
    /// The group epoch as of which it was granted.
    pub granted_epoch: u32,
    /// Who is to: if that is somebody else, the owner is to give it up.
    pub target: Option<MemberId>,
}

fn membership_key(group: &str) -> Vec<u8> {
    Key::new(tag::MEMBERSHIP).bytes(group.as_bytes()).done()
}

fn member_key(group: &str, member: &MemberId) -> Vec<u8> {
    Key::new(tag::MEMBER).name(group).bytes(member).done()
}

fn instance_key(group: &str, instance: &str) -> Vec<u8> {
    Key::new(tag::INSTANCE).name(group).bytes(instance.as_bytes()).done()
}

fn partition_key(group: &str, partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::GROUP_PARTITION).name(group).partition(partition).done()
}

fn owned_key(group: &str, member: &MemberId, partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::OWNED).name(group).bytes(member).partition(partition).done()
}

/// What the members of a group share; nothing if it never had any.
pub fn membership(kv: &dyn KvRead, group: &str) -> Result<Option<Membership>, KvError> {
    typed::get(kv, &membership_key(group))
}

fn put_membership(tx: &mut Transaction<'_>, group: &str, membership: &Membership) {
    typed::put(tx, membership_key(group), membership);
}

/// A member of a group.
pub fn member(kv: &dyn KvRead, group: &str, id: &MemberId) -> Result<Option<Member>, KvError> {
    typed::get(kv, &member_key(group, id))
}

/// Whether a joining adds a member: not one that is there, nor one that takes
/// the place of its instance's earlier start.
pub(crate) fn adds_one(kv: &dyn KvRead, join: &GroupJoin) -> Result<bool, KvError> {
    if member(kv, &join.group, &join.member)?.is_some() {
        return Ok(false);
    }
    match &join.instance {
        Some(instance) => Ok(kv.get(&instance_key(&join.group, instance))?.is_none()),
        None => Ok(true),
    }
}

/// Whether some member is that instance.
pub(crate) fn has_instance(kv: &dyn KvRead, group: &str, instance: &str) -> Result<bool, KvError> {
    Ok(kv.get(&instance_key(group, instance))?.is_some())
}

/// The members of a group, in the order of their ids.
pub fn members(kv: &dyn KvRead, group: &str) -> Result<Vec<(MemberId, Member)>, KvError> {
    let (start, end) = Key::new(tag::MEMBER).name(group).range();
    let members = kv.scan(&start, &end, MAX_MEMBERS)?.into_iter().map(|(key, value)| {
        let id = trailing_id(&key).ok_or_else(|| typed::malformed(&key))?;
        Ok((id, typed::decode(&key, &value)?))
    });
    members.collect()
}

/// A member in a list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key: where the list goes on.
    pub key: Vec<u8>,
    /// The group.
    pub group: String,
    /// Who.
    pub id: MemberId,
    /// What is known of it.
    pub member: Member,
}

/// Up to `limit` members of all groups after that key.
pub fn all_members(
    kv: &dyn KvRead,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Listed>, KvError> {
    let (start, end) = Key::new(tag::MEMBER).range();
    let start = after.map_or(start, |after| [after, &[0]].concat());
    let members = kv.scan(&start, &end, limit)?.into_iter().map(|(key, value)| {
        let malformed = || typed::malformed(&key);
        let id = trailing_id(&key).ok_or_else(malformed)?;
        let group = key.get(1..key.len() - 17).ok_or_else(malformed)?;
        let group = String::from_utf8(group.to_vec()).map_err(|_| malformed())?;
        let member = typed::decode(&key, &value)?;
        Ok(Listed { key, group, id, member })
    });
    members.collect()
}

/// Who reads that partition for the group.
pub fn partition(
    kv: &dyn KvRead,
    group: &str,
    key: &PartitionKey,
) -> Result<Option<GroupPartition>, KvError> {
    typed::get(kv, &partition_key(group, key))
}

/// All partitions of a group, in order.
pub fn partitions(
    kv: &dyn KvRead,
    group: &str,
) -> Result<Vec<(PartitionKey, GroupPartition)>, KvError> {
    let (start, end) = Key::new(tag::GROUP_PARTITION).name(group).range();
    // What was there before and is not yet removed comes on top of the limit.
    let pairs = kv.scan(&start, &end, usize::MAX)?;
    let partitions = pairs.into_iter().map(|(key, value)| {
        let partition = trailing_partition(&key).ok_or_else(|| typed::malformed(&key))?;
        Ok((partition, typed::decode(&key, &value)?))
    });
    partitions.collect()
}

/// What a member owns, in order.
pub fn owned_by(
    kv: &dyn KvRead,
    group: &str,
    member: &MemberId,
) -> Result<Vec<(PartitionKey, GroupPartition)>, KvError> {
    let (start, end) = Key::new(tag::OWNED).name(group).bytes(member).range();
    let mut owned = Vec::new();
    for (key, _) in kv.scan(&start, &end, usize::MAX)? {
        let id = trailing_partition(&key).ok_or_else(|| typed::malformed(&key))?;
        if let Some(record) = partition(kv, group, &id)? {
            owned.push((id, record));
        }
    }
    Ok(owned)
}

/// Up to `limit` names of groups, from `from` on.
pub fn names(kv: &dyn KvRead, from: &str, limit: usize) -> Result<Vec<String>, KvError> {
    let (_, end) = Key::new(tag::GROUP).range();
    let start = Key::new(tag::GROUP).bytes(from.as_bytes()).done();
    let names = kv
        .scan(&start, &end, limit)?
        .into_iter()
        .map(|(key, _)| String::from_utf8(key[1..].to_vec()).map_err(|_| typed::malformed(&key)));
    names.collect()
}

/// Cluster time at which something last happened in a group that has no
/// members; nothing if it has some, or is not there.
pub fn idle_since_ms(kv: &dyn KvRead, group: &str) -> Result<Option<u64>, KvError> {
    let Some(record) = offsets::group(kv, group)? else { return Ok(None) };
    let membership = membership(kv, group)?.unwrap_or_default();
    let idle = membership.members == 0 && !membership.deleting;
    Ok(idle.then_some(record.committed_ms.max(membership.emptied_ms)))
}
