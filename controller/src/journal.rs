//! What the cluster decided, one line of the log for each decision: leases that
//! moved, commits that were refused, sessions that came and went.
//!
//! Every controller applies the same decisions; the one that leads tells of
//! them. While the leader changes, an entry may be told of by the old and by
//! the new one: the index says that it is the same.

use crate::hub::{Changes, Hub};
use crate::metrics::Probes;
use crate::raft::{RaftNode, StateView};
use crate::service::address_of;
use crate::state::command::PartitionKey;
use crate::state::groups::MemberId;
use crate::state::kv::KvError;
use crate::state::names::shown;
use crate::state::reply::{Effect, LeaseChange, OwnerChange, Refusal};
use crate::state::topics;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Refused slices named in one line.
const NAMED: usize = 8;

/// Tells the log of one controller.
pub(crate) struct Journal {
    pub(crate) raft: RaftNode,
    pub(crate) hub: Arc<Hub>,
    pub(crate) probes: Probes,
    pub(crate) cancel: CancellationToken,
}

impl Journal {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let mut changes = self.hub.subscribe();
        loop {
            let change = tokio::select! {
                () = self.cancel.cancelled() => return,
                change = changes.recv() => change,
            };
            match change {
                Ok(batch) if self.raft.leads() => self.tell(&batch),
                Ok(_) => {}
                Err(RecvError::Lagged(batches)) if self.raft.leads() => {
                    tracing::warn!(batches, "more was decided than could be told of");
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn tell(&self, batch: &Changes) {
        let mut names = None;
        for effect in &batch.effects {
            match effect {
                Effect::Lease { partition, was, now, why } => {
                    if was == now {
                        // The holder stays: no move.
                        tracing::debug!(
                            ?partition,
                            holder = now,
                            reason = why.reason(),
                            "lease changed"
                        );
                        continue;
                    }
                    let names = names.get_or_insert_with(|| Names::new(&self.raft));
                    self.tell_move(batch.index, names, partition, (*was, *now), *why);
                }
                Effect::CommitRefused { session, sequence, slices, refused } => {
                    self.probes.commits_refused.increment(1);
                    let names = names.get_or_insert_with(|| Names::new(&self.raft));
                    let (index, count) = (batch.index, refused.len());
                    let reason = names.reasons(refused);
                    tracing::warn!(
                        index,
                        session,
                        sequence,
                        slices,
                        refused = count,
                        reason,
                        "commit refused"
                    );
                }
                Effect::OffsetsRefused { group, refused } => {
                    self.probes.commits_refused.increment(1);
                    let names = names.get_or_insert_with(|| Names::new(&self.raft));
                    let (index, count, group) = (batch.index, refused.len(), shown(group));
                    let reason = names.reasons(refused);
                    tracing::warn!(
                        index,
                        group,
                        refused = count,
                        reason,
                        "commit of offsets refused"
                    );
                }
                Effect::SessionOpened(session) => {
                    let names = names.get_or_insert_with(|| Names::new(&self.raft));
                    let address = names.address(*session);
                    tracing::info!(index = batch.index, session, address, "session opened");
                }
                Effect::SessionEnded(session) => {
                    tracing::info!(index = batch.index, session, "session ended");
                }
                Effect::MemberJoined { group, member, .. } => {
                    let (index, group, member) = (batch.index, shown(group), id_text(member));
                    tracing::info!(index, group, member, "member joined");
                }
                Effect::MemberLeft { group, member, why } => {
                    let (index, group, member) = (batch.index, shown(group), id_text(member));
                    tracing::info!(index, group, member, reason = why.reason(), "member left");
                }
                Effect::Assigned { group, epoch, owners, .. } => {
                    let names = names.get_or_insert_with(|| Names::new(&self.raft));
                    tell_owners(batch.index, names, (group, *epoch), owners);
                }
                Effect::GroupDeleted(group) => {
                    tracing::info!(index = batch.index, group = shown(group), "group removed");
                }
                Effect::Appended(..)
                | Effect::TopicReady(_)
                | Effect::TopicDeleted(_)
                | Effect::Cluster
                | Effect::WorkPending => {}
            }
        }
    }

    /// Partitions come and go with their topic, thousands at once: that is no
    /// move.
    fn tell_move(
        &self,
        index: u64,
        names: &mut Names,
        partition: &PartitionKey,
        (from, to): (u64, u64),
        why: LeaseChange,
    ) {
        let (reason, partition) = (why.reason(), names.partition(partition));
        if matches!(why, LeaseChange::Created | LeaseChange::Deleted) {
            tracing::debug!(index, partition, from, to, reason, "lease changed");
            return;
        }
        self.probes.lease_moves.increment(1);
        let address = names.address(to);
        tracing::info!(index, partition, from, to, address, reason, "lease moved");
    }
}

fn id_text(id: &MemberId) -> String {
    uuid::Uuid::from_bytes(*id).to_string()
}

/// One line for each partition: who reads what is the history of a group.
fn tell_owners(index: u64, names: &mut Names, (group, epoch): (&str, u32), owners: &[OwnerChange]) {
    let text = |id: &Option<MemberId>| id.as_ref().map_or(String::new(), id_text);
    for change in owners {
        let partition = names.partition(&change.partition);
        let (group, from, to) = (shown(group), text(&change.was), text(&change.now));
        let reason = change.why.reason();
        tracing::info!(index, group, epoch, partition, from, to, reason, "partition moved");
    }
}

/// What things are called, looked up once for each batch.
struct Names {
    /// Missing where the state cannot be read, which shows elsewhere.
    view: Option<StateView>,
    topics: HashMap<[u8; 16], String>,
    addresses: HashMap<u64, String>,
}

impl Names {
    fn new(raft: &RaftNode) -> Self {
        let view = raft.try_view().ok();
        Self { view, topics: HashMap::new(), addresses: HashMap::new() }
    }

    fn look<T: Default>(&self, find: impl FnOnce(&StateView) -> Result<T, KvError>) -> T {
        self.view.as_ref().and_then(|view| find(view).ok()).unwrap_or_default()
    }

    fn partition(&mut self, key: &PartitionKey) -> String {
        if !self.topics.contains_key(&key.topic) {
            let found = self.look(|view| topics::topic(view, &key.topic));
            let id = || uuid::Uuid::from_bytes(key.topic).to_string();
            self.topics.insert(key.topic, found.map_or_else(id, |topic| topic.name));
        }
        format!("{}/{}", self.topics[&key.topic], key.partition)
    }

    fn address(&mut self, session: u64) -> String {
        if let Some(known) = self.addresses.get(&session) {
            return known.clone();
        }
        let found = self.look(|view| address_of(view, session));
        self.addresses.insert(session, found.clone());
        found
    }

    fn reasons(&mut self, refused: &[(Option<PartitionKey>, Refusal)]) -> String {
        let mut reasons: Vec<String> = Vec::new();
        for (partition, refusal) in refused.iter().take(NAMED) {
            let why = crate::errors::refusal_info(refusal).message;
            reasons.push(match partition {
                Some(partition) => format!("{}: {why}", self.partition(partition)),
                None => why,
            });
        }
        if refused.len() > NAMED {
            reasons.push(format!("and {} more", refused.len() - NAMED));
        }
        reasons.join("; ")
    }
}
