//! Agent sessions. A session's id is the log index of its registration, above
//! all sessions of the cluster's earlier generations: unique and ordered.

use super::command::Registration;
use super::keys::{Key, tag, trailing_u64};
use super::kv::{KvError, KvRead, Transaction};
use super::names::{check_name, shown};
use super::reply::{Effect, Refusal, Reply};
use super::{cluster, leases, restore, segments, typed, work};
use bincode::{Decode, Encode};

/// Most live sessions of one agent group.
pub const MAX_SESSIONS: usize = 1_000;
/// How long the results of an ended session are kept (RETRY).
pub const RESULTS_KEPT_MS: u64 = 24 * 3_600_000;
/// Longest advertised address or store URL, in bytes.
const MAX_ADDRESS_BYTES: usize = 1_024;

/// A session's record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Session {
    /// Random, new with every start of an agent.
    pub instance: [u8; 16],
    /// Advertised `host:port`.
    pub address: String,
    /// Agent group.
    pub group: String,
    /// Zone, or empty.
    pub zone: String,
    /// Process id, for operators.
    pub pid: u32,
    /// Leases it holds, revoked ones included.
    pub leases: u32,
    /// Those of them that are revoked and not yet released.
    pub revoking: u32,
    /// It gets no new leases.
    pub draining: bool,
    /// Sequence of its last object, 0 before the first.
    pub last_sequence: u64,
    /// Cluster time of its registration.
    pub registered_ms: u64,
    /// Cluster time of its end.
    pub ended_ms: Option<u64>,
}

impl Session {
    /// Leases that are to stay with it.
    pub(super) fn staying(&self) -> u32 {
        self.leases - self.revoking
    }

    /// FENCE: only a live session can commit.
    pub fn is_live(&self) -> bool {
        self.ended_ms.is_none()
    }
}

fn session_key(session: u64) -> Vec<u8> {
    Key::new(tag::SESSION).u64(session).done()
}

fn address_key(address: &str) -> Vec<u8> {
    Key::new(tag::SESSION_ADDRESS).bytes(address.as_bytes()).done()
}

fn instance_key(instance: &[u8; 16]) -> Vec<u8> {
    Key::new(tag::SESSION_INSTANCE).bytes(instance).done()
}

fn live_key(group: &str, session: u64) -> Vec<u8> {
    Key::new(tag::LIVE).name(group).u64(session).done()
}

fn ended_key(ended_ms: u64, session: u64) -> Vec<u8> {
    Key::new(tag::ENDED).u64(ended_ms).u64(session).done()
}

/// A session, live or ended, while anything of it is kept.
pub fn session(kv: &dyn KvRead, id: u64) -> Result<Option<Session>, KvError> {
    typed::get(kv, &session_key(id))
}

pub(super) fn put(tx: &mut Transaction<'_>, id: u64, session: &Session) {
    typed::put(tx, session_key(id), session);
}

fn live_under(
    kv: &dyn KvRead,
    range: (Vec<u8>, Vec<u8>),
    limit: usize,
) -> Result<Vec<(u64, Session)>, KvError> {
    let mut found = Vec::new();
    for (key, _) in kv.scan(&range.0, &range.1, limit)? {
        let id = trailing_u64(&key).ok_or_else(|| typed::malformed(&key))?;
        let session = session(kv, id)?;
        found.push((id, session.ok_or_else(|| typed::malformed(&key))?));
    }
    Ok(found)
}

/// The live sessions of an agent group, oldest first.
pub(super) fn live_in(kv: &dyn KvRead, group: &str) -> Result<Vec<(u64, Session)>, KvError> {
    live_under(kv, Key::new(tag::LIVE).name(group).range(), MAX_SESSIONS)
}

/// All live sessions, by group and age.
pub fn live(kv: &dyn KvRead) -> Result<Vec<(u64, Session)>, KvError> {
    live_under(kv, Key::new(tag::LIVE).range(), usize::MAX)
}

/// How many sessions live.
pub fn live_count(kv: &dyn KvRead) -> Result<u64, KvError> {
    let (start, end) = Key::new(tag::LIVE).range();
    Ok(kv.scan(&start, &end, usize::MAX)?.len() as u64)
}

/// Whether a registration would add to the sessions that live: not if it is
/// a retry, or takes the place of one at the same address.
pub fn adds_one(kv: &dyn KvRead, new: &Registration) -> Result<bool, KvError> {
    let known = typed::get::<u64>(kv, &instance_key(&new.instance))?.is_some();
    Ok(!known && typed::get::<u64>(kv, &address_key(&new.address))?.is_none())
}

fn check(tx: &mut Transaction<'_>, new: &Registration) -> Result<Result<(), Refusal>, KvError> {
    if let Err(refusal) = check_name("agent group", &new.group) {
        return Ok(Err(refusal));
    }
    if !new.zone.is_empty()
        && let Err(refusal) = check_name("zone", &new.zone)
    {
        return Ok(Err(refusal));
    }
    for (what, value) in [("agent address", &new.address), ("store URL", &new.store_url)] {
        if value.is_empty() || value.len() > MAX_ADDRESS_BYTES {
            let message = format!(
                "{what} '{}' is empty or longer than {MAX_ADDRESS_BYTES} bytes",
                shown(value)
            );
            return Ok(Err(Refusal::Invalid(message)));
        }
    }
    // One that takes over from itself adds none.
    let replaces = typed::get::<u64>(tx, &address_key(&new.address))?.is_some();
    if !replaces && live_in(tx, &new.group)?.len() >= MAX_SESSIONS {
        let message = format!("agent group '{}' has {MAX_SESSIONS} sessions already", new.group);
        return Ok(Err(Refusal::Limit(message)));
    }
    cluster::adopt_store(tx, &new.store_url)
}

pub(super) fn register(
    tx: &mut Transaction<'_>,
    index: u64,
    now_ms: u64,
    new: &Registration,
) -> Result<(Reply, Vec<Effect>), KvError> {
    // RETRY: the same process asking again.
    if let Some(id) = typed::get::<u64>(tx, &instance_key(&new.instance))? {
        let live = session(tx, id)?.is_some_and(|session| session.is_live());
        let ended = Reply::Refused(Refusal::SessionEnded(id));
        return Ok((if live { Reply::Session(id) } else { ended }, Vec::new()));
    }
    if let Err(refusal) = check(tx, new)? {
        return Ok((Reply::Refused(refusal), Vec::new()));
    }
    // Above every session of an earlier generation, so that no object and no
    // result of one is taken for another's.
    let id = index + restore::sessions_before(tx)?;
    let mut effects = vec![Effect::Cluster, Effect::SessionOpened(id)];
    let session = Session {
        instance: new.instance,
        address: new.address.clone(),
        group: new.group.clone(),
        zone: new.zone.clone(),
        pid: new.pid,
        leases: 0,
        revoking: 0,
        draining: false,
        last_sequence: 0,
        registered_ms: now_ms,
        ended_ms: None,
    };
    put(tx, id, &session);
    typed::put(tx, instance_key(&new.instance), &id);
    typed::mark(tx, live_key(&new.group, id));
    // An agent that starts again under its address takes over from itself.
    let older = typed::get::<u64>(tx, &address_key(&new.address))?;
    typed::put(tx, address_key(&new.address), &id);
    if let Some(older) = older {
        end_one(tx, older, now_ms, &mut effects)?;
    }
    leases::assign_waiting(tx, &new.group, &mut effects)?;
    leases::rebalance(tx, &new.group, &mut effects)?;
    Ok((Reply::Session(id), effects))
}

fn end_one(
    tx: &mut Transaction<'_>,
    id: u64,
    now_ms: u64,
    effects: &mut Vec<Effect>,
) -> Result<(), KvError> {
    let Some(mut ending) = session(tx, id)? else { return Ok(()) };
    if !ending.is_live() {
        return Ok(());
    }
    ending.ended_ms = Some(now_ms);
    put(tx, id, &ending);
    tx.delete(live_key(&ending.group, id));
    typed::mark(tx, ended_key(now_ms, id));
    if typed::get::<u64>(tx, &address_key(&ending.address))? == Some(id) {
        tx.delete(address_key(&ending.address));
    }
    work::done(tx, work::Kind::RevokeAll, &id.to_be_bytes());
    effects.push(Effect::SessionEnded(id));
    // FENCE: from here on nothing of this session is accepted, so its
    // partitions may move at once.
    leases::move_all(tx, id, effects)
}

pub(super) fn end(
    tx: &mut Transaction<'_>,
    id: u64,
    now_ms: u64,
) -> Result<(Reply, Vec<Effect>), KvError> {
    let mut effects = Vec::new();
    end_one(tx, id, now_ms, &mut effects)?;
    Ok((Reply::Done, effects))
}

pub(super) fn drain(
    tx: &mut Transaction<'_>,
    id: u64,
    now_ms: u64,
) -> Result<(Reply, Vec<Effect>), KvError> {
    let mut effects = Vec::new();
    match session(tx, id)? {
        Some(mut draining) if draining.is_live() => {
            draining.draining = true;
            put(tx, id, &draining);
            leases::revoke_all(tx, id, now_ms, &mut effects)?;
            Ok((Reply::Done, effects))
        }
        _ => Ok((Reply::Refused(Refusal::SessionEnded(id)), effects)),
    }
}

fn expired(kv: &dyn KvRead, now_ms: u64, limit: usize) -> Result<Vec<Vec<u8>>, KvError> {
    let Some(before) = now_ms.checked_sub(RESULTS_KEPT_MS) else { return Ok(Vec::new()) };
    let start = Key::new(tag::ENDED).done();
    let end = Key::new(tag::ENDED).u64(before).done();
    Ok(kv.scan(&start, &end, limit)?.into_iter().map(|(key, _)| key).collect())
}

/// Whether [`expire`] has something to do.
pub(super) fn expiry_is_due(kv: &dyn KvRead, now_ms: u64) -> Result<bool, KvError> {
    Ok(!expired(kv, now_ms, 1)?.is_empty())
}

/// Forgets up to `limit` sessions that ended a day ago, with their results.
pub(super) fn expire(tx: &mut Transaction<'_>, now_ms: u64, limit: usize) -> Result<(), KvError> {
    for key in expired(tx, now_ms, limit)? {
        let id = trailing_u64(&key).ok_or_else(|| typed::malformed(&key))?;
        if let Some(session) = session(tx, id)? {
            tx.delete(instance_key(&session.instance));
        }
        segments::forget_results(tx, id)?;
        tx.delete(session_key(id));
        tx.delete(key);
    }
    Ok(())
}
