//! Restoring a backup, step by step, into an empty cluster.
//!
//! `BeginRestore`, the backup's pairs part by part, the slices that were
//! committed after the backup, `EndRestore`. In between nothing else changes
//! the state: no topic, no session, no offset. Every step may come again
//! (RETRY), and an interrupted restore is resumed by beginning it again with
//! the same backup.
//!
//! Topics, index, group offsets and what is remembered of requests and of
//! producers come from the backup; slices found since roll producers forward.
//! Members of groups do not: they join anew. Sessions do not: none of them is
//! served any more, and a commit
//! of one is answered *outcome unknown*, because the slices that the restore
//! found may be its. The controllers' own keys (numbers, disk marks) stay
//! those of this cluster, and so does the id by which its controllers know
//! each other (see docs/decisions).
//!
//! ```text
//! 06  Restoring
//! 07  u64, sessions up to this one are of an earlier generation
//! ```

use super::cluster::{self, Cluster};
use super::command::{CommandBody, GenerationKey, PartitionKey, RestoreStart, RestoredObject};
use super::keys::{Key, tag, trailing_id, trailing_partition};
use super::kv::{KvError, KvRead, Transaction};
use super::offsets::{CommittedOffset, Group};
use super::partitions::{self, Partition};
use super::producers::{Producer, ProducerIds};
use super::reply::{Effect, Refusal, Reply};
use super::requests::Requester;
use super::segments::{IndexEntry, ObjectRecord};
use super::sequences::Committed;
use super::sessions::Session;
use super::topics::{self, Topic};
use super::{MAX_BATCH, leases, offsets, producers, segments, typed, work};
use crate::codec;
use bincode::{Decode, Encode};

/// No session number or time comes near: what is added to it never overflows.
const HIGHEST: u64 = 1 << 62;

/// A restore that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Restoring {
    /// What it restores.
    pub start: RestoreStart,
    /// The part of the backup that comes next.
    pub next_part: u64,
    /// The highest session whose objects are in the index now.
    pub highest_session: u64,
}

fn restoring_key() -> Vec<u8> {
    Key::new(tag::RESTORING).done()
}

fn sessions_before_key() -> Vec<u8> {
    Key::new(tag::SESSIONS_BEFORE).done()
}

/// The restore that is under way.
pub fn restoring(kv: &dyn KvRead) -> Result<Option<Restoring>, KvError> {
    typed::get(kv, &restoring_key())
}

/// Sessions up to this one are of an earlier generation.
pub fn sessions_before(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &sessions_before_key())?.unwrap_or(0))
}

/// The ranges of keys that a backup holds, in order.
pub fn backed_up() -> [(Vec<u8>, Vec<u8>); 6] {
    let from = |first: u8, last: u8| (vec![first], vec![last + 1]);
    [
        from(tag::TOPIC_NAME, tag::OBJECT),
        from(tag::SESSION, tag::SESSION),
        from(tag::REQUEST, tag::REQUESTER_TIME),
        from(tag::WORK, tag::WORK),
        from(tag::GROUP, tag::OFFSET_TOPIC),
        from(tag::PRODUCER_IDS, tag::SEQUENCES_DUE),
    ]
}

/// A pair of a backup, as far as a restore looks into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupPair {
    /// A topic.
    Topic([u8; 16], Topic),
    /// A partition of it.
    Partition(PartitionKey, Partition),
    /// An index entry.
    Segment(PartitionKey, IndexEntry),
    /// An object in the index: session, sequence.
    Object(u64, u64, ObjectRecord),
    /// A session, for the restore to know what it had committed; not restored.
    Session(u64, Session),
    /// A consumer group; its members are not in the backup.
    Group(Group),
    /// Work that needs sessions; not restored.
    Moot,
    /// Anything else that is restored as it is.
    Other,
}

/// Takes a pair apart, or says why it cannot stand in a backup.
pub fn parse(key: &[u8], value: &[u8]) -> Result<BackupPair, String> {
    let malformed = || format!("malformed key {key:02x?}");
    let shape = |fits: bool| if fits { Ok(()) } else { Err(malformed()) };
    let empty = || shape(value.is_empty());
    let partition = || trailing_partition(key).ok_or_else(malformed);
    let u64_at = |at: usize| {
        let bytes = key.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or_else(malformed)
    };
    match *key.first().ok_or_else(malformed)? {
        tag::TOPIC_NAME => {
            shape(std::str::from_utf8(&key[1..]).is_ok_and(|name| !name.is_empty()))?;
            decode::<[u8; 16]>(key, value)?;
            Ok(BackupPair::Other)
        }
        tag::TOPIC => {
            shape(key.len() == 17)?;
            let id = trailing_id(key).ok_or_else(malformed)?;
            Ok(BackupPair::Topic(id, decode(key, value)?))
        }
        tag::PARTITION => {
            shape(key.len() == 21)?;
            Ok(BackupPair::Partition(partition()?, decode(key, value)?))
        }
        tag::SEGMENT => {
            shape(key.len() == 29)?;
            let partition = trailing_partition(&key[..21]).ok_or_else(malformed)?;
            Ok(BackupPair::Segment(partition, decode(key, value)?))
        }
        tag::OBJECT => {
            shape(key.len() == 17)?;
            Ok(BackupPair::Object(u64_at(1)?, u64_at(9)?, decode(key, value)?))
        }
        tag::SESSION => {
            shape(key.len() == 9)?;
            Ok(BackupPair::Session(u64_at(1)?, decode(key, value)?))
        }
        tag::REQUEST => {
            shape(key.len() == 25)?;
            decode::<Reply>(key, value).map(|_| BackupPair::Other)
        }
        tag::REQUESTER => {
            shape(key.len() == 17)?;
            decode::<Requester>(key, value).map(|_| BackupPair::Other)
        }
        tag::REQUESTER_TIME => {
            shape(key.len() == 25)?;
            empty().map(|()| BackupPair::Other)
        }
        tag::WORK if work::outlives_sessions(key) => empty().map(|()| BackupPair::Other),
        tag::WORK => empty().map(|()| BackupPair::Moot),
        tag::GROUP => {
            shape(key.len() > 1)?;
            Ok(BackupPair::Group(decode(key, value)?))
        }
        tag::OFFSET => {
            shape(key.len() > 22)?;
            decode::<CommittedOffset>(key, value).map(|_| BackupPair::Other)
        }
        tag::OFFSET_TOPIC => {
            shape(key.len() > 17)?;
            empty().map(|()| BackupPair::Other)
        }
        tag::PRODUCER_IDS => {
            shape(key.len() == 1)?;
            producers::check_ids(&decode::<ProducerIds>(key, value)?)?;
            Ok(BackupPair::Other)
        }
        tag::PRODUCER => {
            shape(key.len() == 9)?;
            decode::<Producer>(key, value).map(|_| BackupPair::Other)
        }
        tag::PRODUCER_NAME => {
            shape(key.len() > 1)?;
            decode::<u64>(key, value).map(|_| BackupPair::Other)
        }
        tag::PRODUCER_DUE => {
            shape(key.len() == 17)?;
            empty().map(|()| BackupPair::Other)
        }
        tag::PRODUCER_COUNT => {
            shape(key.len() == 1)?;
            decode::<u64>(key, value).map(|_| BackupPair::Other)
        }
        tag::SEQUENCES => {
            shape(key.len() == 29)?;
            decode::<Committed>(key, value).map(|_| BackupPair::Other)
        }
        tag::SEQUENCES_DUE => {
            shape(key.len() == 37)?;
            empty().map(|()| BackupPair::Other)
        }
        other => Err(format!("a backup holds no keys of kind {other:#04x}")),
    }
}

fn decode<T: Decode<()>>(key: &[u8], value: &[u8]) -> Result<T, String> {
    codec::decode(value).map_err(|error| format!("value at key {key:02x?}: {error}"))
}

/// Whether this command has to wait for the end of a restore.
pub(super) fn holds_up(kv: &dyn KvRead, body: &CommandBody) -> Result<bool, KvError> {
    match body {
        CommandBody::CreateTopic { .. }
        | CommandBody::DeleteTopic { .. }
        | CommandBody::RegisterSession(_)
        | CommandBody::InitProducer(_)
        | CommandBody::CommitOffsets { .. }
        | CommandBody::JoinGroup(_)
        | CommandBody::DeleteGroup { .. }
        | CommandBody::Collect(_) => Ok(restoring(kv)?.is_some()),
        // Without sessions these have nothing to change; commits are answered
        // *outcome unknown*, so the way of every commit is spared the look.
        CommandBody::EndSession { .. }
        | CommandBody::DrainSession { .. }
        | CommandBody::ReleaseLeases { .. }
        | CommandBody::CommitObjects { .. } => Ok(false),
        // Nor without members.
        CommandBody::LeaveGroup { .. }
        | CommandBody::ReleasePartitions { .. }
        | CommandBody::CommitMemberOffsets { .. } => Ok(false),
        // A group of the backup is as old as it was then.
        CommandBody::ExpireGroups { .. } => Ok(restoring(kv)?.is_some()),
        // Looks itself.
        CommandBody::Continue => Ok(false),
        // The controllers' own, and the restore's.
        CommandBody::InitCluster { .. }
        | CommandBody::MarkDisks(_)
        | CommandBody::AllocateController { .. }
        | CommandBody::ReserveControllers { .. }
        | CommandBody::RaiseFeatureLevel { .. }
        | CommandBody::BeginRestore(_)
        | CommandBody::RestorePairs { .. }
        | CommandBody::RestoreSlices { .. }
        | CommandBody::EndRestore { .. } => Ok(false),
    }
}

type Outcome = Result<(Reply, Vec<Effect>), KvError>;

fn refuse(refusal: Refusal) -> Outcome {
    Ok((Reply::Refused(refusal), Vec::new()))
}

fn not_restorable(message: impl Into<String>) -> Outcome {
    refuse(Refusal::NotRestorable(message.into()))
}

/// What makes a cluster a living one.
fn occupied_by(kv: &dyn KvRead) -> Result<Option<&'static str>, KvError> {
    for (what, first, last) in [
        ("topics", tag::TOPIC_COUNT, tag::OBJECT),
        ("agents, or had some", tag::SESSION, tag::RESULT),
        ("producers, or had some", tag::PRODUCER_IDS, tag::SEQUENCES_DUE),
        ("consumer groups", tag::GROUP, tag::GROUP_COUNT),
    ] {
        if !kv.scan(&[first], &[last + 1], 1)?.is_empty() {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

pub(super) fn begin(tx: &mut Transaction<'_>, start: &RestoreStart) -> Outcome {
    let Some(own) = cluster::cluster(tx)? else {
        return not_restorable("the cluster is not initialised yet");
    };
    if let Some(under_way) = restoring(tx)? {
        let generation = under_way.start.generation;
        if under_way.start != (RestoreStart { generation, ..start.clone() }) {
            let RestoreStart { backup_generation, backup_index, .. } = under_way.start;
            return not_restorable(format!(
                "another restore has begun here and not ended, of the backup of generation {} at \
                 index {backup_index}: run that one again",
                backup_generation.counter
            ));
        }
        let next_part = under_way.next_part;
        return Ok((Reply::Restoring { generation, next_part }, Vec::new()));
    }
    if let Some(what) = occupied_by(tx)? {
        return not_restorable(format!(
            "this cluster is not empty: it has {what}; a backup is restored into a new cluster, \
             before its agents are started"
        ));
    }
    if own.generation.counter > 1 {
        return not_restorable("this cluster was restored already");
    }
    // PURE: whatever the release of this controller reads.
    if start.feature_level > own.feature_level {
        return not_restorable(format!(
            "the backup is of a cluster of feature level {}, this one is at {}: it rises once all \
             controllers run a release that reads it",
            start.feature_level, own.feature_level
        ));
    }
    if start.generation.counter <= start.backup_generation.counter {
        return refuse(Refusal::Invalid(format!(
            "generation {} does not follow the backup's, {}",
            start.generation.counter, start.backup_generation.counter
        )));
    }
    if start.sessions_upto > HIGHEST || start.time_ms > HIGHEST {
        let message = "the backup's sessions or its time are beyond any that can be".to_owned();
        return refuse(Refusal::Invalid(message));
    }
    cluster::advance(tx, start.time_ms)?;
    let under_way =
        Restoring { start: start.clone(), next_part: 0, highest_session: start.sessions_upto };
    typed::put(tx, restoring_key(), &under_way);
    let generation = start.generation;
    Ok((Reply::Restoring { generation, next_part: 0 }, vec![Effect::Cluster]))
}

/// The restore that mints `generation`, if it is the one under way.
fn under_way(
    kv: &dyn KvRead,
    generation: GenerationKey,
) -> Result<Result<Restoring, Refusal>, KvError> {
    let found = restoring(kv)?.filter(|restoring| restoring.start.generation == generation);
    let none = "no such restore is under way; it was ended, or begun anew".to_owned();
    Ok(found.ok_or(Refusal::NotRestorable(none)))
}

pub(super) fn pairs(
    tx: &mut Transaction<'_>,
    generation: GenerationKey,
    part: u64,
    pairs: &[(Vec<u8>, Vec<u8>)],
) -> Outcome {
    let mut restoring = match under_way(tx, generation)? {
        Ok(restoring) => restoring,
        Err(refusal) => return refuse(refusal),
    };
    // RETRY: this part was applied before.
    if part < restoring.next_part {
        return Ok((Reply::Done, Vec::new()));
    }
    if part > restoring.next_part {
        return refuse(Refusal::OutOfOrder { expected: restoring.next_part });
    }
    // All of it is checked before any of it is written.
    let mut parsed = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        match parse(key, value) {
            Ok(pair) => parsed.push(pair),
            Err(problem) => return refuse(Refusal::Invalid(problem)),
        }
    }
    for ((key, value), pair) in pairs.iter().zip(parsed) {
        match pair {
            BackupPair::Session(..) | BackupPair::Moot => {}
            BackupPair::Topic(id, topic) => topics::restore(tx, &id, &topic)?,
            BackupPair::Partition(id, partition) => put_partition(tx, &id, partition)?,
            BackupPair::Group(group) => offsets::restore(tx, key, &group)?,
            BackupPair::Segment(..) | BackupPair::Object(..) | BackupPair::Other => {
                tx.put(key.clone(), value.clone());
            }
        }
    }
    restoring.next_part += 1;
    typed::put(tx, restoring_key(), &restoring);
    Ok((Reply::Done, Vec::new()))
}

/// FENCE: nobody holds a restored partition. Its epoch stays, so that the
/// next grant's is higher.
fn put_partition(
    tx: &mut Transaction<'_>,
    id: &PartitionKey,
    partition: Partition,
) -> Result<(), KvError> {
    let unassigned = Partition { holder: 0, revoke_deadline_ms: 0, ..partition };
    partitions::put(tx, id, &unassigned);
    // Topics come before their partitions in a backup, which is in key order.
    if let Some(topic) = topics::topic(tx, &id.topic)? {
        leases::wait(tx, topic.agent_group(), id);
    }
    Ok(())
}

pub(super) fn slices(
    tx: &mut Transaction<'_>,
    generation: GenerationKey,
    objects: &[RestoredObject],
) -> Outcome {
    let mut restoring = match under_way(tx, generation)? {
        Ok(restoring) => restoring,
        Err(refusal) => return refuse(refusal),
    };
    let count: usize = objects.iter().map(|object| object.slices.len()).sum();
    if count > MAX_BATCH {
        return refuse(Refusal::Limit(format!("{count} slices, allowed are {MAX_BATCH}")));
    }
    if objects.iter().any(|object| object.session > HIGHEST) {
        return refuse(Refusal::Invalid("an object is of a session that cannot be".into()));
    }
    let (mut refusals, mut effects) = (Vec::with_capacity(count), Vec::new());
    for object in objects {
        restoring.highest_session = restoring.highest_session.max(object.session);
        refusals.extend(segments::restore(tx, object, &mut effects)?);
    }
    typed::put(tx, restoring_key(), &restoring);
    Ok((Reply::Restored(refusals), effects))
}

pub(super) fn end(tx: &mut Transaction<'_>, generation: GenerationKey, parts: u64) -> Outcome {
    let restoring = match under_way(tx, generation)? {
        Ok(restoring) => restoring,
        // RETRY: it has ended.
        Err(_) if cluster::cluster(tx)?.is_some_and(|own| own.generation == generation) => {
            return Ok((Reply::Done, Vec::new()));
        }
        Err(refusal) => return refuse(refusal),
    };
    if parts != restoring.next_part {
        return refuse(Refusal::OutOfOrder { expected: restoring.next_part });
    }
    let RestoreStart { cluster, store_url, feature_level, .. } = restoring.start;
    // It never falls: what the log holds already is of this cluster's level.
    let reached = cluster::cluster(tx)?.map_or(feature_level, |own| own.feature_level);
    let feature_level = feature_level.max(reached);
    cluster::become_restored(tx, &Cluster { cluster, generation, store_url, feature_level });
    typed::put(tx, sessions_before_key(), &restoring.highest_session);
    producers::end_restore(tx)?;
    tx.delete(restoring_key());
    Ok((Reply::Done, vec![Effect::Cluster, Effect::WorkPending]))
}
