//! The state machine: plain data and pure functions over an ordered key-value
//! transaction. It imports neither tokio nor RocksDB nor openraft.
//!
//! [`apply`] is the only way in for changes; the public functions of the
//! domains read. Keys and values are listed in [`keys`].

pub mod assignors;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod controllers;
mod dedup;
pub mod features;
pub mod groups;
pub mod keys;
pub mod kv;
pub mod leases;
pub mod names;
pub mod offsets;
pub mod partitions;
pub mod producers;
pub mod reply;
pub mod requests;
pub mod restore;
pub mod segments;
pub mod sequences;
pub mod sessions;
pub mod topics;
mod typed;
pub mod work;

use command::{Command, CommandBody};
use kv::{KvError, Transaction};
use reply::{Effect, Refusal, Reply};
use streamhouse_host::planted::{Mistake, is_planted};

/// Most leases moved, slices committed or offsets set by one entry.
pub const MAX_BATCH: usize = 4_096;

/// Applies one committed command at `index` of the log.
///
/// PURE: reads nothing but the arguments. Refusals are replies; an error is a
/// store that cannot be read, and fatal.
pub fn apply(
    tx: &mut Transaction<'_>,
    index: u64,
    command: &Command,
) -> Result<(Reply, Vec<Effect>), KvError> {
    tx.begin_entry(index);
    let now_ms = cluster::advance(tx, command.time_ms)?;
    // Not remembered for RETRY: the same request may succeed once it is over.
    if restore::holds_up(tx, &command.body)? {
        return Ok((Reply::Refused(Refusal::Restoring), Vec::new()));
    }
    let Some(request) = &command.request else {
        return execute(tx, index, now_ms, command);
    };
    // RETRY: what was applied before is answered as it was then.
    let answered = requests::answered(tx, request)?;
    if let Some(reply) = answered.filter(|_| !is_planted(Mistake::RetryNotRemembered)) {
        return Ok((reply, Vec::new()));
    }
    let (reply, effects) = execute(tx, index, now_ms, command)?;
    requests::remember(tx, request, now_ms, &reply)?;
    Ok((reply, effects))
}

fn execute(
    tx: &mut Transaction<'_>,
    index: u64,
    now_ms: u64,
    command: &Command,
) -> Result<(Reply, Vec<Effect>), KvError> {
    match &command.body {
        CommandBody::InitCluster { cluster, generation } => {
            cluster::init(tx, *cluster, *generation)
        }
        CommandBody::CreateTopic { topic, name, partitions, config } => {
            topics::create(tx, now_ms, *topic, name, *partitions, config)
        }
        CommandBody::DeleteTopic { name } => topics::delete(tx, name),
        CommandBody::RegisterSession(new) => sessions::register(tx, index, now_ms, new),
        CommandBody::EndSession { session } => sessions::end(tx, *session, now_ms),
        CommandBody::DrainSession { session } => sessions::drain(tx, *session, now_ms),
        CommandBody::ReleaseLeases { session, leases } => {
            if leases.len() > MAX_BATCH {
                let message = format!("{} leases, allowed are {MAX_BATCH}", leases.len());
                return Ok((Reply::Refused(Refusal::Limit(message)), Vec::new()));
            }
            leases::release(tx, *session, leases)
        }
        CommandBody::CommitObjects { session, objects, instance } => {
            segments::commit(tx, now_ms, *session, instance, objects)
        }
        CommandBody::CommitOffsets { group, offsets } => {
            let reply = offsets::commit(tx, now_ms, command.request, group, None, offsets)?;
            let effects = offsets::refusals(group, offsets, &reply);
            Ok((reply, effects))
        }
        CommandBody::Continue => work::proceed(tx, now_ms),
        CommandBody::MarkDisks(marks) => controllers::mark_disks(tx, marks),
        CommandBody::ReserveControllers { upto } => controllers::reserve(tx, *upto),
        CommandBody::AllocateController { disk, above } => controllers::allocate(tx, disk, *above),
        CommandBody::BeginRestore(start) => restore::begin(tx, start),
        CommandBody::RestorePairs { restore, part, pairs } => {
            restore::pairs(tx, *restore, *part, pairs)
        }
        CommandBody::RestoreSlices { restore, objects } => restore::slices(tx, *restore, objects),
        CommandBody::EndRestore { restore, parts } => restore::end(tx, *restore, *parts),
        CommandBody::RaiseFeatureLevel { level } => features::raise(tx, *level),
        CommandBody::InitProducer(request) => producers::init(tx, now_ms, request),
        CommandBody::JoinGroup(join) => groups::join(tx, index, now_ms, join),
        CommandBody::LeaveGroup { group, members, expired } => {
            groups::leave(tx, now_ms, group, members, *expired)
        }
        CommandBody::ReleasePartitions { group, member, partitions } => {
            groups::release(tx, group, member, partitions)
        }
        CommandBody::CommitMemberOffsets { group, member, epoch, offsets } => {
            let member = Some((member, *epoch));
            let reply = offsets::commit(tx, now_ms, command.request, group, member, offsets)?;
            let effects = offsets::refusals(group, offsets, &reply);
            Ok((reply, effects))
        }
        CommandBody::DeleteGroup { group } => groups::delete(tx, group),
        CommandBody::ExpireGroups { groups, idle_before_ms } => {
            groups::expire(tx, groups, *idle_before_ms)
        }
        CommandBody::Collect(step) => collector::step(tx, now_ms, step),
    }
}
