//! Joining, leaving and removing consumer groups.

use super::Shared;
use crate::convert::{id16, partition_key, request_key};
use crate::errors::{invalid, propose_failed, refused, store_failed, unexpected};
use crate::raft::StateView;
use crate::state::assignors::Assignor;
use crate::state::command::{CommandBody, GroupJoin, TopicKey};
use crate::state::reply::{Refusal, Reply};
use crate::state::topics::{self, TopicStage};
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tonic::Status;

pub(super) async fn join(
    shared: &Shared,
    wire: v1::JoinGroupRequest,
) -> Result<v1::JoinGroupResponse, Status> {
    let request = request_key(wire.request)?;
    let topics: Vec<TopicKey> =
        wire.topic_ids.iter().map(|id| id16("topic id", id)).collect::<Result<_, _>>()?;
    if !all_ready(&shared.raft.view(), &topics)? {
        // This controller may be behind.
        let view = shared.view_at(0, true).await?;
        if !all_ready(&view, &topics)? {
            return Err(refused(&Refusal::UnknownTopic("of that id".to_owned())));
        }
    }
    let assignor = v1::GroupAssignor::try_from(wire.assignor);
    let assignor = assignor.map_err(|_| invalid("this assignor is unknown"))?;
    let body = CommandBody::JoinGroup(GroupJoin {
        group: wire.group,
        member: id16("member id", &wire.member_id)?,
        instance: (!wire.instance_id.is_empty()).then_some(wire.instance_id),
        client: wire.client_id,
        topics,
        assignor: assignor_of(assignor),
        session_timeout_ms: wire.session_timeout_ms,
        is_member: wire.is_member,
    });
    let proposed = shared.raft.propose(Some(request), body).await;
    match proposed.map_err(|e| propose_failed(&e))? {
        (applied, Reply::Member { epoch }) => {
            Ok(v1::JoinGroupResponse { member_epoch: epoch, applied })
        }
        (_, Reply::Refused(refusal)) => Err(refused(&refusal)),
        _ => Err(unexpected("join a group")),
    }
}

/// Whether all topics are there. The assignment leaves out those that are not
/// whole yet, so nobody joins for one before it is.
fn all_ready(view: &StateView, topics: &[TopicKey]) -> Result<bool, Status> {
    for id in topics {
        match topics::topic(view, id).map_err(|e| store_failed(&e))?.map(|topic| topic.stage) {
            // A topic that is being deleted is left out for good.
            Some(TopicStage::Ready | TopicStage::Deleting) => {}
            Some(TopicStage::Creating(_)) => {
                let info = ErrorInfo::new(ErrorCode::TopicNotReady, "a topic is being created");
                return Err(to_status(info));
            }
            None => return Ok(false),
        }
    }
    Ok(true)
}

fn assignor_of(wire: v1::GroupAssignor) -> Assignor {
    match wire {
        v1::GroupAssignor::Sticky => Assignor::Sticky,
        v1::GroupAssignor::Range => Assignor::Range,
        v1::GroupAssignor::RoundRobin => Assignor::RoundRobin,
    }
}

pub(super) async fn leave(
    shared: &Shared,
    wire: v1::LeaveGroupRequest,
) -> Result<v1::LeaveGroupResponse, Status> {
    let members = vec![id16("member id", &wire.member_id)?];
    let body = CommandBody::LeaveGroup { group: wire.group, members, expired: false };
    let applied = done(shared, wire.request, body).await?;
    Ok(v1::LeaveGroupResponse { applied })
}

pub(super) async fn release(
    shared: &Shared,
    wire: v1::ReleasePartitionsRequest,
) -> Result<v1::ReleasePartitionsResponse, Status> {
    let mut partitions = Vec::with_capacity(wire.partitions.len());
    for owned in wire.partitions {
        partitions.push((partition_key(owned.partition.as_ref())?, owned.granted_epoch));
    }
    let member = id16("member id", &wire.member_id)?;
    let body = CommandBody::ReleasePartitions { group: wire.group, member, partitions };
    let applied = done(shared, wire.request, body).await?;
    Ok(v1::ReleasePartitionsResponse { applied })
}

pub(super) async fn delete(
    shared: &Shared,
    wire: v1::DeleteGroupRequest,
) -> Result<v1::DeleteGroupResponse, Status> {
    let body = CommandBody::DeleteGroup { group: wire.group };
    let applied = done(shared, wire.request, body).await?;
    Ok(v1::DeleteGroupResponse { applied })
}

async fn done(
    shared: &Shared,
    request: Option<v1::RequestId>,
    body: CommandBody,
) -> Result<u64, Status> {
    let request = request_key(request)?;
    let proposed = shared.raft.propose(Some(request), body).await;
    match proposed.map_err(|e| propose_failed(&e))? {
        (index, Reply::Done) => Ok(index),
        (_, Reply::Refused(refusal)) => Err(refused(&refusal)),
        _ => Err(unexpected("a group's command")),
    }
}
