//! Which objects may be deleted, and who deletes them (GC).
//!
//! ```text
//! 08  Collector: who collects, under which epoch; what operators decided
//! 09  SweepReport: what the last sweep found
//! 0a  session, sequence -> Unindexed: an object that the index referred to once
//! ```
//!
//! One agent at a time collects: it lists the bucket, asks for a verdict on
//! what it found ([`judge`], read after the listing), and has each batch of
//! deletions allowed by the state machine right before it deletes.
//!
//! # Why a late DELETE is harmless
//!
//! A collector may be stopped between the answer that allows a batch and the
//! DELETE, for as long as one likes; by then another collects. What makes its
//! DELETE harmless is not the fence but that *unreachable* is for good:
//!
//! 1. An object gets into the index by its commit, once, and a commit is
//!    applied only as the session's next (`last_sequence + 1`) while the
//!    session lives. `last_sequence` never falls, and an ended session never
//!    lives again. So an object that is not in the index, and whose session has
//!    ended or is past its number, never gets there.
//! 2. What left the index does not come back: nothing adds an entry for an old
//!    object but a restore, which needs an empty cluster.
//! 3. A restore is of a backup. One that is of the state at index *i* refers to
//!    what the index held at *i*. An object that left the index at *u* is
//!    allowed only when every kept backup has *i* >= *u*, and one that never was
//!    in the index is in no backup. Backups taken later have a higher index.
//!    One that is being taken is not seen in the bucket yet: a *hold* stands for
//!    it, placed before its state is read, and longer than it may take.
//! 4. The restored cluster has a new generation. Its own objects have other
//!    keys; of older ones nothing is allowed before an operator has confirmed
//!    that generation, and the confirmation does not outlive it.
//! 5. A key is never written with other bytes (ONCE), so a DELETE that comes
//!    late hits the object that it was allowed for, or nothing.
//!
//! So the epoch of the grant keeps two from working at once and lets a pause
//! take effect; it is not what protects the data. Readers are protected by the
//! grace: they may hold a plan that names an object which has left the index.

use super::command::GenerationKey;
use super::keys::{Key, tag};
use super::kv::{KvError, KvRead, Transaction};
use super::reply::{Effect, Refusal, Reply};
use super::sessions::Session;
use super::{cluster, restore, segments, sessions, typed};
use bincode::{Decode, Encode};
use streamhouse_host::planted::{Mistake, is_planted};

/// BOUND: objects judged, or allowed to be deleted, at once.
pub const MAX_OBJECTS: usize = 1_024;
/// A collector that was not heard of for so long, in cluster time, is replaced
/// although its session lives.
const GRANT_MS: u64 = 15 * 60_000;
/// How long a backup that was begun is taken for one that is kept: twice as
/// long as one may take ([`crate::backup`]; cluster time may run at double
/// speed), and an hour, longer than what a collector with a live session knows
/// of the bucket can be old.
pub const HOLD_MS: u64 = 3 * 3_600_000;
/// BOUND: holds, beyond which the newest of them stands for more than one.
pub const MAX_HOLDS: usize = 64;
/// BOUND: of a report's last error.
const MAX_ERROR_BYTES: usize = 1_000;

/// Names an object of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ObjectName {
    /// The cluster's when it was written.
    pub generation: GenerationKey,
    /// The session that wrote it.
    pub session: u64,
    /// The session's number for it.
    pub sequence: u64,
}

/// The backups that lie in the cluster's own store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct KeptBackups {
    /// The index of the oldest one of this generation; 0 for one whose name
    /// does not tell. `None` if there is none.
    pub oldest_index: Option<u64>,
    /// There are some of other generations.
    pub of_others: bool,
}

/// Who collects, and what operators decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Collector {
    /// Counts the grants.
    pub epoch: u64,
    /// The session that holds the grant, 0 for none yet.
    pub holder: u64,
    /// Cluster time at which it was heard of last.
    pub renewed_ms: u64,
    /// Nothing is to be deleted.
    pub paused: bool,
    /// The generation in which an operator confirmed that nothing of older
    /// ones runs any more.
    pub confirmed: Option<GenerationKey>,
    /// Backups that may be being taken, oldest first.
    pub holds: Vec<Hold>,
}

/// A backup that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Hold {
    /// It is of the state at this index of the log, or a later one.
    pub index: u64,
    /// Cluster time until which it may be being taken.
    pub until_ms: u64,
}

/// An object that the index referred to, and does not any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Unindexed {
    /// The cluster's when the object was written.
    pub generation: GenerationKey,
    /// The log's index at which the last reference went.
    pub index: u64,
    /// Cluster time of that.
    pub time_ms: u64,
}

/// What a sweep found and did. Counts are of objects, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct SweepReport {
    /// Cluster time at which the report came.
    pub finished_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// All objects found.
    pub listed: u64,
    /// Their size.
    pub listed_bytes: u64,
    /// Those that nothing can refer to.
    pub orphans: u64,
    /// Their size.
    pub orphan_bytes: u64,
    /// Those of them that were deleted.
    pub deleted: u64,
    /// Their size.
    pub deleted_bytes: u64,
    /// Unreachable, but still within the readers' grace.
    pub waiting: u64,
    /// Unreachable, but a kept backup may refer to them.
    pub kept_for_backups: u64,
    /// Of older generations, which nobody has confirmed.
    pub unconfirmed: u64,
    /// Not this cluster's, or with a name that no agent gives.
    pub foreign: u64,
    /// Requests to the store that failed.
    pub errors: u64,
    /// The store's time of the oldest orphan, milliseconds since the epoch; 0
    /// without one. For operators: nothing is decided by it.
    pub oldest_orphan_ms: u64,
    /// The last of the errors, or empty.
    pub last_error: String,
}

/// What the collector asks, or its operator.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CollectorStep {
    /// A session wants to collect, or says that it still does.
    Acquire {
        /// Which.
        session: u64,
        /// The instance that registered it.
        instance: [u8; 16],
    },
    /// It is about to delete these.
    Allow {
        /// Whose.
        session: u64,
        /// Under which grant.
        epoch: u64,
        /// Readers' grace.
        grace_ms: u64,
        /// The backups it found after it had listed the objects.
        backups: KeptBackups,
        /// At most [`MAX_OBJECTS`].
        objects: Vec<ObjectName>,
    },
    /// A sweep has ended.
    Report {
        /// Whose.
        session: u64,
        /// Under which grant.
        epoch: u64,
        /// What it found.
        report: SweepReport,
    },
    /// Whether anything may be deleted.
    SetPaused(bool),
    /// Nothing of older generations than this one, the current one, runs any
    /// more.
    ConfirmGeneration(GenerationKey),
    /// A backup of the state after this command is about to be taken.
    Hold,
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Verdict {
    /// The index refers to it.
    Reachable,
    /// Its session may still commit it.
    Undecided,
    /// Nothing refers to it, but a reader may still hold a plan.
    Waiting,
    /// Nothing refers to it, but a kept backup may.
    InBackup,
    /// Of an older generation that nobody has confirmed.
    Unconfirmed,
    /// Not of this cluster, or of a generation that does not precede its own.
    Foreign,
    /// Nothing refers to it, nor ever will.
    Unreachable,
}

/// The answer to a [`CollectorStep`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CollectorReply {
    /// The session collects, under this epoch.
    Granted {
        /// The grant's.
        epoch: u64,
    },
    /// Another session does.
    Held {
        /// Which.
        holder: u64,
    },
    /// Nothing is to be deleted.
    Paused,
    /// One per object: those that are unreachable may be deleted.
    Allowed(Vec<Verdict>),
    /// Done.
    Done,
    /// Cluster time and wall time are too far apart: the leader's word, never
    /// the state's.
    ClockApart,
}

fn collector_key() -> Vec<u8> {
    Key::new(tag::COLLECTOR).done()
}

fn sweep_key() -> Vec<u8> {
    Key::new(tag::SWEEP).done()
}

fn unindexed_key(session: u64, sequence: u64) -> Vec<u8> {
    Key::new(tag::UNINDEXED).u64(session).u64(sequence).done()
}

/// Who collects, and what operators decided.
pub fn collector(kv: &dyn KvRead) -> Result<Collector, KvError> {
    Ok(typed::get(kv, &collector_key())?.unwrap_or_default())
}

/// What the last sweep found, if there was one.
pub fn last_sweep(kv: &dyn KvRead) -> Result<Option<SweepReport>, KvError> {
    typed::get(kv, &sweep_key())
}

fn unindexed(kv: &dyn KvRead, name: &ObjectName) -> Result<Option<Unindexed>, KvError> {
    typed::get(kv, &unindexed_key(name.session, name.sequence))
}

/// The index no longer refers to the object.
pub(super) fn left_the_index(tx: &mut Transaction<'_>, name: &ObjectName) -> Result<(), KvError> {
    let (index, time_ms) = (tx.index(), cluster::time_ms(tx)?);
    let value = Unindexed { generation: name.generation, index, time_ms };
    typed::put(tx, unindexed_key(name.session, name.sequence), &value);
    Ok(())
}

/// By what objects are judged, besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The index that the state is of.
    pub index: u64,
    /// Cluster time.
    pub now_ms: u64,
    /// Readers' grace.
    pub grace_ms: u64,
    /// The backups that are kept.
    pub backups: KeptBackups,
}

/// GC: what becomes of an object that was found in the bucket before the state
/// was read. Once it is [`Verdict::Unreachable`] it stays so for as long as the
/// generation lasts.
pub fn judge(kv: &dyn KvRead, terms: &Terms, name: &ObjectName) -> Result<Verdict, KvError> {
    let Some(own) = cluster::cluster(kv)? else { return Ok(Verdict::Foreign) };
    // Records know no generation. Another's with the same numbers only keeps
    // this object longer.
    if segments::object(kv, name.session, name.sequence)?.is_some() {
        return Ok(Verdict::Reachable);
    }
    let earlier = match name.generation {
        generation if generation == own.generation => own_generation(kv, terms, name)?,
        generation if generation.counter >= own.generation.counter => Some(Verdict::Foreign),
        _ if collector(kv)?.confirmed != Some(own.generation) => Some(Verdict::Unconfirmed),
        // Which of them such a backup refers to is not known here.
        _ if terms.backups.of_others => Some(Verdict::InBackup),
        _ => None,
    };
    if let Some(verdict) = earlier {
        return Ok(verdict);
    }
    let Some(left) = unindexed(kv, name)? else { return Ok(Verdict::Unreachable) };
    let begun = held_since(kv, terms.now_ms)?;
    let oldest = terms.backups.oldest_index.into_iter().chain(begun).min();
    Ok(if left.generation != name.generation || !passed(terms, left.time_ms) {
        Verdict::Waiting
    } else if oldest.is_some_and(|oldest| oldest < left.index) {
        Verdict::InBackup
    } else {
        Verdict::Unreachable
    })
}

/// The index of the oldest backup that may be being taken.
fn held_since(kv: &dyn KvRead, now_ms: u64) -> Result<Option<u64>, KvError> {
    let holds = collector(kv)?.holds;
    Ok(holds.iter().filter(|hold| hold.until_ms > now_ms).map(|hold| hold.index).min())
}

/// Whether a session of this generation can still commit the object.
fn own_generation(
    kv: &dyn KvRead,
    terms: &Terms,
    name: &ObjectName,
) -> Result<Option<Verdict>, KvError> {
    match sessions::session(kv, name.session)? {
        // Past it already, whether it lives or not.
        Some(Session { last_sequence, .. }) if name.sequence <= last_sequence => Ok(None),
        Some(Session { ended_ms: None, registered_ms, .. }) => {
            let old = is_planted(Mistake::CollectorByAge) && passed(terms, registered_ms);
            Ok((!old).then_some(Verdict::Undecided))
        }
        Some(Session { ended_ms: Some(ended_ms), .. }) => {
            Ok((!passed(terms, ended_ms)).then_some(Verdict::Waiting))
        }
        // Forgotten a day after its end, or never there: a number that was not
        // given out yet is not ours.
        None if name.session > terms.index.saturating_add(restore::sessions_before(kv)?) => {
            Ok(Some(Verdict::Foreign))
        }
        None => Ok(None),
    }
}

fn passed(terms: &Terms, since_ms: u64) -> bool {
    since_ms.saturating_add(terms.grace_ms) <= terms.now_ms
}

/// Whether the session may take the grant, or has it: `Err` holds who else has.
pub fn may_acquire(kv: &dyn KvRead, now_ms: u64, session: u64) -> Result<Result<(), u64>, KvError> {
    let Collector { holder, renewed_ms, .. } = collector(kv)?;
    let heard = renewed_ms.saturating_add(GRANT_MS) > now_ms;
    let lives = sessions::session(kv, holder)?.is_some_and(|session| session.is_live());
    Ok(if holder == session || !heard || !lives { Ok(()) } else { Err(holder) })
}

pub(super) fn step(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    step: &CollectorStep,
) -> Result<(Reply, Vec<Effect>), KvError> {
    let reply = match step {
        CollectorStep::Acquire { session, instance } => acquire(tx, now_ms, *session, instance)?,
        CollectorStep::Allow { session, epoch, grace_ms, backups, objects } => {
            let index = tx.index();
            let terms = Terms { index, now_ms, grace_ms: *grace_ms, backups: *backups };
            allow(tx, *session, *epoch, &terms, objects)?
        }
        CollectorStep::Report { session, epoch, report } => {
            note(tx, now_ms, *session, *epoch, report)?
        }
        CollectorStep::SetPaused(paused) => {
            let known = collector(tx)?;
            typed::put(tx, collector_key(), &Collector { paused: *paused, ..known });
            Reply::Collector(CollectorReply::Done)
        }
        CollectorStep::ConfirmGeneration(generation) => confirm(tx, *generation)?,
        CollectorStep::Hold => hold(tx, now_ms)?,
    };
    Ok((reply, Vec::new()))
}

fn acquire(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    session: u64,
    instance: &[u8; 16],
) -> Result<Reply, KvError> {
    let asks = sessions::session(tx, session)?;
    if !asks.is_some_and(|asks| asks.is_live() && asks.instance == *instance) {
        return Ok(Reply::Refused(Refusal::SessionEnded(session)));
    }
    if let Err(holder) = may_acquire(tx, now_ms, session)? {
        return Ok(Reply::Collector(CollectorReply::Held { holder }));
    }
    let mut known = collector(tx)?;
    if known.holder != session {
        known.epoch += 1;
        known.holder = session;
    }
    known.renewed_ms = now_ms;
    typed::put(tx, collector_key(), &known);
    Ok(Reply::Collector(CollectorReply::Granted { epoch: known.epoch }))
}

/// The grant, if the session still has it under this epoch.
fn granted(kv: &dyn KvRead, session: u64, epoch: u64) -> Result<Result<Collector, Reply>, KvError> {
    let known = collector(kv)?;
    let lives = sessions::session(kv, session)?.is_some_and(|session| session.is_live());
    Ok(if known.holder != session || known.epoch != epoch {
        Err(Reply::Collector(CollectorReply::Held { holder: known.holder }))
    } else if !lives {
        Err(Reply::Refused(Refusal::SessionEnded(session)))
    } else {
        Ok(known)
    })
}

fn allow(
    tx: &mut Transaction<'_>,
    session: u64,
    epoch: u64,
    terms: &Terms,
    objects: &[ObjectName],
) -> Result<Reply, KvError> {
    if objects.len() > MAX_OBJECTS {
        let message = format!("{} objects at once, allowed are {MAX_OBJECTS}", objects.len());
        return Ok(Reply::Refused(Refusal::Limit(message)));
    }
    let mut known = match granted(tx, session, epoch)? {
        Ok(known) => known,
        Err(reply) => return Ok(reply),
    };
    if known.paused {
        return Ok(Reply::Collector(CollectorReply::Paused));
    }
    known.renewed_ms = terms.now_ms;
    typed::put(tx, collector_key(), &known);
    let mut verdicts = Vec::with_capacity(objects.len());
    for name in objects {
        let verdict = judge(tx, terms, name)?;
        if verdict == Verdict::Unreachable {
            // Should its DELETE fail, the next sweep finds it as one that was
            // never in the index: unreachable all the same.
            tx.delete(unindexed_key(name.session, name.sequence));
        }
        verdicts.push(verdict);
    }
    Ok(Reply::Collector(CollectorReply::Allowed(verdicts)))
}

fn note(
    tx: &mut Transaction<'_>,
    now_ms: u64,
    session: u64,
    epoch: u64,
    report: &SweepReport,
) -> Result<Reply, KvError> {
    let known = match granted(tx, session, epoch)? {
        Ok(known) => known,
        Err(reply) => return Ok(reply),
    };
    if report.last_error.len() > MAX_ERROR_BYTES {
        let message = format!("an error of more than {MAX_ERROR_BYTES} bytes");
        return Ok(Reply::Refused(Refusal::Limit(message)));
    }
    typed::put(tx, collector_key(), &Collector { renewed_ms: now_ms, ..known });
    typed::put(tx, sweep_key(), &SweepReport { finished_ms: now_ms, ..report.clone() });
    Ok(Reply::Collector(CollectorReply::Done))
}

fn hold(tx: &mut Transaction<'_>, now_ms: u64) -> Result<Reply, KvError> {
    let mut known = collector(tx)?;
    known.holds.retain(|hold| hold.until_ms > now_ms);
    let new = Hold { index: tx.index(), until_ms: now_ms.saturating_add(HOLD_MS) };
    let full = known.holds.len() >= MAX_HOLDS;
    match known.holds.last_mut().filter(|_| full) {
        // The older index keeps more.
        Some(last) => last.until_ms = new.until_ms,
        None => known.holds.push(new),
    }
    typed::put(tx, collector_key(), &known);
    Ok(Reply::Collector(CollectorReply::Done))
}

fn confirm(tx: &mut Transaction<'_>, generation: GenerationKey) -> Result<Reply, KvError> {
    let own = cluster::cluster(tx)?.map(|cluster| cluster.generation);
    if own != Some(generation) {
        let message = format!("generation {} is not the cluster's", generation.counter);
        return Ok(Reply::Refused(Refusal::Invalid(message)));
    }
    let known = collector(tx)?;
    typed::put(tx, collector_key(), &Collector { confirmed: own, ..known });
    Ok(Reply::Collector(CollectorReply::Done))
}
