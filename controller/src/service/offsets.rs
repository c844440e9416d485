//! Consumer groups' offsets.

use super::Shared;
use crate::convert::{id16, partition_key, partition_wire, request_key};
use crate::errors::{invalid, propose_failed, refusal_info, refused, store_failed, unexpected};
use crate::state::command::{CommandBody, PartitionKey};
use crate::state::names::check_group;
use crate::state::offsets::{self, CommittedOffset};
use crate::state::reply::Reply;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::Status;

/// BOUND: offsets of one answer; with the largest metadata they fit a message.
const MAX_OFFSETS: usize = 4_096;

pub(super) async fn commit(
    shared: &Shared,
    wire: v1::CommitOffsetsRequest,
) -> Result<v1::CommitOffsetsResponse, Status> {
    let request = request_key(wire.request)?;
    let mut commits = Vec::with_capacity(wire.offsets.len());
    for commit in wire.offsets {
        commits.push((partition_key(commit.partition.as_ref())?, commit.offset, commit.metadata));
    }
    let body = if wire.member_id.is_empty() {
        CommandBody::CommitOffsets { group: wire.group, offsets: commits }
    } else {
        CommandBody::CommitMemberOffsets {
            group: wire.group,
            member: id16("member id", &wire.member_id)?,
            epoch: wire.member_epoch,
            offsets: commits,
        }
    };
    let proposed = shared.raft.propose(Some(request), body).await;
    let (applied, reply) = proposed.map_err(|e| propose_failed(&e))?;
    match reply {
        Reply::Offsets(results) => {
            let info = |refusal: Option<_>| match refusal {
                Some(refusal) => refusal_info(&refusal),
                None => ErrorInfo::new(ErrorCode::Unspecified, ""),
            };
            let results = results.into_iter().map(info).collect();
            Ok(v1::CommitOffsetsResponse { results, applied })
        }
        Reply::Refused(refusal) => Err(refused(&refusal)),
        _ => Err(unexpected("commit offsets")),
    }
}

pub(super) async fn fetch(
    shared: &Shared,
    wire: v1::FetchOffsetsRequest,
) -> Result<v1::FetchOffsetsResponse, Status> {
    check_group(&wire.group).map_err(|refusal| refused(&refusal))?;
    if wire.partitions.len() > MAX_OFFSETS {
        let count = wire.partitions.len();
        return Err(invalid(format!("{count} offsets in one call, allowed are {MAX_OFFSETS}")));
    }
    let view = shared.view_at(wire.min_applied, wire.linearizable).await?;
    let found = if wire.partitions.is_empty() {
        let all = offsets::all_committed(&view, &wire.group, MAX_OFFSETS + 1);
        let all = all.map_err(|e| store_failed(&e))?;
        if all.len() > MAX_OFFSETS {
            let limit = format!("more than {MAX_OFFSETS} offsets: ask for some of them");
            return Err(invalid(limit));
        }
        all
    } else {
        let mut found = Vec::new();
        for partition in &wire.partitions {
            let key = partition_key(Some(partition))?;
            let offset = offsets::committed(&view, &wire.group, &key);
            found.extend(offset.map_err(|e| store_failed(&e))?.map(|offset| (key, offset)));
        }
        found
    };
    let offsets = found.iter().map(|(key, offset)| offset_wire(key, offset)).collect();
    Ok(v1::FetchOffsetsResponse { offsets, applied: view.applied() })
}

fn offset_wire(key: &PartitionKey, committed: &CommittedOffset) -> v1::CommittedOffset {
    v1::CommittedOffset {
        partition: Some(partition_wire(key)),
        offset: committed.offset,
        metadata: committed.metadata.clone(),
        commit_time_ms: committed.committed_ms,
    }
}
