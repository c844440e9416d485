//! Refusals and failures of this crate as the contracts' error codes: the
//! only place where they are mapped.

use crate::raft::{ProposeError, ReadError};
use crate::state::command::PartitionKey;
use crate::state::kv::KvError;
use crate::state::reply::{BatchFault, Refusal};
use crate::state::sequences::MAX_PARTITION_PRODUCERS;
use streamhouse_proto::to_status;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};
use tonic::Status;

/// A partition for a message.
pub(crate) fn show(partition: &PartitionKey) -> String {
    format!("{}/{}", uuid::Uuid::from_bytes(partition.topic), partition.partition)
}

pub(crate) fn refusal_info(refusal: &Refusal) -> ErrorInfo {
    let (code, message) = match refusal {
        Refusal::Invalid(message) => (ErrorCode::InvalidArgument, message.clone()),
        Refusal::Limit(message) => (ErrorCode::InvalidArgument, message.clone()),
        Refusal::UnknownTopic(name) => {
            (ErrorCode::UnknownTopic, format!("topic '{name}' does not exist"))
        }
        Refusal::UnknownPartition(partition) => {
            (ErrorCode::UnknownPartition, format!("partition {} does not exist", show(partition)))
        }
        Refusal::TopicExists(name) => {
            (ErrorCode::TopicExists, format!("topic '{name}' exists already"))
        }
        Refusal::SessionEnded(session) => {
            (ErrorCode::SessionEnded, format!("session {session} has ended"))
        }
        Refusal::OutcomeUnknown => {
            (ErrorCode::OutcomeUnknown, "the result of this request is no longer kept".to_owned())
        }
        Refusal::OutOfOrder { expected } => {
            (ErrorCode::StaleCommit, format!("the session's next object is {expected}"))
        }
        Refusal::NotHolder => {
            (ErrorCode::NotLeaseHolder, "another session holds the lease, or none".to_owned())
        }
        Refusal::Stale => (
            ErrorCode::StaleCommit,
            "written under an ended epoch, or not at the partition's next offset".to_owned(),
        ),
        Refusal::StoreMismatch { expected } => (
            ErrorCode::StoreMismatch,
            format!("the cluster keeps its data in {expected}, not in the store named"),
        ),
        Refusal::Restoring => (
            ErrorCode::Restoring,
            "the cluster is being restored from a backup; nothing else changes until that has ended"
                .to_owned(),
        ),
        Refusal::NotRestorable(message) => (ErrorCode::Conflict, message.clone()),
        Refusal::FencedMember(group) => (
            ErrorCode::FencedMember,
            format!("no such member of group '{group}', or no longer one: it was silent for its \
                     session timeout, has left, or its instance has joined again"),
        ),
        Refusal::StaleMember { epoch } => (
            ErrorCode::StaleMember,
            format!("the epoch named is not the member's; the group's is {epoch}"),
        ),
        Refusal::NotOwner(partition) => (
            ErrorCode::StaleMember,
            format!("the member does not own partition {}, or did not then", show(partition)),
        ),
        Refusal::GroupNotEmpty { group, members } => (
            ErrorCode::GroupNotEmpty,
            format!("group '{group}' has members ({members}): only they commit, and nobody else \
                     changes it"),
        ),
        Refusal::UnknownGroup(group) => {
            (ErrorCode::UnknownGroup, format!("group '{group}' does not exist"))
        }
        Refusal::GroupBusy(group) => {
            (ErrorCode::GroupBusy, format!("group '{group}' is being removed"))
        }
        Refusal::Superseded => (
            ErrorCode::InvalidArgument,
            "a later commit of the same consumer was applied before".to_owned(),
        ),
        Refusal::ProducerFenced { producer, current } => (
            ErrorCode::ProducerFenced,
            format!(
                "epoch {} of producer {} is over, its epoch is {current}",
                producer.epoch, producer.id
            ),
        ),
        Refusal::UnknownProducer(id) => (
            ErrorCode::UnknownProducer,
            format!("producer {id} is not known; one of which nothing is heard is forgotten"),
        ),
        Refusal::Batches(refused) => {
            let first = refused.first().map(|first| fault_info(first.fault).message);
            let message = format!(
                "{} of its batches cannot be written; the first: {}",
                refused.len(),
                first.unwrap_or_default()
            );
            (ErrorCode::StaleCommit, message)
        }
    };
    ErrorInfo::new(code, message)
}

/// What is wrong with a batch of an idempotent producer.
pub(crate) fn fault_info(fault: BatchFault) -> ErrorInfo {
    let (code, message) = match fault {
        // Success to its producer: told only in a log.
        BatchFault::Committed(_) => {
            (ErrorCode::OutOfOrderSequence, "it was committed before".to_owned())
        }
        BatchFault::Fenced { current } => (
            ErrorCode::ProducerFenced,
            format!("its producer's epoch is over, that is {current} now"),
        ),
        BatchFault::Unknown => {
            (ErrorCode::UnknownProducer, "its producer is not known, or no more".to_owned())
        }
        BatchFault::OutOfOrder { expected } => (
            ErrorCode::OutOfOrderSequence,
            format!("its producer's next sequence number is {expected}"),
        ),
        BatchFault::TooMany => (
            ErrorCode::TooManyProducers,
            format!("the partition remembers {MAX_PARTITION_PRODUCERS} producers already"),
        ),
    };
    ErrorInfo::new(code, message)
}

pub(crate) fn refused(refusal: &Refusal) -> Status {
    to_status(refusal_info(refusal))
}

pub(crate) fn propose_failed(error: &ProposeError) -> Status {
    let code = match error {
        ProposeError::NoLeader { .. } => ErrorCode::NoLeader,
        ProposeError::TooLarge { .. } => ErrorCode::InvalidArgument,
        ProposeError::Overloaded(_) => ErrorCode::Overloaded,
        ProposeError::FeatureLevel { .. } => ErrorCode::Upgrading,
        ProposeError::Indeterminate(_) => ErrorCode::TimedOut,
        ProposeError::ShuttingDown => ErrorCode::ShuttingDown,
    };
    to_status(ErrorInfo::new(code, error.to_string()))
}

pub(crate) fn read_failed(error: &ReadError) -> Status {
    let code = match error {
        ReadError::NoLeader(_) => ErrorCode::NoLeader,
        ReadError::Behind { .. } => ErrorCode::Behind,
        ReadError::ShuttingDown => ErrorCode::ShuttingDown,
    };
    to_status(ErrorInfo::new(code, error.to_string()))
}

/// A command was applied, but this controller cannot yet show it.
pub(crate) fn not_shown(error: &ReadError) -> Status {
    to_status(ErrorInfo::new(ErrorCode::TimedOut, format!("applied, but not here yet: {error}")))
}

pub(crate) fn store_failed(error: &KvError) -> Status {
    tracing::error!(%error, "the state could not be read");
    to_status(ErrorInfo::new(ErrorCode::Internal, error.to_string()))
}

pub(crate) fn invalid(message: impl Into<String>) -> Status {
    to_status(ErrorInfo::new(ErrorCode::InvalidArgument, message))
}

/// The state machine answered something else than this command's reply.
pub(crate) fn unexpected(what: &str) -> Status {
    to_status(ErrorInfo::new(ErrorCode::Internal, format!("unexpected reply to {what}")))
}
