//! Leaving a group, and giving partitions up.

use super::ownership::Changes;
use super::{
    GroupPartition, Member, MemberId, instance_key, member, member_key, membership, partition,
    put_membership, subscriptions,
};
use crate::state::command::PartitionKey;
use crate::state::kv::{KvError, Transaction};
use crate::state::names::shown;
use crate::state::reply::{Effect, LeftBecause, MovedBecause, Refusal, Reply};
use crate::state::{MAX_BATCH, typed, work};

type Outcome = Result<(Reply, Vec<Effect>), KvError>;

/// Members go: by themselves, or because the leader has not heard of them for
/// their session timeout. What they owned is anybody's from here on; the
/// assignment, which is work, hands it out.
pub(in crate::state) fn leave(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    group: &str,
    ids: &[MemberId],
    expired: bool,
) -> Outcome {
    if ids.len() > MAX_BATCH {
        let message = format!("{} members, allowed are {MAX_BATCH}", ids.len());
        return Ok((Reply::Refused(Refusal::Limit(message)), Vec::new()));
    }
    let Some(mut shared) = membership(tx, group)? else { return Ok((Reply::Done, Vec::new())) };
    let mut effects = Vec::new();
    for id in ids {
        // One that is gone already, or was replaced, stays so.
        let Some(member) = member(tx, group, id)? else { continue };
        remove(tx, group, id, &member)?;
        shared.members -= 1;
        let why = if expired { LeftBecause::Expired } else { LeftBecause::Left };
        effects.push(Effect::MemberLeft { group: group.to_owned(), member: *id, why });
    }
    if !effects.is_empty() {
        shared.epoch += 1;
        if shared.members == 0 {
            shared.emptied_ms = now_ms;
        }
        put_membership(tx, group, &shared);
        work::add(tx, work::Kind::AssignMembers, group.as_bytes(), &mut effects);
    }
    Ok((Reply::Done, effects))
}

fn remove(
    tx: &mut Transaction<'_>,
    group: &str,
    id: &MemberId,
    member: &Member,
) -> Result<(), KvError> {
    tx.delete(member_key(group, id));
    if let Some(instance) = &member.instance {
        let key = instance_key(group, instance);
        if typed::get::<MemberId>(tx, &key)?.as_ref() == Some(id) {
            tx.delete(key);
        }
    }
    subscriptions::remove(tx, group, &member.subscription)
}

/// A member gives up partitions that it was asked for, by the epoch of their
/// grant; their targets get them in this entry. What it was not asked for
/// stays its own: the assignment would give it back.
pub(in crate::state) fn release(
    tx: &mut Transaction<'_>,
    group: &str,
    id: &MemberId,
    released: &[(PartitionKey, u32)],
) -> Outcome {
    if released.len() > MAX_BATCH {
        let message = format!("{} partitions, allowed are {MAX_BATCH}", released.len());
        return Ok((Reply::Refused(Refusal::Limit(message)), Vec::new()));
    }
    let shared = membership(tx, group)?.unwrap_or_default();
    if member(tx, group, id)?.is_none() {
        return Ok((Reply::Refused(Refusal::FencedMember(shown(group))), Vec::new()));
    }
    let mut changes = Changes::new(group);
    for (key, granted_epoch) in released {
        let Some(was) = partition(tx, group, key)? else { continue };
        let asked = was.target.as_ref() != Some(id);
        if was.owner.as_ref() != Some(id) || was.granted_epoch != *granted_epoch || !asked {
            continue;
        }
        // A target that has left meanwhile gets nothing; the assignment is due
        // then.
        let owner = match &was.target {
            Some(target) => member(tx, group, target)?.map(|_| *target),
            None => None,
        };
        let now = GroupPartition { owner, granted_epoch: shared.epoch, target: was.target };
        changes.set(tx, key, &was, &now, MovedBecause::Released);
    }
    let mut effects = Vec::new();
    changes.tell(shared.epoch, &mut effects);
    Ok((Reply::Done, effects))
}
