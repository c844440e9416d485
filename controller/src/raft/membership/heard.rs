//! Which voters answer the leader, and whether they are enough.

use super::{MembershipError, RECENT};
use crate::raft::types::TypeConfig;
use openraft::{Instant as _, RaftMetrics};
use std::time::Duration;

/// Whether a voter has answered the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::raft) enum Heard {
    Lately,
    NotLately,
    /// Not since it leads.
    NotYet,
}

/// Lately: within so long.
pub(super) fn heard(metrics: &RaftMetrics<TypeConfig>, id: u64, lately: Duration) -> Heard {
    if id == metrics.id {
        return Heard::Lately;
    }
    let acked = metrics.heartbeat.as_ref().and_then(|acked| acked.get(&id).copied().flatten());
    match acked {
        Some(at) if at.elapsed() < lately => Heard::Lately,
        Some(_) => Heard::NotLately,
        None => Heard::NotYet,
    }
}

/// Whether it has answered the leader lately.
pub(in crate::raft) fn answers(metrics: &RaftMetrics<TypeConfig>, id: u64) -> bool {
    heard(metrics, id, RECENT) == Heard::Lately
}

fn alive(voters: &[Heard]) -> usize {
    voters.iter().filter(|heard| **heard == Heard::Lately).count()
}

pub(super) fn is_majority(voters: &[Heard]) -> bool {
    alive(voters) * 2 > voters.len()
}

/// Whether the voters that are `left` without `id` can go on. A `young` leader
/// may not have heard of all of them yet.
pub(in crate::raft) fn without(
    id: u64,
    left: &[Heard],
    young: bool,
) -> Result<(), MembershipError> {
    if is_majority(left) {
        return Ok(());
    }
    let alive = alive(left);
    match young && left.contains(&Heard::NotYet) {
        true => Err(MembershipError::Busy),
        false => Err(MembershipError::NoMajority { id, alive, voters: left.len() }),
    }
}
