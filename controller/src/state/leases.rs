//! Who writes which partition: a deterministic, sticky, balanced assignment
//! per agent group. Every grant raises the partition's lease epoch.
//!
//! A planned move is two steps: *revoke* (the holder flushes), then *release*
//! by the holder, or by `Continue` after the deadline, and only then a grant.
//! An unplanned one (the session ended) is one step, safe because commits are
//! fenced at apply (FENCE).

use super::command::PartitionKey;
use super::keys::{Key, tag, trailing_partition};
use super::kv::{KvError, KvRead, Transaction};
use super::partitions::{self, Partition};
use super::reply::{Effect, LeaseChange, Reply};
use super::sessions::{self, Session};
use super::{MAX_BATCH, cluster, typed, work};
use std::collections::BTreeSet;
use streamhouse_host::planted::{self, Mistake, is_planted};

/// How long a holder may take to flush and release a revoked lease.
pub const REVOKE_TIMEOUT_MS: u64 = 10_000;

fn lease_key(session: u64, partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::SESSION_LEASE).u64(session).partition(partition).done()
}

fn waiting_key(group: &str, partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::UNASSIGNED).name(group).partition(partition).done()
}

fn revoked_key(deadline_ms: u64, partition: &PartitionKey) -> Vec<u8> {
    Key::new(tag::REVOKED).u64(deadline_ms).partition(partition).done()
}

fn partitions_of(
    kv: &dyn KvRead,
    range: (Vec<u8>, Vec<u8>),
    limit: usize,
) -> Result<Vec<PartitionKey>, KvError> {
    let pairs = kv.scan(&range.0, &range.1, limit)?;
    let parsed = pairs
        .into_iter()
        .map(|(key, _)| trailing_partition(&key).ok_or_else(|| typed::malformed(&key)));
    parsed.collect::<Result<Vec<_>, _>>().map(planted::in_hash_order)
}

/// Up to `limit` partitions whose lease the session holds, in key order.
pub fn held_by(kv: &dyn KvRead, session: u64, limit: usize) -> Result<Vec<PartitionKey>, KvError> {
    partitions_of(kv, Key::new(tag::SESSION_LEASE).u64(session).range(), limit)
}

/// The live, not draining sessions of a group while leases are dealt out.
struct Candidates(Vec<(u64, Session)>);

impl Candidates {
    fn load(kv: &dyn KvRead, group: &str) -> Result<Self, KvError> {
        let mut live = sessions::live_in(kv, group)?;
        live.retain(|(_, session)| !session.draining);
        Ok(Self(live))
    }

    /// The session with the fewest leases that are to stay; the oldest of
    /// those.
    fn least_loaded(&mut self) -> Option<&mut (u64, Session)> {
        self.0.iter_mut().min_by_key(|(id, session)| (session.staying(), *id))
    }

    fn store(self, tx: &mut Transaction<'_>) {
        for (id, session) in self.0 {
            sessions::put(tx, id, &session);
        }
    }
}

/// Takes the lease from its holder, if it has one, without granting it anew.
fn take(
    tx: &mut Transaction<'_>,
    key: &PartitionKey,
    partition: &mut Partition,
) -> Result<(), KvError> {
    let holder = std::mem::take(&mut partition.holder);
    let deadline = std::mem::take(&mut partition.revoke_deadline_ms);
    if deadline != 0 {
        tx.delete(revoked_key(deadline, key));
    }
    if holder == 0 {
        return Ok(());
    }
    tx.delete(lease_key(holder, key));
    if let Some(mut session) = sessions::session(tx, holder)? {
        let left = session.leases.checked_sub(1);
        let revoking = session.revoking.checked_sub(u32::from(deadline != 0));
        let (Some(left), Some(revoking)) = (left, revoking) else {
            return Err(KvError(format!("session {holder} holds more leases than it counts")));
        };
        (session.leases, session.revoking) = (left, revoking);
        sessions::put(tx, holder, &session);
    }
    Ok(())
}

/// Grants each partition to the least loaded session of the group, or lets it
/// wait for one. Whoever held a partition loses it.
pub(super) fn assign(
    tx: &mut Transaction<'_>,
    group: &str,
    keys: &[PartitionKey],
    why: LeaseChange,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let mut taken = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(mut partition) = partitions::partition(tx, key)? else { continue };
        let was = partition.holder;
        take(tx, key, &mut partition)?;
        partitions::put(tx, key, &partition);
        taken.push((*key, partition, was));
    }
    let mut candidates = Candidates::load(tx, group)?;
    for (key, mut partition, was) in taken {
        match candidates.least_loaded() {
            Some((id, session)) => {
                session.leases += 1;
                partition.holder = *id;
                if why != LeaseChange::SessionEnded || !is_planted(Mistake::GrantWithoutEpoch) {
                    partition.raise_epoch();
                }
                typed::mark(tx, lease_key(*id, &key));
                tx.delete(waiting_key(group, &key));
            }
            None => typed::mark(tx, waiting_key(group, &key)),
        }
        partitions::put(tx, &key, &partition);
        effects.push(Effect::Lease { partition: key, was, now: partition.holder, why });
    }
    candidates.store(tx);
    Ok(())
}

/// A restored partition waits for the first session of its group.
pub(super) fn wait(tx: &mut Transaction<'_>, group: &str, key: &PartitionKey) {
    typed::mark(tx, waiting_key(group, key));
}

/// Grants what waited for a session of the group.
pub(super) fn assign_waiting(
    tx: &mut Transaction<'_>,
    group: &str,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let waiting = partitions_of(tx, Key::new(tag::UNASSIGNED).name(group).range(), MAX_BATCH)?;
    if waiting.is_empty() || Candidates::load(tx, group)?.0.is_empty() {
        work::done(tx, work::Kind::AssignGroup, group.as_bytes());
        return Ok(());
    }
    assign(tx, group, &waiting, LeaseChange::Waited, effects)?;
    if waiting.len() == MAX_BATCH {
        work::add(tx, work::Kind::AssignGroup, group.as_bytes(), effects);
    } else {
        work::done(tx, work::Kind::AssignGroup, group.as_bytes());
    }
    Ok(())
}

/// Moves the leases of an ended session, at most [`MAX_BATCH`] in one entry.
pub(super) fn move_all(
    tx: &mut Transaction<'_>,
    session: u64,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let held = held_by(tx, session, MAX_BATCH)?;
    let group = sessions::session(tx, session)?.map(|session| session.group);
    if let Some(group) = group {
        assign(tx, &group, &held, LeaseChange::SessionEnded, effects)?;
    }
    if held.len() == MAX_BATCH {
        work::add(tx, work::Kind::MoveLeases, &session.to_be_bytes(), effects);
    } else {
        work::done(tx, work::Kind::MoveLeases, &session.to_be_bytes());
    }
    Ok(())
}

/// Asks the holder of each partition to flush and release it.
fn revoke(
    tx: &mut Transaction<'_>,
    keys: &[PartitionKey],
    now_ms: u64,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let deadline_ms = now_ms + REVOKE_TIMEOUT_MS;
    for key in keys {
        let Some(mut partition) = partitions::partition(tx, key)? else { continue };
        let holder = partition.holder;
        let Some(mut session) = sessions::session(tx, holder)? else { continue };
        if partition.revoke_deadline_ms != 0 {
            continue;
        }
        partition.revoke_deadline_ms = deadline_ms;
        session.revoking += 1;
        typed::mark(tx, revoked_key(deadline_ms, key));
        partitions::put(tx, key, &partition);
        sessions::put(tx, holder, &session);
        let why = LeaseChange::Revoked;
        effects.push(Effect::Lease { partition: *key, was: holder, now: holder, why });
    }
    Ok(())
}

/// Partitions of the session that are not revoked yet, the last in key order
/// first.
fn staying_of(kv: &dyn KvRead, session: u64, count: usize) -> Result<Vec<PartitionKey>, KvError> {
    let mut staying = Vec::new();
    for key in held_by(kv, session, usize::MAX)?.into_iter().rev() {
        if staying.len() == count {
            break;
        }
        let partition = partitions::partition(kv, &key)?;
        if partition.is_some_and(|p| p.revoke_deadline_ms == 0) {
            staying.push(key);
        }
    }
    Ok(staying)
}

/// Revokes what a draining session holds, at most [`MAX_BATCH`] in one entry.
pub(super) fn revoke_all(
    tx: &mut Transaction<'_>,
    session: u64,
    now_ms: u64,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let some = staying_of(tx, session, MAX_BATCH)?;
    revoke(tx, &some, now_ms, effects)?;
    if some.len() == MAX_BATCH {
        work::add(tx, work::Kind::RevokeAll, &session.to_be_bytes(), effects);
    } else {
        work::done(tx, work::Kind::RevokeAll, &session.to_be_bytes());
    }
    Ok(())
}

/// Revokes as few leases as make the loads of a group differ by one at most.
pub(super) fn rebalance(
    tx: &mut Transaction<'_>,
    group: &str,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let mut sessions = Candidates::load(tx, group)?.0;
    if sessions.is_empty() {
        work::done(tx, work::Kind::Rebalance, group.as_bytes());
        return Ok(());
    }
    let total: u64 = sessions.iter().map(|(_, session)| u64::from(session.leases)).sum();
    let count = sessions.len() as u64;
    let (share, extra) = (total / count, total % count);
    // The largest keep one more, so that the fewest move.
    sessions.sort_by_key(|(id, session)| (std::cmp::Reverse(session.staying()), *id));
    let now_ms = cluster::time_ms(tx)?;
    let mut budget = MAX_BATCH;
    for (place, (id, session)) in sessions.iter().enumerate() {
        let target = share + u64::from((place as u64) < extra);
        let surplus = u64::from(session.staying()).saturating_sub(target);
        let surplus = usize::try_from(surplus).unwrap_or(usize::MAX).min(budget);
        if surplus == 0 {
            continue;
        }
        budget -= surplus;
        let moving = staying_of(tx, *id, surplus)?;
        revoke(tx, &moving, now_ms, effects)?;
    }
    if budget == 0 {
        work::add(tx, work::Kind::Rebalance, group.as_bytes(), effects);
    } else {
        work::done(tx, work::Kind::Rebalance, group.as_bytes());
    }
    Ok(())
}

/// A holder gives back leases that were revoked; others are left as they are.
pub(super) fn release(
    tx: &mut Transaction<'_>,
    session: u64,
    leases: &[(PartitionKey, u32)],
) -> Result<(Reply, Vec<Effect>), KvError> {
    let mut effects = Vec::new();
    let Some(group) = sessions::session(tx, session)?.map(|session| session.group) else {
        return Ok((Reply::Done, effects));
    };
    // A set: a lease named twice is released once.
    let mut released = BTreeSet::new();
    for (key, epoch) in leases {
        let Some(partition) = partitions::partition(tx, key)? else { continue };
        let current = partition.holder == session && partition.lease_epoch == *epoch;
        if current && partition.revoke_deadline_ms != 0 {
            released.insert(*key);
        }
    }
    let released: Vec<_> = released.into_iter().collect();
    assign(tx, &group, &released, LeaseChange::Released, &mut effects)?;
    Ok((Reply::Done, effects))
}

fn overdue(kv: &dyn KvRead, now_ms: u64, limit: usize) -> Result<Vec<PartitionKey>, KvError> {
    let start = Key::new(tag::REVOKED).done();
    let end = Key::new(tag::REVOKED).u64(now_ms).done();
    partitions_of(kv, (start, end), limit)
}

/// Whether a revoked lease was not released in time.
pub(super) fn revocation_is_due(kv: &dyn KvRead, now_ms: u64) -> Result<bool, KvError> {
    Ok(!overdue(kv, now_ms, 1)?.is_empty())
}

/// Takes leases that were not released in time.
pub(super) fn take_overdue(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    for key in overdue(tx, now_ms, MAX_BATCH)? {
        let Some(partition) = partitions::partition(tx, &key)? else { continue };
        let holder = sessions::session(tx, partition.holder)?;
        if let Some(group) = holder.map(|session| session.group) {
            assign(tx, &group, &[key], LeaseChange::Overdue, effects)?;
        }
    }
    Ok(())
}

/// Forgets the lease of a partition that is being deleted.
pub(super) fn drop_partition(
    tx: &mut Transaction<'_>,
    group: &str,
    key: &PartitionKey,
    partition: &Partition,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let mut partition = partition.clone();
    let was = partition.holder;
    take(tx, key, &mut partition)?;
    tx.delete(waiting_key(group, key));
    effects.push(Effect::Lease { partition: *key, was, now: 0, why: LeaseChange::Deleted });
    Ok(())
}
