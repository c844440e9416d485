//! Room that is kept for what is being proposed, and whether there is any left.

use super::{Gate, Limits, Shut};
use crate::state::kv::{KvError, KvRead};
use crate::state::{offsets, producers, sessions, topics};
use std::sync::Arc;

/// What is being proposed and does not show in the state yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coming {
    pub(super) topics: u64,
    pub(super) partitions: u64,
    pub(super) sessions: u64,
    pub(super) producers: u64,
    pub(super) groups: u64,
    /// Of all groups.
    pub(super) members: u64,
}

impl Coming {
    pub(super) fn add(&mut self, other: &Self) {
        self.topics += other.topics;
        self.partitions += other.partitions;
        self.sessions += other.sessions;
        self.producers += other.producers;
        self.groups += other.groups;
        self.members += other.members;
    }

    fn remove(&mut self, other: &Self) {
        self.topics -= other.topics;
        self.partitions -= other.partitions;
        self.sessions -= other.sessions;
        self.producers -= other.producers;
        self.groups -= other.groups;
        self.members -= other.members;
    }
}

/// Room that is kept for a command until it is applied.
#[derive(Debug)]
pub(crate) struct Room {
    gate: Arc<Gate>,
    taken: Coming,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut coming = self.gate.coming.lock();
        coming.remove(&self.taken);
    }
}

impl Room {
    pub(super) fn new(gate: &Arc<Gate>, taken: Coming) -> Self {
        Self { gate: Arc::clone(gate), taken }
    }
}

/// Whether there is room for what is `taken`, beside what is there and coming.
pub(super) fn fits(
    limits: &Limits,
    kv: &dyn KvRead,
    coming: &Coming,
    taken: &Coming,
) -> Result<Result<(), Shut>, KvError> {
    if taken.topics > 0 {
        let (there, more) = (topics::topic_count(kv)?, (coming.topics, taken.topics));
        if let Err(shut) = within("topics", "--max-topics", limits.topics, there, more) {
            return Ok(Err(shut));
        }
    }
    if taken.partitions > 0 {
        let (there, more) = (topics::partition_count(kv)?, (coming.partitions, taken.partitions));
        let limit = limits.partitions;
        if let Err(shut) = within("partitions", "--max-partitions", limit, there, more) {
            return Ok(Err(shut));
        }
    }
    if taken.groups > 0 {
        let (there, more) = (offsets::group_count(kv)?, (coming.groups, taken.groups));
        let limit = limits.groups;
        if let Err(shut) = within("consumer groups", "--max-groups", limit, there, more) {
            return Ok(Err(shut));
        }
    }
    if taken.sessions > 0 {
        let (there, more) = (sessions::live_count(kv)?, (coming.sessions, taken.sessions));
        let limit = limits.sessions;
        if let Err(shut) = within("agent sessions", "--max-sessions", limit, there, more) {
            return Ok(Err(shut));
        }
    }
    if taken.producers > 0 {
        let (there, more) = (producers::count(kv)?, (coming.producers, taken.producers));
        let limit = limits.producers;
        if let Err(shut) = within("producers", "--max-producers", limit, there, more) {
            return Ok(Err(shut));
        }
    }
    Ok(Ok(()))
}

pub(super) fn within(
    what: &str,
    flag: &str,
    limit: usize,
    there: u64,
    (coming, more): (u64, u64),
) -> Result<(), Shut> {
    let limit = limit as u64;
    let message = || {
        format!(
            "the cluster has {there} {what}, and {more} more would exceed its limit of {limit} ({flag})"
        )
    };
    if there.saturating_add(more) > limit {
        return Err(Shut::Limit(message()));
    }
    match there.saturating_add(coming).saturating_add(more) > limit {
        true => Err(Shut::Busy(format!("{}, as {coming} are being created", message()))),
        false => Ok(()),
    }
}
