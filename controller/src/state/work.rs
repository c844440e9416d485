//! What was too large for one entry, or waits for its time: done in bounded
//! chunks by `Continue`, which the leader proposes while anything is due.

use super::keys::{Key, tag, trailing_id, trailing_u64};
use super::kv::{KvError, KvRead, Transaction};
use super::reply::{Effect, Reply};
use super::{groups, leases, producers, requests, restore, sequences, sessions, topics, typed};

/// Kinds of unfinished work, by the byte that stands in the key. The lowest
/// goes first: partitions without a writer before topics that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Leases of an ended session still to be moved. Subject: session.
    MoveLeases = 1,
    /// Partitions that nobody holds and somebody could. Subject: agent group.
    AssignGroup = 2,
    /// A draining session with leases not yet revoked. Subject: session.
    RevokeAll = 3,
    /// More to be revoked than one entry may. Subject: agent group.
    Rebalance = 4,
    /// Subject: topic id.
    CreateTopic = 5,
    /// Subject: topic id.
    DeleteTopic = 6,
    /// A consumer group whose partitions are to be assigned. Subject: group.
    AssignMembers = 16,
    /// Subject: consumer group.
    DeleteGroup = 17,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [
            Self::MoveLeases,
            Self::AssignGroup,
            Self::RevokeAll,
            Self::Rebalance,
            Self::CreateTopic,
            Self::DeleteTopic,
            Self::AssignMembers,
            Self::DeleteGroup,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Requesters, ended sessions and producers expired by one entry.
const EXPIRED_AT_ONCE: usize = 100;
/// Keys of a deleted consumer group removed by one entry.
const GROUP_CHUNK: usize = 1_000;

fn work_key(kind: Kind, subject: &[u8]) -> Vec<u8> {
    Key::new(tag::WORK).byte(kind as u8).bytes(subject).done()
}

/// Remembers unfinished work.
pub(super) fn add(tx: &mut Transaction<'_>, kind: Kind, subject: &[u8], effects: &mut Vec<Effect>) {
    typed::mark(tx, work_key(kind, subject));
    effects.push(Effect::WorkPending);
}

/// Forgets it.
pub(super) fn done(tx: &mut Transaction<'_>, kind: Kind, subject: &[u8]) {
    tx.delete(work_key(kind, subject));
}

/// Whether this key of unfinished work means anything without the sessions
/// that there were.
pub(super) fn outlives_sessions(key: &[u8]) -> bool {
    let kind = key.get(1).copied().and_then(Kind::of);
    kind.is_some_and(|kind| match kind {
        Kind::CreateTopic | Kind::DeleteTopic => trailing_id(key).is_some() && key.len() == 18,
        Kind::MoveLeases | Kind::AssignGroup | Kind::RevokeAll | Kind::Rebalance => false,
        // A restored group has no members, and is whole.
        Kind::AssignMembers | Kind::DeleteGroup => false,
    })
}

fn next(kv: &dyn KvRead) -> Result<Option<(Kind, Vec<u8>)>, KvError> {
    let (start, end) = Key::new(tag::WORK).range();
    let Some((key, _)) = kv.scan(&start, &end, 1)?.pop() else { return Ok(None) };
    let kind = key.get(1).copied().and_then(Kind::of).ok_or_else(|| typed::malformed(&key))?;
    Ok(Some((kind, key)))
}

/// Whether `Continue` at cluster time `now_ms` would find something to do.
pub fn is_due(kv: &dyn KvRead, now_ms: u64) -> Result<bool, KvError> {
    if restore::restoring(kv)?.is_some() {
        return Ok(false);
    }
    Ok(next(kv)?.is_some()
        || leases::revocation_is_due(kv, now_ms)?
        || sessions::expiry_is_due(kv, now_ms)?
        || requests::expiry_is_due(kv, now_ms)?
        || sequences::expiry_is_due(kv, now_ms)?
        || producers::expiry_is_due(kv, now_ms)?)
}

/// One chunk of work.
pub(super) fn proceed(
    tx: &mut Transaction<'_>,
    now_ms: u64,
) -> Result<(Reply, Vec<Effect>), KvError> {
    let mut effects = Vec::new();
    if let Some((kind, key)) = next(tx)? {
        let session = || trailing_u64(&key).ok_or_else(|| typed::malformed(&key));
        let group = || String::from_utf8(key[2..].to_vec()).map_err(|_| typed::malformed(&key));
        match kind {
            Kind::CreateTopic => {
                topics::continue_creation(tx, &topics::subject(&key)?, &mut effects)?;
            }
            Kind::DeleteTopic => {
                topics::continue_deletion(tx, &topics::subject(&key)?, &mut effects)?;
            }
            Kind::MoveLeases => leases::move_all(tx, session()?, &mut effects)?,
            Kind::AssignGroup => leases::assign_waiting(tx, &group()?, &mut effects)?,
            Kind::Rebalance => leases::rebalance(tx, &group()?, &mut effects)?,
            Kind::RevokeAll => leases::revoke_all(tx, session()?, now_ms, &mut effects)?,
            Kind::AssignMembers => groups::rebalance(tx, &group()?, &mut effects)?,
            Kind::DeleteGroup => {
                groups::delete_some(tx, &group()?, GROUP_CHUNK, &mut effects)?;
            }
        }
    }
    leases::take_overdue(tx, now_ms, &mut effects)?;
    sessions::expire(tx, now_ms, EXPIRED_AT_ONCE)?;
    requests::expire(tx, now_ms, EXPIRED_AT_ONCE)?;
    sequences::expire(tx, now_ms, EXPIRED_AT_ONCE)?;
    producers::expire(tx, now_ms, EXPIRED_AT_ONCE)?;
    let more = is_due(tx, now_ms)?;
    Ok((Reply::Continued { more }, effects))
}
