//! Removing groups that have no members: by an operator, or because nothing
//! has happened in them for long enough.

use super::{idle_since_ms, membership, membership_key, put_membership};
use crate::state::keys::{Key, tag};
use crate::state::kv::{KvError, KvRead, Transaction};
use crate::state::names::shown;
use crate::state::reply::{Effect, Refusal, Reply};
use crate::state::{MAX_BATCH, offsets, work};

/// Keys of groups removed by one entry.
const CHUNK: usize = 1_000;

type Outcome = Result<(Reply, Vec<Effect>), KvError>;

/// Removes a group and its offsets; continued by `Continue` where these are
/// many. Until it is gone nobody joins it or commits for it.
pub(in crate::state) fn delete(tx: &mut Transaction<'_>, group: &str) -> Outcome {
    let refuse = |refusal| Ok((Reply::Refused(refusal), Vec::new()));
    if offsets::group(tx, group)?.is_none() {
        return refuse(Refusal::UnknownGroup(shown(group)));
    }
    let members = membership(tx, group)?.map_or(0, |shared| shared.members);
    if members > 0 {
        return refuse(Refusal::GroupNotEmpty { group: shown(group), members });
    }
    let mut effects = Vec::new();
    begin(tx, group, &mut effects)?;
    delete_some(tx, group, CHUNK, &mut effects)?;
    Ok((Reply::Done, effects))
}

/// Removes those of the named groups in which nothing has happened since
/// `idle_before_ms`.
///
/// CLOCK: cluster time, of which the leader takes its setting off. Whether a
/// group is idle is decided here: it may have come to life since the leader
/// looked.
pub(in crate::state) fn expire(
    tx: &mut Transaction<'_>,
    groups: &[String],
    idle_before_ms: u64,
) -> Outcome {
    let mut effects = Vec::new();
    let mut budget = CHUNK;
    for group in groups.iter().take(MAX_BATCH) {
        if idle_since_ms(tx, group)?.is_none_or(|since| since >= idle_before_ms) {
            continue;
        }
        begin(tx, group, &mut effects)?;
        budget = delete_some(tx, group, budget, &mut effects)?;
    }
    Ok((Reply::Done, effects))
}

fn begin(tx: &mut Transaction<'_>, group: &str, effects: &mut Vec<Effect>) -> Result<(), KvError> {
    let mut shared = membership(tx, group)?.unwrap_or_default();
    shared.deleting = true;
    put_membership(tx, group, &shared);
    work::done(tx, work::Kind::AssignMembers, group.as_bytes());
    work::add(tx, work::Kind::DeleteGroup, group.as_bytes(), effects);
    Ok(())
}

/// Removes up to `limit` more keys of a group that is being removed, at the
/// end itself; tells how many more it might have.
pub(in crate::state) fn delete_some(
    tx: &mut Transaction<'_>,
    group: &str,
    limit: usize,
    effects: &mut Vec<Effect>,
) -> Result<usize, KvError> {
    if limit == 0 {
        return Ok(0);
    }
    let mut left = limit;
    // Of its last members' partitions some may not have been removed yet.
    for tag in [tag::GROUP_PARTITION, tag::OWNED] {
        let (start, end) = Key::new(tag).name(group).range();
        for (key, _) in tx.scan(&start, &end, left)? {
            tx.delete(key);
            left -= 1;
        }
    }
    left = offsets::delete_some(tx, group, left)?;
    if left == 0 {
        return Ok(0);
    }
    offsets::delete_group(tx, group)?;
    tx.delete(membership_key(group));
    work::done(tx, work::Kind::DeleteGroup, group.as_bytes());
    effects.push(Effect::GroupDeleted(group.to_owned()));
    Ok(left - 1)
}
