//! Wire types to the client's own and back: the only such place.

use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::{self as proto, Advice};
use streamhouse_segment::ids::{ClusterId, Generation, SessionId, TopicId};
use uuid::Uuid;

use crate::errors::{CallError, Code, Refusal};
use crate::types::{
    AgentStatus, Cluster, ControllerAddress, ControllerStatus, PartitionDescription, Role, Topic,
    TopicDescription,
};

/// More than any topic has: BOUND on what an answer may make the client allocate.
const MAX_PARTITIONS: u32 = 10_000;

/// A refusal and where to go instead, if the peer knew.
pub(crate) fn refusal(info: v1::ErrorInfo) -> (Refusal, Option<String>) {
    let refusal = Refusal { code: code(info.code()), message: info.message };
    (refusal, some_text(info.address))
}

pub(crate) fn code(code: v1::ErrorCode) -> Code {
    match code {
        v1::ErrorCode::InvalidArgument => Code::InvalidArgument,
        v1::ErrorCode::UnknownTopic => Code::UnknownTopic,
        v1::ErrorCode::UnknownPartition => Code::UnknownPartition,
        v1::ErrorCode::TopicExists => Code::TopicExists,
        v1::ErrorCode::RecordTooLarge => Code::RecordTooLarge,
        v1::ErrorCode::CorruptBatch => Code::CorruptBatch,
        v1::ErrorCode::OffsetOutOfRange => Code::OffsetOutOfRange,
        v1::ErrorCode::StoreMismatch => Code::StoreMismatch,
        v1::ErrorCode::UnknownController => Code::UnknownController,
        v1::ErrorCode::Conflict => Code::Conflict,
        v1::ErrorCode::NotLeaseHolder => Code::NotLeaseHolder,
        v1::ErrorCode::TopicNotReady => Code::TopicNotReady,
        v1::ErrorCode::SessionEnded => Code::SessionEnded,
        v1::ErrorCode::StaleCommit => Code::StaleCommit,
        v1::ErrorCode::NoLeader => Code::NoLeader,
        v1::ErrorCode::Overloaded => Code::Overloaded,
        v1::ErrorCode::ShuttingDown => Code::ShuttingDown,
        v1::ErrorCode::Behind => Code::Behind,
        v1::ErrorCode::StoreUnavailable => Code::StoreUnavailable,
        v1::ErrorCode::Restoring => Code::Restoring,
        v1::ErrorCode::Upgrading => Code::Upgrading,
        v1::ErrorCode::OutcomeUnknown => Code::OutcomeUnknown,
        v1::ErrorCode::TimedOut => Code::TimedOut,
        v1::ErrorCode::ConnectionLost => Code::ConnectionLost,
        v1::ErrorCode::WrongCluster => Code::WrongCluster,
        v1::ErrorCode::ProducerFenced => Code::ProducerFenced,
        v1::ErrorCode::UnknownProducer => Code::UnknownProducer,
        v1::ErrorCode::OutOfOrderSequence => Code::OutOfOrderSequence,
        v1::ErrorCode::FencedMember => Code::FencedMember,
        v1::ErrorCode::StaleMember => Code::StaleMember,
        v1::ErrorCode::GroupNotEmpty => Code::GroupNotEmpty,
        v1::ErrorCode::UnknownGroup => Code::UnknownGroup,
        v1::ErrorCode::GroupBusy => Code::GroupBusy,
        v1::ErrorCode::TooManyProducers => Code::TooManyProducers,
        v1::ErrorCode::Internal | v1::ErrorCode::Unspecified => Code::Internal,
    }
}

/// What the contract says about a code.
pub(crate) fn advice(code: Code) -> Advice {
    proto::advice(match code {
        Code::InvalidArgument => v1::ErrorCode::InvalidArgument,
        Code::UnknownTopic => v1::ErrorCode::UnknownTopic,
        Code::UnknownPartition => v1::ErrorCode::UnknownPartition,
        Code::TopicExists => v1::ErrorCode::TopicExists,
        Code::RecordTooLarge => v1::ErrorCode::RecordTooLarge,
        Code::CorruptBatch => v1::ErrorCode::CorruptBatch,
        Code::OffsetOutOfRange => v1::ErrorCode::OffsetOutOfRange,
        Code::StoreMismatch => v1::ErrorCode::StoreMismatch,
        Code::UnknownController => v1::ErrorCode::UnknownController,
        Code::Conflict => v1::ErrorCode::Conflict,
        Code::NotLeaseHolder => v1::ErrorCode::NotLeaseHolder,
        Code::TopicNotReady => v1::ErrorCode::TopicNotReady,
        Code::SessionEnded => v1::ErrorCode::SessionEnded,
        Code::StaleCommit => v1::ErrorCode::StaleCommit,
        Code::NoLeader => v1::ErrorCode::NoLeader,
        Code::Overloaded => v1::ErrorCode::Overloaded,
        Code::ShuttingDown => v1::ErrorCode::ShuttingDown,
        Code::Behind => v1::ErrorCode::Behind,
        Code::StoreUnavailable => v1::ErrorCode::StoreUnavailable,
        Code::Restoring => v1::ErrorCode::Restoring,
        Code::Upgrading => v1::ErrorCode::Upgrading,
        Code::OutcomeUnknown => v1::ErrorCode::OutcomeUnknown,
        Code::TimedOut => v1::ErrorCode::TimedOut,
        Code::ConnectionLost => v1::ErrorCode::ConnectionLost,
        Code::Internal => v1::ErrorCode::Internal,
        Code::WrongCluster => v1::ErrorCode::WrongCluster,
        Code::ProducerFenced => v1::ErrorCode::ProducerFenced,
        Code::UnknownProducer => v1::ErrorCode::UnknownProducer,
        Code::OutOfOrderSequence => v1::ErrorCode::OutOfOrderSequence,
        Code::FencedMember => v1::ErrorCode::FencedMember,
        Code::StaleMember => v1::ErrorCode::StaleMember,
        Code::GroupNotEmpty => v1::ErrorCode::GroupNotEmpty,
        Code::UnknownGroup => v1::ErrorCode::UnknownGroup,
        Code::GroupBusy => v1::ErrorCode::GroupBusy,
        Code::TooManyProducers => v1::ErrorCode::TooManyProducers,
    })
}

/// The peer sent something that its own contract forbids.
pub(crate) fn malformed(what: &str) -> CallError {
    CallError::Refused(Refusal {
        code: Code::Internal,
        message: format!("the answer holds a malformed {what}"),
    })
}

pub(crate) fn topic_id(bytes: &[u8]) -> Result<TopicId, CallError> {
    bytes.try_into().map(TopicId::from_bytes).map_err(|_| malformed("topic id"))
}

pub(crate) fn generation(wire: Option<v1::Generation>) -> Result<Generation, CallError> {
    let wire = wire.ok_or_else(|| malformed("generation"))?;
    Ok(Generation { counter: wire.counter, random: wire.random })
}

pub(crate) fn topic_partition(topic: TopicId, partition: u32) -> v1::TopicPartition {
    v1::TopicPartition { topic_id: topic.to_bytes().to_vec(), partition }
}

pub(crate) fn cluster(wire: v1::GetClusterResponse) -> Result<Cluster, CallError> {
    let id = wire.cluster_id.as_slice().try_into().map_err(|_| malformed("cluster id"))?;
    Ok(Cluster {
        id: ClusterId::from_bytes(id),
        generation: generation(wire.generation)?,
        store_url: some_text(wire.store_url),
        controllers: wire.controllers.into_iter().map(controller_address).collect(),
        leader: (wire.leader_id != 0).then_some(wire.leader_id),
        topics: wire.topics,
        applied: wire.applied,
    })
}

fn controller_address(wire: v1::ControllerAddress) -> ControllerAddress {
    ControllerAddress { id: wire.id, address: wire.address, voter: wire.voter }
}

/// `asked` is where the controller was asked, which need not be what it says of itself.
pub(crate) fn controller(wire: v1::GetControllerResponse, asked: &str) -> ControllerStatus {
    ControllerStatus {
        id: wire.id,
        address: some_text(wire.address).unwrap_or_else(|| asked.to_owned()),
        role: match wire.role.as_str() {
            "leader" => Role::Leader,
            "candidate" => Role::Candidate,
            "learner" => Role::Learner,
            _ => Role::Follower,
        },
        pid: wire.pid,
        term: wire.term,
        applied: wire.applied,
        last_log: wire.last_log,
        snapshot: wire.snapshot,
        state_hash: wire.state_hash,
        committed: wire.committed,
        leader: (wire.leader_id != 0).then_some(wire.leader_id),
        disk: Uuid::from_slice(&wire.disk_id).map_or(String::new(), |id| id.to_string()),
        snapshot_age: (wire.snapshot != 0).then(|| Duration::from_millis(wire.snapshot_age_ms)),
        state_bytes: wire.state_bytes,
        log_syncs: wire.log_syncs,
        feature_level: wire.feature_level,
        reads_level: wire.reads_level,
        problem: None,
    }
}

pub(crate) fn agent(wire: v1::Agent) -> AgentStatus {
    AgentStatus {
        session: SessionId(wire.session),
        address: wire.address,
        pid: wire.pid,
        group: wire.group,
        zone: wire.zone,
        draining: wire.draining,
        leases: wire.leases,
    }
}

pub(crate) fn topic(wire: v1::TopicSummary) -> Result<Topic, CallError> {
    if !(1..=MAX_PARTITIONS).contains(&wire.partitions) {
        return Err(malformed("number of partitions"));
    }
    Ok(Topic {
        id: topic_id(&wire.topic_id)?,
        name: wire.name,
        partitions: wire.partitions,
        config: wire.config.into_iter().collect(),
    })
}

pub(crate) fn description(wire: v1::DescribeTopicResponse) -> Result<TopicDescription, CallError> {
    let topic = topic(wire.topic.ok_or_else(|| malformed("topic"))?)?;
    let mut partitions: Vec<_> = wire.partitions.into_iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.partition);
    Ok(TopicDescription { topic, partitions, applied: wire.applied })
}

fn partition(wire: v1::Partition) -> PartitionDescription {
    PartitionDescription {
        partition: wire.partition,
        holder: (wire.holder != 0).then_some(SessionId(wire.holder)),
        address: some_text(wire.address),
        lease_epoch: wire.lease_epoch,
        log_start: wire.log_start,
        high_watermark: wire.high_watermark,
        segments: wire.segments,
        bytes: wire.bytes,
        last_minute_records: wire.last_minute_records,
        last_minute_bytes: wire.last_minute_bytes,
    }
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_contract_keeps_its_advice() {
        for number in 0..200 {
            let Ok(wire) = v1::ErrorCode::try_from(number) else { continue };
            if wire == v1::ErrorCode::Unspecified {
                continue;
            }
            assert_eq!(advice(code(wire)), proto::advice(wire), "{wire:?}");
        }
    }

    #[test]
    fn a_topic_without_partitions_or_with_too_many_is_malformed() {
        let topic_of = |partitions| {
            let topic_id = vec![7; 16];
            topic(v1::TopicSummary { topic_id, partitions, ..Default::default() })
        };
        assert!(topic_of(0).is_err() && topic_of(u32::MAX).is_err());
        assert_eq!(topic_of(10_000).unwrap().partitions, 10_000);
    }

    #[test]
    fn an_id_of_the_wrong_length_is_no_topic_id() {
        assert!(topic_id(&[0; 15]).is_err());
        assert!(topic_id(&[7; 16]).is_ok());
    }

    #[test]
    fn a_redirect_keeps_its_address() {
        let info = v1::ErrorInfo::new(v1::ErrorCode::NotLeaseHolder, "moved").at("b:2");
        let (refusal, address) = refusal(info);
        assert_eq!((refusal.code, address.as_deref()), (Code::NotLeaseHolder, Some("b:2")));
    }
}
