//! The assignment: computes the targets and grants what has no owner.

use super::ownership::Changes;
use super::{
    GroupPartition, Member, MemberId, Membership, members, membership, partitions, put_membership,
    subscriptions,
};
use crate::state::assignors::{self, Assignor, Work};
use crate::state::command::{PartitionKey, TopicKey};
use crate::state::kv::{KvError, KvRead, Transaction};
use crate::state::reply::{Effect, MovedBecause};
use crate::state::topics::{self, TopicStage};
use crate::state::{MAX_BATCH, work};
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_host::planted::{Mistake, is_planted};

/// Assigns a group's partitions anew, at most [`MAX_BATCH`] changes in one
/// entry. What is left of the work is computed again then, from what is there
/// by that time: a member may have come or gone in between.
pub(in crate::state) fn rebalance(
    tx: &mut Transaction<'_>,
    group: &str,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let Some(mut shared) = membership(tx, group)? else {
        work::done(tx, work::Kind::AssignMembers, group.as_bytes());
        return Ok(());
    };
    let mut plan = Plan::read(tx, group)?;
    let targets = plan.targets();
    let changed: Vec<_> = plan.changed(&targets).take(MAX_BATCH + 1).collect();
    if !changed.is_empty() {
        shared.epoch += 1;
    }
    let mut changes = Changes::new(group);
    for (key, target) in changed.iter().take(MAX_BATCH) {
        let was = plan.partitions.remove(key).unwrap_or_default();
        let now = plan.next(&was, key, *target, &shared);
        changes.set(tx, key, &was, &now, plan.why(&was));
    }
    if changed.len() > MAX_BATCH {
        work::add(tx, work::Kind::AssignMembers, group.as_bytes(), effects);
    } else {
        work::done(tx, work::Kind::AssignMembers, group.as_bytes());
        shared.assigned_epoch = shared.epoch;
    }
    shared.assignor = plan.assignor;
    put_membership(tx, group, &shared);
    changes.tell(shared.epoch, effects);
    Ok(())
}

/// All that an assignment looks at.
struct Plan {
    /// In the order in which they joined.
    members: Vec<(MemberId, Member)>,
    ids: BTreeMap<MemberId, usize>,
    /// The topics of all partitions that there are or are to be, but those
    /// that were deleted.
    alive: BTreeSet<TopicKey>,
    partitions: BTreeMap<PartitionKey, GroupPartition>,
    work: Work,
    assignor: Assignor,
}

impl Plan {
    fn read(kv: &dyn KvRead, group: &str) -> Result<Self, KvError> {
        let mut members = members(kv, group)?;
        members.sort_by_key(|(_, member)| member.joined);
        let ids = members.iter().enumerate().map(|(index, (id, _))| (*id, index)).collect();
        let subscriptions = subscriptions::all(kv, group)?;
        let topics = subscriptions::topics_of(kv, subscriptions.values())?;
        let at: BTreeMap<_, _> =
            topics.keys().enumerate().map(|(index, topic)| (*topic, index)).collect();
        let keys: Vec<_> = subscriptions.keys().collect();
        let of_member = |member: &Member| keys.binary_search(&&member.subscription).ok();
        let work = Work {
            topics: topics.iter().map(|(topic, count)| (*topic, *count)).collect(),
            subscriptions: subscriptions
                .values()
                .map(|one| one.topics.iter().filter_map(|topic| at.get(topic).copied()).collect())
                .collect(),
            members: members.iter().filter_map(|(_, member)| of_member(member)).collect(),
            before: BTreeMap::new(),
        };
        debug_assert_eq!(work.members.len(), members.len(), "each has a subscription");
        let assignor = most_wanted(&members);
        let partitions: BTreeMap<PartitionKey, GroupPartition> =
            partitions(kv, group)?.into_iter().collect();
        let mut alive: BTreeSet<_> = topics.into_keys().collect();
        let left: BTreeSet<_> = partitions.keys().map(|key| key.topic).collect();
        for topic in left.difference(&alive.clone()) {
            if topics::topic(kv, topic)?.is_some_and(|topic| topic.stage == TopicStage::Ready) {
                alive.insert(*topic);
            }
        }
        Ok(Self { members, ids, alive, partitions, work, assignor })
    }

    /// Who shall read what.
    fn targets(&mut self) -> BTreeMap<PartitionKey, MemberId> {
        for (key, record) in &self.partitions {
            let known = |id: &Option<MemberId>| id.and_then(|id| self.ids.get(&id).copied());
            if let Some(member) = known(&record.target).or_else(|| known(&record.owner)) {
                self.work.before.insert(*key, member);
            }
        }
        let assignment = assignors::assign(self.assignor, &self.work);
        assignment.into_iter().map(|(key, member)| (key, self.members[member].0)).collect()
    }

    /// The partitions of which something changes, and their targets.
    fn changed<'a>(
        &'a self,
        targets: &'a BTreeMap<PartitionKey, MemberId>,
    ) -> impl Iterator<Item = (PartitionKey, Option<MemberId>)> + 'a {
        let keys: BTreeSet<_> = self.partitions.keys().chain(targets.keys()).copied().collect();
        keys.into_iter().filter_map(|key| {
            let target = targets.get(&key).copied();
            let settled = self.partitions.get(&key).is_some_and(|record| {
                record.target == target
                    && match &record.owner {
                        Some(owner) => self.stays(owner, &key),
                        None => target.is_none(),
                    }
            });
            (!settled).then_some((key, target))
        })
    }

    /// Whether the owner of a partition still is one until it gives it up: it
    /// is a member, and the topic is there, whoever subscribes to it.
    fn stays(&self, owner: &MemberId, key: &PartitionKey) -> bool {
        self.ids.contains_key(owner) && self.alive.contains(&key.topic)
    }

    /// Why a partition may get another owner without its owner's doing.
    fn why(&self, was: &GroupPartition) -> MovedBecause {
        match &was.owner {
            None => MovedBecause::Unowned,
            Some(owner) if !self.ids.contains_key(owner) => MovedBecause::OwnerGone,
            Some(_) => MovedBecause::TopicGone,
        }
    }

    fn next(
        &self,
        was: &GroupPartition,
        key: &PartitionKey,
        target: Option<MemberId>,
        shared: &Membership,
    ) -> GroupPartition {
        let waits = !is_planted(Mistake::PartitionGrantedTwice);
        match was.owner.filter(|owner| waits && self.stays(owner, key)) {
            Some(owner) => {
                GroupPartition { owner: Some(owner), granted_epoch: was.granted_epoch, target }
            }
            None => GroupPartition { owner: target, granted_epoch: shared.epoch, target },
        }
    }
}

/// The assignor that most members ask for; of equals the first of them.
fn most_wanted(members: &[(MemberId, Member)]) -> Assignor {
    let mut wanted = BTreeMap::<Assignor, usize>::new();
    for (_, member) in members {
        *wanted.entry(member.assignor).or_default() += 1;
    }
    let most =
        wanted.into_iter().max_by_key(|(assignor, votes)| (*votes, std::cmp::Reverse(*assignor)));
    most.map_or_else(Assignor::default, |(assignor, _)| assignor)
}
