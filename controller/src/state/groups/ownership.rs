//! Changing a partition's owner, and what only an owner may do.

use super::{GroupPartition, MemberId, membership, owned_key, partition_key};
use crate::state::command::PartitionKey;
use crate::state::kv::{KvError, KvRead, Transaction};
use crate::state::names::shown;
use crate::state::reply::{Effect, MovedBecause, OwnerChange, Refusal};
use crate::state::typed;
use std::collections::BTreeSet;
use streamhouse_host::planted::{Mistake, is_planted};

/// What an entry changes in one group, told at its end.
pub(super) struct Changes<'a> {
    group: &'a str,
    owners: Vec<OwnerChange>,
    told: BTreeSet<MemberId>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(group: &'a str) -> Self {
        Self { group, owners: Vec::new(), told: BTreeSet::new() }
    }

    /// Replaces a partition's record. One without owner and target goes. `why`
    /// its owner changes, if it does.
    pub(super) fn set(
        &mut self,
        tx: &mut Transaction<'_>,
        key: &PartitionKey,
        was: &GroupPartition,
        now: &GroupPartition,
        why: MovedBecause,
    ) {
        if was.owner != now.owner {
            if let Some(old) = &was.owner {
                tx.delete(owned_key(self.group, old, key));
            }
            if let Some(new) = &now.owner {
                typed::mark(tx, owned_key(self.group, new, key));
            }
            let (was, owner) = (was.owner, now.owner);
            self.owners.push(OwnerChange { partition: *key, was, now: owner, why });
        }
        let heard = |_: &&MemberId| !is_planted(Mistake::PartitionGrantedTwice);
        self.told.extend(was.owner.iter().filter(heard).chain(&now.owner).chain(&now.target));
        match now.owner.is_none() && now.target.is_none() {
            true => tx.delete(partition_key(self.group, key)),
            false => typed::put(tx, partition_key(self.group, key), now),
        }
    }

    pub(super) fn tell(self, epoch: u32, effects: &mut Vec<Effect>) {
        if !self.told.is_empty() {
            effects.push(Effect::Assigned {
                group: self.group.to_owned(),
                epoch,
                owners: self.owners,
                members: self.told.into_iter().collect(),
            });
        }
    }
}

/// GROUP: whether this committer may commit for the group at all. `by` is a
/// member and the group epoch it has heard of; a consumer without membership,
/// and an operator, have none.
pub(in crate::state) fn check_commit(
    kv: &dyn KvRead,
    group: &str,
    by: Option<(&MemberId, u32)>,
) -> Result<Result<(), Refusal>, KvError> {
    let shared = membership(kv, group)?.unwrap_or_default();
    if shared.deleting {
        return Ok(Err(Refusal::GroupBusy(shown(group))));
    }
    if by.is_some() && is_planted(Mistake::ZombieCommit) {
        return Ok(Ok(()));
    }
    let Some((id, epoch)) = by else {
        return Ok(match shared.members {
            0 => Ok(()),
            members => Err(Refusal::GroupNotEmpty { group: shown(group), members }),
        });
    };
    let Some(member) = super::member(kv, group, id)? else {
        return Ok(Err(Refusal::FencedMember(shown(group))));
    };
    Ok(match (member.epoch..=shared.epoch).contains(&epoch) {
        true => Ok(()),
        false => Err(Refusal::StaleMember { epoch: shared.epoch }),
    })
}

/// GROUP: whether the member owned the partition at that epoch and has since.
pub(in crate::state) fn check_owner(
    kv: &dyn KvRead,
    group: &str,
    (id, epoch): (&MemberId, u32),
    key: &PartitionKey,
) -> Result<Option<Refusal>, KvError> {
    let record = super::partition(kv, group, key)?.unwrap_or_default();
    let owns = record.owner.as_ref() == Some(id) && record.granted_epoch <= epoch;
    let owns = owns || is_planted(Mistake::ZombieCommit);
    Ok((!owns).then_some(Refusal::NotOwner(*key)))
}
