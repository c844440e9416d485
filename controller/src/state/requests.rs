//! RETRY for every mutating command that is not a commit: the replies to a
//! requester's last [`KEPT`] requests, kept for a day of cluster time after
//! its last one.

use super::command::RequestKey;
use super::keys::{Key, tag, trailing_id};
use super::kv::{KvError, KvRead, Transaction};
use super::reply::{Refusal, Reply};
use super::typed;
use bincode::{Decode, Encode};

/// Replies kept per requester.
pub const KEPT: u64 = 64;
/// How long a requester's replies outlive its last request.
pub const KEPT_MS: u64 = 24 * 3_600_000;

/// A requester's last request is known this exactly, so that not each of them
/// has to be filed anew under its time.
const TOUCH_MS: u64 = 60_000;

/// What is remembered of a requester.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Requester {
    /// Its largest request number.
    pub last: u64,
    /// Cluster time of its last request, up to a minute earlier.
    pub used_ms: u64,
}

fn reply_key(requester: &[u8; 16], number: u64) -> Vec<u8> {
    Key::new(tag::REQUEST).bytes(requester).u64(number).done()
}

fn requester_key(requester: &[u8; 16]) -> Vec<u8> {
    Key::new(tag::REQUESTER).bytes(requester).done()
}

fn time_key(used_ms: u64, requester: &[u8; 16]) -> Vec<u8> {
    Key::new(tag::REQUESTER_TIME).u64(used_ms).bytes(requester).done()
}

/// The answer to a request that was applied before, or whose record is gone.
pub(crate) fn answered(kv: &dyn KvRead, request: &RequestKey) -> Result<Option<Reply>, KvError> {
    if let Some(reply) = typed::get(kv, &reply_key(&request.requester, request.number))? {
        return Ok(Some(reply));
    }
    let known: Option<Requester> = typed::get(kv, &requester_key(&request.requester))?;
    match known {
        Some(known) if request.number.saturating_add(KEPT) <= known.last => {
            Ok(Some(Reply::Refused(Refusal::OutcomeUnknown)))
        }
        _ => Ok(None),
    }
}

/// The largest request number of a requester so far, 0 if it is unknown.
pub(super) fn last_number(kv: &dyn KvRead, requester: &[u8; 16]) -> Result<u64, KvError> {
    let known: Option<Requester> = typed::get(kv, &requester_key(requester))?;
    Ok(known.map_or(0, |known| known.last))
}

/// Remembers the first result of a request.
pub(super) fn remember(
    tx: &mut Transaction<'_>,
    request: &RequestKey,
    now_ms: u64,
    reply: &Reply,
) -> Result<(), KvError> {
    let id = &request.requester;
    let (mut last, mut used_ms) = (request.number, now_ms);
    if let Some(known) = typed::get::<Requester>(tx, &requester_key(id))? {
        last = last.max(known.last);
        // What the window leaves goes. By number, not by a scan, which would
        // step over all that was deleted before.
        let left = |last: u64| last.saturating_sub(KEPT - 1);
        for number in left(known.last)..left(last).min(left(known.last) + KEPT) {
            tx.delete(reply_key(id, number));
        }
        used_ms = known.used_ms;
        if now_ms.saturating_sub(used_ms) >= TOUCH_MS {
            tx.delete(time_key(used_ms, id));
            used_ms = now_ms;
        }
    }
    typed::put(tx, requester_key(id), &Requester { last, used_ms });
    typed::mark(tx, time_key(used_ms, id));
    typed::put(tx, reply_key(id, request.number), reply);
    Ok(())
}

fn due(kv: &dyn KvRead, now_ms: u64, limit: usize) -> Result<Vec<Vec<u8>>, KvError> {
    let Some(before) = now_ms.checked_sub(KEPT_MS + TOUCH_MS) else { return Ok(Vec::new()) };
    let (start, end) =
        (Key::new(tag::REQUESTER_TIME).done(), Key::new(tag::REQUESTER_TIME).u64(before).done());
    Ok(kv.scan(&start, &end, limit)?.into_iter().map(|(key, _)| key).collect())
}

/// Whether [`expire`] has something to do.
pub(super) fn expiry_is_due(kv: &dyn KvRead, now_ms: u64) -> Result<bool, KvError> {
    Ok(!due(kv, now_ms, 1)?.is_empty())
}

/// Forgets up to `limit` requesters that have been silent for a day.
pub(super) fn expire(tx: &mut Transaction<'_>, now_ms: u64, limit: usize) -> Result<(), KvError> {
    for key in due(tx, now_ms, limit)? {
        let id = trailing_id(&key).ok_or_else(|| typed::malformed(&key))?;
        let (start, end) = Key::new(tag::REQUEST).bytes(&id).range();
        for (reply, _) in tx.scan(&start, &end, KEPT as usize)? {
            tx.delete(reply);
        }
        tx.delete(requester_key(&id));
        tx.delete(key);
    }
    Ok(())
}
