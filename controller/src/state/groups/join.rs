//! Joining a group, changing a subscription, and taking the place of a static
//! member's earlier start.

use super::ownership::Changes;
use super::{
    GroupPartition, MAX_ID_BYTES, MAX_MEMBERS, MAX_TOPICS, Member, MemberId, Membership,
    SESSION_TIMEOUT_MS, instance_key, member, member_key, membership, partitions, put_membership,
    subscriptions,
};
use crate::state::command::{GroupJoin, TopicKey};
use crate::state::kv::{KvError, Transaction};
use crate::state::names::{check_group, shown};
use crate::state::reply::{Effect, LeftBecause, MovedBecause, Refusal, Reply};
use crate::state::{MAX_BATCH, offsets, typed, work};
use std::collections::BTreeSet;

type Outcome = Result<(Reply, Vec<Effect>), KvError>;

fn refuse(refusal: Refusal) -> Outcome {
    Ok((Reply::Refused(refusal), Vec::new()))
}

fn check(join: &GroupJoin) -> Result<BTreeSet<TopicKey>, Refusal> {
    check_group(&join.group)?;
    for (what, text) in [("client id", Some(&join.client)), ("instance id", join.instance.as_ref())]
    {
        let Some(text) = text else { continue };
        if text.len() > MAX_ID_BYTES || text.chars().any(char::is_control) {
            return Err(Refusal::Invalid(format!(
                "{what} '{}' is longer than {MAX_ID_BYTES} bytes or holds a control character",
                shown(text)
            )));
        }
    }
    if join.instance.as_ref().is_some_and(String::is_empty) {
        return Err(Refusal::Invalid("the instance id is empty".to_owned()));
    }
    if !SESSION_TIMEOUT_MS.contains(&join.session_timeout_ms) {
        return Err(Refusal::Invalid(format!(
            "a session timeout of {} ms is not {} to {} ms",
            join.session_timeout_ms,
            SESSION_TIMEOUT_MS.start(),
            SESSION_TIMEOUT_MS.end()
        )));
    }
    if join.topics.len() > MAX_TOPICS {
        let count = join.topics.len();
        return Err(Refusal::Limit(format!("{count} topics, allowed are {MAX_TOPICS}")));
    }
    Ok(join.topics.iter().copied().collect())
}

pub(in crate::state) fn join(
    tx: &mut Transaction<'_>,
    index: u64,
    now_ms: u64,
    join: &GroupJoin,
) -> Outcome {
    let topics = match check(join) {
        Ok(topics) => topics,
        Err(refusal) => return refuse(refusal),
    };
    let shared = membership(tx, &join.group)?.unwrap_or_default();
    if shared.deleting {
        return refuse(Refusal::GroupBusy(shown(&join.group)));
    }
    if let Some(known) = member(tx, &join.group, &join.member)? {
        return change(tx, shared, join, known, &topics);
    }
    if join.is_member {
        // GROUP: it was ended, and may think that it still has what it had.
        return refuse(Refusal::FencedMember(shown(&join.group)));
    }
    let old = earlier_start(tx, join)?;
    if old.is_none() && shared.members as usize >= MAX_MEMBERS {
        return refuse(Refusal::Limit(format!(
            "group '{}' has {} members, allowed are {MAX_MEMBERS}",
            shown(&join.group),
            shared.members
        )));
    }
    // A refusal changes nothing: what may refuse comes first.
    if let Err(refusal) = offsets::check_room(tx, &join.group)? {
        return refuse(refusal);
    }
    let subscription = match subscriptions::add(tx, &join.group, &topics)? {
        Ok(subscription) => subscription,
        Err(refusal) => return refuse(refusal),
    };
    offsets::ensure_group(tx, now_ms, &join.group)?;
    let new = Member {
        joined: index,
        epoch: shared.epoch + 1,
        instance: join.instance.clone(),
        client: join.client.clone(),
        subscription,
        assignor: join.assignor,
        session_timeout_ms: join.session_timeout_ms,
        joined_ms: now_ms,
    };
    enter(tx, shared, join, new, old)
}

/// The member that the same instance is so far.
fn earlier_start(
    tx: &Transaction<'_>,
    join: &GroupJoin,
) -> Result<Option<(MemberId, Member)>, KvError> {
    let Some(instance) = &join.instance else { return Ok(None) };
    let Some(id) = typed::get::<MemberId>(tx, &instance_key(&join.group, instance))? else {
        return Ok(None);
    };
    Ok(member(tx, &join.group, &id)?.map(|member| (id, member)))
}

/// Everything was checked: the member is one from here on.
fn enter(
    tx: &mut Transaction<'_>,
    mut shared: Membership,
    join: &GroupJoin,
    mut new: Member,
    old: Option<(MemberId, Member)>,
) -> Outcome {
    let settled = shared.assigned_epoch == shared.epoch;
    shared.epoch = new.epoch;
    let mut effects = Vec::new();
    let mut same = false;
    match old {
        Some((id, old)) => {
            new.joined = old.joined;
            let all = replace(tx, &join.group, &shared, (id, &old), &join.member, &mut effects)?;
            same = all && old.subscription == new.subscription && old.assignor == new.assignor;
        }
        None => shared.members += 1,
    }
    put_member(tx, &join.group, &join.member, &new, &mut effects);
    if same && settled {
        // Nothing is to be assigned anew.
        shared.assigned_epoch = shared.epoch;
    } else {
        work::add(tx, work::Kind::AssignMembers, join.group.as_bytes(), &mut effects);
    }
    put_membership(tx, &join.group, &shared);
    Ok((Reply::Member { epoch: new.epoch }, effects))
}

fn put_member(
    tx: &mut Transaction<'_>,
    group: &str,
    id: &MemberId,
    member: &Member,
    effects: &mut Vec<Effect>,
) {
    if let Some(instance) = &member.instance {
        typed::put(tx, instance_key(group, instance), id);
    }
    typed::put(tx, member_key(group, id), member);
    effects.push(Effect::MemberJoined {
        group: group.to_owned(),
        member: *id,
        session_timeout_ms: member.session_timeout_ms,
    });
}

/// A member says anew what it wants.
fn change(
    tx: &mut Transaction<'_>,
    mut shared: Membership,
    join: &GroupJoin,
    mut known: Member,
    topics: &BTreeSet<TopicKey>,
) -> Outcome {
    if known.instance != join.instance {
        let message = "a member cannot change its instance id".to_owned();
        return refuse(Refusal::Invalid(message));
    }
    let same = known.subscription == subscriptions::key_of(topics);
    if same && known.assignor == join.assignor {
        return Ok((Reply::Member { epoch: known.epoch }, Vec::new()));
    }
    if !same {
        let old = known.subscription;
        known.subscription = match subscriptions::add(tx, &join.group, topics)? {
            Ok(subscription) => subscription,
            Err(refusal) => return refuse(refusal),
        };
        subscriptions::remove(tx, &join.group, &old)?;
    }
    known.assignor = join.assignor;
    shared.epoch += 1;
    typed::put(tx, member_key(&join.group, &join.member), &known);
    put_membership(tx, &join.group, &shared);
    let mut effects = Vec::new();
    work::add(tx, work::Kind::AssignMembers, join.group.as_bytes(), &mut effects);
    Ok((Reply::Member { epoch: known.epoch }, effects))
}

/// A static member has started again: what the earlier start had is its now,
/// and that one is fenced. BOUND: of more partitions than fit an entry, the
/// others wait for the assignment, as those of a member that left do; tells
/// whether that was all.
fn replace(
    tx: &mut Transaction<'_>,
    group: &str,
    shared: &Membership,
    (old_id, old): (MemberId, &Member),
    new_id: &MemberId,
    effects: &mut Vec<Effect>,
) -> Result<bool, KvError> {
    let mut changes = Changes::new(group);
    let mut count = 0;
    let renamed = |id: Option<MemberId>| if id == Some(old_id) { Some(*new_id) } else { id };
    for (key, was) in partitions(tx, group)? {
        let owner = renamed(was.owner);
        let granted_epoch = if owner == was.owner { was.granted_epoch } else { shared.epoch };
        let now = GroupPartition { owner, granted_epoch, target: renamed(was.target) };
        if now != was {
            count += 1;
            if count > MAX_BATCH {
                break;
            }
            changes.set(tx, &key, &was, &now, MovedBecause::Replaced);
        }
    }
    tx.delete(member_key(group, &old_id));
    subscriptions::remove(tx, group, &old.subscription)?;
    changes.tell(shared.epoch, effects);
    effects.push(Effect::MemberLeft {
        group: group.to_owned(),
        member: old_id,
        why: LeftBecause::Replaced,
    });
    Ok(count <= MAX_BATCH)
}
