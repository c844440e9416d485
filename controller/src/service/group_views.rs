//! What consumer groups look like from outside.

use super::Shared;
use crate::convert::partition_wire;
use crate::errors::{refused, store_failed};
use crate::state::assignors::Assignor;
use crate::state::command::PartitionKey;
use crate::state::groups::{self, GroupPartition, MemberId, Membership};
use crate::state::kv::{KvError, KvRead};
use crate::state::names::{check_group, shown};
use crate::state::offsets::{self, CommittedOffset};
use crate::state::reply::Refusal;
use crate::state::{partitions, topics};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use streamhouse_proto::v1;
use tonic::Status;

/// BOUND: groups of one answer.
const MAX_GROUPS: usize = 1_000;
/// BOUND: partitions looked at for one answer, those of its last group aside;
/// the answer is shorter then.
const MAX_LOOKS: usize = 20_000;
/// BOUND: bytes of offsets' metadata in one answer; what is beyond is left
/// out.
const MAX_METADATA: usize = 8 << 20;
/// BOUND: offsets of one answer.
const MAX_OFFSETS: usize = 50_000;

pub(super) async fn list(
    shared: &Shared,
    wire: v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, Status> {
    let view = shared.view_at(wire.min_applied, wire.linearizable).await?;
    let limit = match wire.limit as usize {
        0 => MAX_GROUPS,
        limit => limit.min(MAX_GROUPS),
    };
    let from = if wire.after.is_empty() { String::new() } else { format!("{}\0", wire.after) };
    let names = groups::names(&view, &from, limit + 1).map_err(|e| store_failed(&e))?;
    let (mut groups, mut looks) = (Vec::new(), 0);
    for name in &names {
        if groups.len() == limit || looks > MAX_LOOKS {
            break;
        }
        let (group, looked) = summary(&view, name).map_err(|e| store_failed(&e))?;
        groups.push(group);
        looks += looked;
    }
    let more = groups.len() < names.len();
    Ok(v1::ListGroupsResponse { groups, more, applied: view.applied() })
}

pub(super) async fn describe(
    shared: &Shared,
    wire: v1::DescribeGroupRequest,
) -> Result<v1::DescribeGroupResponse, Status> {
    check_group(&wire.group).map_err(|refusal| refused(&refusal))?;
    let view = shared.view_at(wire.min_applied, wire.linearizable).await?;
    let there = offsets::group(&view, &wire.group).map_err(|e| store_failed(&e))?;
    if there.is_none() {
        return Err(refused(&Refusal::UnknownGroup(shown(&wire.group))));
    }
    description(&view, view.applied(), &wire.group).map_err(|e| store_failed(&e))
}

fn description(
    view: &dyn KvRead,
    applied: u64,
    group: &str,
) -> Result<v1::DescribeGroupResponse, KvError> {
    let mut members = groups::members(view, group)?;
    members.sort_by_key(|(_, member)| member.joined);
    let known: BTreeSet<MemberId> = members.iter().map(|(id, _)| *id).collect();
    // BOUND: without what they subscribe to, which would be the same thousand
    // topics in each of thousands.
    let wire = members.into_iter().map(|(id, member)| v1::GroupMember {
        member_id: id.to_vec(),
        instance_id: member.instance.unwrap_or_default(),
        client_id: member.client,
        epoch: member.epoch,
        joined_ms: member.joined_ms,
        session_timeout_ms: member.session_timeout_ms,
        topic_ids: Vec::new(),
    });
    Ok(v1::DescribeGroupResponse {
        summary: Some(summary(view, group)?.0),
        members: wire.collect(),
        partitions: partition_states(view, group, &known)?,
        applied,
    })
}

/// Each partition that somebody owns or is to own, or that has an offset. Whoever is a member no more owns nothing,
/// whatever is recorded until the next assignment.
fn partition_states(
    view: &dyn KvRead,
    group: &str,
    members: &BTreeSet<MemberId>,
) -> Result<Vec<v1::GroupPartitionState>, KvError> {
    let mut all = BTreeMap::<PartitionKey, (GroupPartition, Option<CommittedOffset>)>::new();
    for (key, record) in groups::partitions(view, group)? {
        all.entry(key).or_default().0 = record;
    }
    for (key, offset) in offsets::all_committed(view, group, MAX_OFFSETS)? {
        all.entry(key).or_default().1 = Some(offset);
    }
    let (mut names, mut metadata) = (BTreeMap::new(), 0);
    let mut states = Vec::with_capacity(all.len());
    for (key, (record, committed)) in all {
        let Some(partition) = partitions::partition(view, &key)? else { continue };
        if let Entry::Vacant(entry) = names.entry(key.topic) {
            entry.insert(topics::topic(view, &key.topic)?.map(|topic| topic.name));
        }
        let mut state = v1::GroupPartitionState {
            partition: Some(partition_wire(&key)),
            topic: names[&key.topic].clone().unwrap_or_default(),
            owner: one_of(members, record.owner),
            target: one_of(members, record.target),
            granted_epoch: record.granted_epoch,
            log_start: partition.log_start,
            end: partition.next_offset,
            ..v1::GroupPartitionState::default()
        };
        if committed.is_none() && state.owner.is_empty() && state.target.is_empty() {
            continue;
        }
        if let Some(committed) = committed {
            state.committed = Some(committed.offset);
            state.commit_time_ms = committed.committed_ms;
            metadata += committed.metadata.len();
            if metadata <= MAX_METADATA {
                state.metadata = committed.metadata;
            }
        }
        states.push(state);
    }
    Ok(states)
}

fn one_of(members: &BTreeSet<MemberId>, id: Option<MemberId>) -> Vec<u8> {
    id.filter(|id| members.contains(id)).map_or(Vec::new(), |id| id.to_vec())
}

/// And how many partitions were looked at for it.
fn summary(view: &dyn KvRead, group: &str) -> Result<(v1::GroupSummary, usize), KvError> {
    let shared = groups::membership(view, group)?.unwrap_or_default();
    let assignor = match shared.assignor {
        Assignor::Sticky => v1::GroupAssignor::Sticky,
        Assignor::Range => v1::GroupAssignor::Range,
        Assignor::RoundRobin => v1::GroupAssignor::RoundRobin,
    };
    let (state, looked) = state(view, group, &shared)?;
    let summary = v1::GroupSummary {
        group: group.to_owned(),
        state: state.into(),
        members: shared.members,
        epoch: shared.epoch,
        assignor: assignor.into(),
    };
    Ok((summary, looked))
}

fn state(
    view: &dyn KvRead,
    group: &str,
    shared: &Membership,
) -> Result<(v1::GroupState, usize), KvError> {
    if shared.deleting {
        return Ok((v1::GroupState::Deleting, 0));
    }
    if shared.members == 0 {
        return Ok((v1::GroupState::Empty, 0));
    }
    if shared.assigned_epoch != shared.epoch {
        return Ok((v1::GroupState::Assigning, 0));
    }
    let partitions = groups::partitions(view, group)?;
    let stable = partitions.iter().all(|(_, record)| record.owner == record.target);
    let state = if stable { v1::GroupState::Stable } else { v1::GroupState::Reconciling };
    Ok((state, partitions.len()))
}

#[cfg(test)]
mod tests;
