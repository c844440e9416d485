//! Idempotent producers: who they are, and in which epoch.
//!
//! DEDUP: an id is given out once, and an epoch of it once; raising the epoch
//! fences whatever is on its way under the one before, because commits ask
//! here when they are applied. A producer is forgotten when nothing was heard
//! of it for [`KEPT_MS`], one with a name after [`NAME_KEPT_MS`] (CLOCK).
//!
//! ```text
//! 60                    ProducerIds
//! 61  id                Producer
//! 62  name              u64, its id
//! 63  due, id           (), forgotten at that time
//! 64                    u64, how many there are
//! ```

use super::command::{ProducerEpoch, ProducerRequest};
use super::keys::{Key, tag, trailing_u64};
use super::kv::{KvError, KvRead, Transaction};
use super::names::check_producer;
use super::reply::{Effect, Refusal, Reply};
use super::typed;
use bincode::{Decode, Encode};

/// Most producers of a cluster.
pub const MAX_PRODUCERS: u64 = 10_000_000;
/// How long a producer without a name is remembered: longer than any batch of
/// it can be on its way.
pub const KEPT_MS: u64 = 24 * 3_600_000;
/// How long one with a name is.
pub const NAME_KEPT_MS: u64 = 7 * KEPT_MS;
/// The last use is known this exactly, so that not every commit files a
/// producer anew.
pub(super) const TOUCH_MS: u64 = 600_000;
/// The last epoch of an id; Kafka's.
const LAST_EPOCH: u16 = i16::MAX.unsigned_abs();
/// Ids are below this; the highest that is ever reached leaves room to jump.
const HIGHEST: u64 = 1 << 62;
/// How far a restore jumps: more ids than were given out after the backup.
const JUMP: u64 = 1 << 32;

/// Which ids are next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct ProducerIds {
    /// The next id.
    pub next: u64,
    /// Ids below are of before the cluster was restored: epochs of theirs may
    /// have been given out that nobody remembers, so they get no more.
    pub restored: u64,
}

/// A producer's record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Producer {
    /// The epoch in use; those below are fenced.
    pub epoch: u16,
    /// This epoch is fenced, too: another id has taken its place.
    pub retired: bool,
    /// What it is called.
    pub name: Option<String>,
    /// Cluster time of its last use, up to ten minutes earlier.
    pub used_ms: u64,
}

impl Producer {
    /// The epoch that may write; of a retired one that is none it ever had.
    pub fn current(&self) -> u16 {
        self.epoch + u16::from(self.retired)
    }
}

fn ids_key() -> Vec<u8> {
    Key::new(tag::PRODUCER_IDS).done()
}

fn count_key() -> Vec<u8> {
    Key::new(tag::PRODUCER_COUNT).done()
}

fn producer_key(id: u64) -> Vec<u8> {
    Key::new(tag::PRODUCER).u64(id).done()
}

fn name_key(name: &str) -> Vec<u8> {
    Key::new(tag::PRODUCER_NAME).bytes(name.as_bytes()).done()
}

fn due_key(id: u64, producer: &Producer) -> Vec<u8> {
    let kept = if producer.name.is_some() { NAME_KEPT_MS } else { KEPT_MS };
    let due = producer.used_ms.saturating_add(kept + TOUCH_MS);
    Key::new(tag::PRODUCER_DUE).u64(due).u64(id).done()
}

fn ids(kv: &dyn KvRead) -> Result<ProducerIds, KvError> {
    Ok(typed::get(kv, &ids_key())?.unwrap_or_default())
}

/// A producer's record, while it is remembered.
pub fn producer(kv: &dyn KvRead, id: u64) -> Result<Option<Producer>, KvError> {
    typed::get(kv, &producer_key(id))
}

/// The producer of that name.
pub fn named(kv: &dyn KvRead, name: &str) -> Result<Option<u64>, KvError> {
    typed::get(kv, &name_key(name))
}

/// How many producers are remembered.
pub fn count(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &count_key())?.unwrap_or(0))
}

/// Whether the request would add to them.
pub fn adds_one(kv: &dyn KvRead, request: &ProducerRequest) -> Result<bool, KvError> {
    match (&request.producer, &request.name) {
        (Some(_), _) => Ok(false),
        (None, Some(name)) => Ok(named(kv, name)?.is_none()),
        (None, None) => Ok(true),
    }
}

pub(super) fn init(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    request: &ProducerRequest,
) -> Result<(Reply, Vec<Effect>), KvError> {
    let given = match (request.producer, &request.name) {
        (Some(asking), _) => next_epoch(tx, now_ms, asking)?,
        (None, None) => create(tx, now_ms, None)?,
        (None, Some(name)) => match check_producer(name) {
            Ok(()) => take_over(tx, now_ms, name)?,
            Err(refusal) => Err(refusal),
        },
    };
    let reply = given.map_or_else(Reply::Refused, Reply::Producer);
    Ok((reply, Vec::new()))
}

type Given = Result<Result<ProducerEpoch, Refusal>, KvError>;

/// The producer itself lost track, and begins anew.
fn next_epoch(tx: &mut Transaction<'_>, now_ms: u64, asking: ProducerEpoch) -> Given {
    match producer(tx, asking.id)? {
        // A higher one was given out and then lost by a restore.
        Some(known) if known.epoch < asking.epoch => Ok(Err(Refusal::UnknownProducer(asking.id))),
        Some(known) if known.current() > asking.epoch => {
            Ok(Err(Refusal::ProducerFenced { producer: asking, current: known.current() }))
        }
        Some(known) => raise(tx, now_ms, asking.id, known),
        None => Ok(Err(Refusal::UnknownProducer(asking.id))),
    }
}

/// Whoever had the name before is fenced.
fn take_over(tx: &mut Transaction<'_>, now_ms: u64, name: &str) -> Given {
    match named(tx, name)? {
        Some(id) => match producer(tx, id)? {
            Some(known) => raise(tx, now_ms, id, known),
            None => Err(KvError(format!("producer {id} has a name and no record"))),
        },
        None => create(tx, now_ms, Some(name.to_owned())),
    }
}

fn raise(tx: &mut Transaction<'_>, now_ms: u64, id: u64, known: Producer) -> Given {
    if known.epoch < LAST_EPOCH && id >= ids(tx)?.restored {
        let raised = Producer { epoch: known.epoch + 1, used_ms: now_ms, ..known.clone() };
        refile(tx, id, &known, &raised);
        return Ok(Ok(ProducerEpoch { id, epoch: raised.epoch }));
    }
    let created = create(tx, now_ms, known.name.clone())?;
    if created.is_ok() {
        let retired = Producer { retired: true, name: None, used_ms: now_ms, ..known.clone() };
        refile(tx, id, &known, &retired);
    }
    Ok(created)
}

fn create(tx: &mut Transaction<'_>, now_ms: u64, name: Option<String>) -> Given {
    let there = count(tx)?;
    let ProducerIds { next: id, restored } = ids(tx)?;
    if there >= MAX_PRODUCERS || id >= HIGHEST {
        let message = format!("the cluster remembers {MAX_PRODUCERS} producers already");
        return Ok(Err(Refusal::Limit(message)));
    }
    typed::put(tx, ids_key(), &ProducerIds { next: id + 1, restored });
    if let Some(name) = &name {
        typed::put(tx, name_key(name), &id);
    }
    insert(tx, id, &Producer { epoch: 0, retired: false, name, used_ms: now_ms })?;
    Ok(Ok(ProducerEpoch { id, epoch: 0 }))
}

fn insert(tx: &mut Transaction<'_>, id: u64, new: &Producer) -> Result<(), KvError> {
    let there = count(tx)?;
    typed::put(tx, count_key(), &(there + 1));
    typed::put(tx, producer_key(id), new);
    typed::mark(tx, due_key(id, new));
    Ok(())
}

fn refile(tx: &mut Transaction<'_>, id: u64, before: &Producer, after: &Producer) {
    tx.delete(due_key(id, before));
    typed::mark(tx, due_key(id, after));
    typed::put(tx, producer_key(id), after);
}

/// The producer was used.
pub(super) fn touch(tx: &mut Transaction<'_>, now_ms: u64, id: u64, known: &Producer) {
    if now_ms.saturating_sub(known.used_ms) >= TOUCH_MS {
        refile(tx, id, known, &Producer { used_ms: now_ms, ..known.clone() });
    }
}

/// A slice that a restore found says that the producer had this epoch.
pub(super) fn restore(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    found: ProducerEpoch,
) -> Result<(), KvError> {
    let ids = ids(tx)?;
    if found.id >= ids.next {
        typed::put(tx, ids_key(), &ProducerIds { next: found.id + 1, ..ids });
    }
    match producer(tx, found.id)? {
        Some(known) if known.epoch < found.epoch => {
            refile(tx, found.id, &known, &Producer { epoch: found.epoch, ..known.clone() });
            Ok(())
        }
        Some(_) => Ok(()),
        None => {
            let epoch = found.epoch;
            let new = Producer { epoch, retired: false, name: None, used_ms: now_ms };
            insert(tx, found.id, &new)
        }
    }
}

/// DEDUP: ids are never reused, those included that were given out after the
/// backup and left no trace.
pub(super) fn end_restore(tx: &mut Transaction<'_>) -> Result<(), KvError> {
    let next = ids(tx)?.next.min(HIGHEST) + JUMP;
    typed::put(tx, ids_key(), &ProducerIds { next, restored: next });
    Ok(())
}

/// Whether these may be restored.
pub(super) fn check_ids(ids: &ProducerIds) -> Result<(), String> {
    match ids.next <= HIGHEST && ids.restored <= ids.next {
        true => Ok(()),
        false => Err(format!("producer ids up to {} were never given out", ids.next)),
    }
}

/// Whether a slice may name this producer at all.
pub(super) fn can_be(producer: ProducerEpoch) -> bool {
    producer.id < HIGHEST && producer.epoch <= LAST_EPOCH
}

fn due(kv: &dyn KvRead, now_ms: u64, limit: usize) -> Result<Vec<Vec<u8>>, KvError> {
    let start = Key::new(tag::PRODUCER_DUE).done();
    let end = Key::new(tag::PRODUCER_DUE).u64(now_ms).done();
    Ok(kv.scan(&start, &end, limit)?.into_iter().map(|(key, _)| key).collect())
}

/// Whether [`expire`] has something to do.
pub(super) fn expiry_is_due(kv: &dyn KvRead, now_ms: u64) -> Result<bool, KvError> {
    Ok(!due(kv, now_ms, 1)?.is_empty())
}

/// Forgets up to `limit` producers of which nothing was heard for long.
pub(super) fn expire(tx: &mut Transaction<'_>, now_ms: u64, limit: usize) -> Result<(), KvError> {
    for key in due(tx, now_ms, limit)? {
        let id = trailing_u64(&key).ok_or_else(|| typed::malformed(&key))?;
        if let Some(name) = producer(tx, id)?.and_then(|known| known.name) {
            tx.delete(name_key(&name));
        }
        tx.delete(producer_key(id));
        tx.delete(key);
        match count(tx)?.checked_sub(1) {
            Some(left @ 1..) => typed::put(tx, count_key(), &left),
            Some(0) | None => tx.delete(count_key()),
        }
    }
    Ok(())
}
