//! Applying a group of committed entries, over whatever holds the state.

use super::fatal::{FatalReason, fatal};
use super::hash;
use super::meta::AppliedMeta;
use super::types::{Applied, EncodedCommand, Entry, StoredMembership};
use crate::codec;
use crate::state;
use crate::state::command::{Command, CommandBody};
use crate::state::kv::{KvError, KvRead, Transaction, Value};
use crate::state::reply::{Effect, Reply};
use openraft::EntryPayload;

/// What applying a group of entries led to.
pub(crate) struct Group {
    /// One per entry.
    pub(crate) applied: Vec<Applied>,
    /// In the order of the entries.
    pub(crate) effects: Vec<Effect>,
    /// The highest feature level that one of them raises to, 0 if none does.
    pub(crate) raises_to: u32,
}

/// Pairs to be written, `None` to be removed, in key order.
pub(crate) type Writes = Vec<(Vec<u8>, Option<Value>)>;

/// Applies `entries` over `base` and brings `applied` up to them; the writes
/// are the caller's to make, all or none. PURE: reads nothing else.
pub(crate) fn apply(
    base: &dyn KvRead,
    applied: &mut AppliedMeta,
    entries: &[Entry],
) -> Result<(Group, Writes), KvError> {
    let mut tx = Transaction::new(base);
    let applied_here = Vec::with_capacity(entries.len());
    let mut group = Group { applied: applied_here, effects: Vec::new(), raises_to: 0 };
    for entry in entries {
        let index = entry.log_id.index;
        let mut reply = Reply::Done;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(command) => {
                let command = decode(index, command);
                note_cluster(applied, &command);
                if let CommandBody::RaiseFeatureLevel { level } = &command.body {
                    group.raises_to = group.raises_to.max(*level);
                }
                let (answer, effects) = state::apply(&mut tx, index, &command)?;
                reply = answer;
                group.effects.extend(effects);
            }
            EntryPayload::Membership(members) => {
                let members = members.clone();
                applied.membership = StoredMembership::new(Some(entry.log_id), members);
            }
        }
        applied.last_applied = Some(entry.log_id);
        group.applied.push(Applied { index, reply });
    }
    let (hash, writes) = hash::after(applied.state_hash, base, tx.into_writes())?;
    applied.state_hash = hash;
    Ok((group, writes))
}

fn decode(index: u64, command: &EncodedCommand) -> Command {
    codec::decode(&command.0).unwrap_or_else(|error| {
        fatal(FatalReason::CommandUnreadable, format_args!("log entry {index}: {error}"))
    })
}

/// The same rule as the state machine's: the first id stays.
fn note_cluster(applied: &mut AppliedMeta, command: &Command) {
    if let CommandBody::InitCluster { cluster, .. } = &command.body {
        applied.cluster.get_or_insert(*cluster);
    }
}
