//! Topics: create, delete, list, describe.

use super::rates::{self, LastMinute};
use super::{Shared, address_of};
use crate::convert::{id16, partition_state, request_key, topic_wire};
use crate::errors::{not_shown, propose_failed, refused, store_failed, unexpected};
use crate::state::cluster;
use crate::state::command::{CommandBody, TopicKey};
use crate::state::names::shown;
use crate::state::partitions::{self, Partition};
use crate::state::reply::{Effect, Refusal, Reply};
use crate::state::topics::{self, Topic, TopicStage};
use std::collections::HashMap;
use std::time::Duration;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::describe_topic_request::Topic as Which;
use streamhouse_proto::v1::{self, ErrorCode, ErrorInfo};
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;

/// A topic with many partitions is made in chunks; the caller waits so long.
const CREATION: Duration = Duration::from_secs(10);
/// How long this controller may take to apply what was just committed.
const APPLY: Duration = Duration::from_secs(5);

pub(super) async fn create(
    shared: &Shared,
    wire: v1::CreateTopicRequest,
) -> Result<v1::CreateTopicResponse, Status> {
    let request = request_key(wire.request)?;
    let body = CommandBody::CreateTopic {
        topic: crate::entropy::id(),
        name: wire.name,
        partitions: wire.partitions,
        config: wire.config.into_iter().collect(),
    };
    let proposed = shared.raft.propose(Some(request), body).await;
    let (index, reply) = proposed.map_err(|e| propose_failed(&e))?;
    let id = match reply {
        Reply::Topic(id) => id,
        Reply::Refused(refusal) => return Err(refused(&refusal)),
        _ => return Err(unexpected("create topic")),
    };
    shared.raft.wait_applied(index, APPLY).await.map_err(|e| not_shown(&e))?;
    let ready = tokio::time::timeout(CREATION, ready(shared, &id)).await;
    ready.map_err(|_| {
        let message = format!("topic {} is still being created", uuid::Uuid::from_bytes(id));
        to_status(ErrorInfo::new(ErrorCode::TimedOut, message))
    })??;
    Ok(v1::CreateTopicResponse { topic_id: id.to_vec(), applied: shared.raft.view().applied() })
}

/// Waits until the topic is ready, or gone.
async fn ready(shared: &Shared, id: &TopicKey) -> Result<(), Status> {
    let mut changes = shared.hub.subscribe();
    loop {
        let topic = topics::topic(&shared.raft.view(), id).map_err(|e| store_failed(&e))?;
        if topic.is_none_or(|topic| !matches!(topic.stage, TopicStage::Creating(_))) {
            return Ok(());
        }
        loop {
            match changes.recv().await {
                Ok(batch) if batch.replaced => break,
                Ok(batch) if batch.effects.contains(&Effect::TopicReady(*id)) => break,
                Ok(batch) if batch.effects.contains(&Effect::TopicDeleted(*id)) => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }
}

pub(super) async fn delete(
    shared: &Shared,
    wire: v1::DeleteTopicRequest,
) -> Result<v1::DeleteTopicResponse, Status> {
    let request = request_key(wire.request)?;
    let body = CommandBody::DeleteTopic { name: wire.name };
    let proposed = shared.raft.propose(Some(request), body).await;
    let (index, reply) = proposed.map_err(|e| propose_failed(&e))?;
    match reply {
        Reply::Topic(id) => Ok(v1::DeleteTopicResponse { topic_id: id.to_vec(), applied: index }),
        Reply::Refused(refusal) => Err(refused(&refusal)),
        _ => Err(unexpected("delete topic")),
    }
}

pub(super) async fn list(
    shared: &Shared,
    wire: v1::ListTopicsRequest,
) -> Result<v1::ListTopicsResponse, Status> {
    let view = shared.view_at(0, wire.linearizable).await?;
    let found = topics::topics(&view).map_err(|e| store_failed(&e))?;
    let topics = found.iter().map(|(id, topic)| topic_wire(id, topic)).collect();
    Ok(v1::ListTopicsResponse { topics, applied: view.applied() })
}

fn find(view: &crate::raft::StateView, which: &Which) -> Result<Option<(TopicKey, Topic)>, Status> {
    let id = match which {
        Which::TopicId(id) => Some(id16("topic id", id)?),
        Which::Name(name) => topics::topic_id(view, name).map_err(|e| store_failed(&e))?,
    };
    let Some(id) = id else { return Ok(None) };
    let topic = topics::topic(view, &id).map_err(|e| store_failed(&e))?;
    Ok(topic.filter(|topic| topic.stage != TopicStage::Deleting).map(|topic| (id, topic)))
}

pub(super) async fn describe(
    shared: &Shared,
    wire: v1::DescribeTopicRequest,
) -> Result<v1::DescribeTopicResponse, Status> {
    let which = wire.topic.ok_or_else(|| crate::errors::invalid("no topic is named"))?;
    let view = shared.view_at(wire.min_applied, wire.linearizable).await?;
    let Some((id, topic)) = find(&view, &which)? else {
        let name = match which {
            Which::Name(name) => shown(&name),
            Which::TopicId(id) => uuid::Uuid::from_slice(&id).unwrap_or_default().to_string(),
        };
        return Err(refused(&Refusal::UnknownTopic(name)));
    };
    if matches!(topic.stage, TopicStage::Creating(_)) {
        let message = format!("topic '{}' is being created", topic.name);
        return Err(to_status(ErrorInfo::new(ErrorCode::TopicNotReady, message)));
    }
    let all = partitions::partitions(&view, &id, 0, usize::MAX).map_err(|e| store_failed(&e))?;
    let now_ms = cluster::time_ms(&view).map_err(|e| store_failed(&e))?.max(shared.clock.now_ms());
    let entries = rates::share(all.len());
    let mut addresses = HashMap::new();
    let mut described = Vec::with_capacity(all.len());
    for (key, partition) in all {
        let address = match addresses.get(&partition.holder) {
            Some(address) => String::clone(address),
            None => {
                let found = address_of(&view, partition.holder).map_err(|e| store_failed(&e))?;
                addresses.insert(partition.holder, found.clone());
                found
            }
        };
        let state = partition_state(&key, &partition, address);
        let rate = match wire.linearizable {
            true => rates::last_minute(&view, &key, &partition, now_ms, entries),
            false => Ok(LastMinute::default()),
        };
        let rate = rate.map_err(|e| store_failed(&e))?;
        described.push(describe_partition(state, &partition, rate));
    }
    Ok(v1::DescribeTopicResponse {
        topic: Some(topic_wire(&id, &topic)),
        partitions: described,
        applied: view.applied(),
    })
}

fn describe_partition(
    state: v1::PartitionState,
    partition: &Partition,
    rate: LastMinute,
) -> v1::Partition {
    v1::Partition {
        partition: state.partition.map_or(0, |p| p.partition),
        holder: state.holder,
        address: state.address,
        lease_epoch: state.lease_epoch,
        log_start: state.log_start,
        high_watermark: state.high_watermark,
        segments: partition.segments,
        bytes: partition.bytes,
        last_minute_records: rate.records,
        last_minute_bytes: rate.bytes,
    }
}
