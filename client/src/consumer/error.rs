//! Why records could not be read, or offsets not be committed.

use std::sync::Arc;

use streamhouse_store::GetError;
use thiserror::Error;

use super::cache::CacheError;
use crate::errors::{CallError, ConfigError, Refusal};
use crate::types::TopicPartition;

/// Why a consumer's call failed. After an error of [`poll`](super::Consumer::poll) the consumer stands where it stood:
/// the next poll tries again.
#[derive(Clone, Debug, Error)]
pub enum ConsumeError {
    /// A builder option that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No topic of that name.
    #[error("unknown topic {topic}")]
    UnknownTopic {
        /// The topic's name.
        topic: Arc<str>,
    },
    /// The topic was deleted while it was read.
    #[error("topic {topic} was deleted")]
    TopicDeleted {
        /// The topic's name.
        topic: Arc<str>,
    },
    /// The topic has no such partition.
    #[error("topic {} has no partition {}, only 0 to {}", at.topic, at.partition, partitions - 1)]
    UnknownPartition {
        /// The partition asked for.
        at: TopicPartition,
        /// How many there are.
        partitions: u32,
    },
    /// The partition is not among those this consumer reads.
    #[error("{at} is not assigned to this consumer")]
    NotAssigned {
        /// The partition.
        at: TopicPartition,
    },
    /// The group has no offset for the partition, and the reset policy is `none`.
    #[error("{at} has no committed offset, and offset_reset is none")]
    NoOffset {
        /// The partition.
        at: TopicPartition,
    },
    /// The offset is no longer, or not yet, in the log. Of a position only where the reset policy is `none`.
    #[error(
        "offset {offset} of {at} is out of range: the log reaches from {log_start} to {high_watermark}"
    )]
    OffsetOutOfRange {
        /// The partition.
        at: TopicPartition,
        /// The consumer's position.
        offset: u64,
        /// The first offset that is kept.
        log_start: u64,
        /// One past the last offset.
        high_watermark: u64,
    },
    /// READ: what the index names is not in the store. An alarm: data was removed behind the cluster's back.
    #[error(
        "the index names object {object} for {at} from offset {offset}, which the store does not have"
    )]
    MissingObject {
        /// The partition.
        at: TopicPartition,
        /// The first offset of the range that is missing.
        offset: u64,
        /// The object's key.
        object: String,
    },
    /// READ: the bytes are not those that were written.
    #[error(
        "object {object}, bytes {start}..{end}, offsets {base_offset} to {last_offset} of {at}: {problem}"
    )]
    Corrupt {
        /// The partition.
        at: TopicPartition,
        /// The object's key.
        object: String,
        /// First byte of the slice in the object.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// First offset of the slice.
        base_offset: u64,
        /// Its last offset.
        last_offset: u64,
        /// What is wrong; a checksum with what was expected and what was found.
        problem: String,
    },
    /// DENSE: the index leaves offsets out.
    #[error("the index of {at} goes on at offset {found}, expected {expected}")]
    IndexGap {
        /// The partition.
        at: TopicPartition,
        /// The offset that should come next.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// The object store could not be read.
    #[error("reading bytes {start}..{end} of an object for {at}: {error}")]
    Store {
        /// The partition.
        at: TopicPartition,
        /// First byte wanted.
        start: u64,
        /// One past the last byte wanted.
        end: u64,
        /// What the store said; it names the object.
        error: GetError,
    },
    /// The object store could not be opened.
    #[error("the object store cannot be opened: {reason}")]
    StoreNotOpen {
        /// Why not.
        reason: String,
    },
    /// The cluster refused a look-up.
    #[error("looking up {at}: {refusal}")]
    LookUp {
        /// The partition.
        at: TopicPartition,
        /// Why.
        refusal: Refusal,
    },
    /// A call to the controllers did not succeed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Offsets can be committed only by a consumer with a `group_id`.
    #[error("this consumer has no group_id, so there is nothing to commit to")]
    NoGroup,
    /// The controllers did not take the commit.
    #[error("committing offsets of group {group}: {error}")]
    Commit {
        /// The group.
        group: Arc<str>,
        /// Why.
        error: CallError,
    },
    /// The controllers refused one partition's offset.
    #[error("committing offset of {at} for group {group}: {refusal}")]
    CommitRefused {
        /// The group.
        group: Arc<str>,
        /// The partition.
        at: TopicPartition,
        /// Why.
        refusal: Refusal,
    },
    /// Some offsets of the commit were taken, others not.
    #[error("{taken} offsets were committed, but not all: {error}")]
    CommittedInPart {
        /// How many were taken.
        taken: usize,
        /// Why others were not: the first reason there was.
        error: Box<ConsumeError>,
    },
    /// More commits wait for their turn than may.
    #[error("{limit} commits of group {group} are waiting already, no more may")]
    CommitsWaiting {
        /// The group.
        group: Arc<str>,
        /// How many may wait.
        limit: usize,
    },
    /// The consumer was asked for records before it was told of what.
    #[error("this consumer reads nothing: subscribe to topics or assign partitions first")]
    NotSubscribed,
    /// The segment cache could not be opened.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The consumer is no longer the member of the group as which it read what it wanted to commit: it was silent for its
    /// session timeout, or did not poll for the max poll interval. The next poll tells what was lost, and joins again.
    #[error("group {group}: {refusal}")]
    FencedMember {
        /// The group.
        group: Arc<str>,
        /// Why, in the cluster's words.
        refusal: Refusal,
    },
    /// Another consumer has joined the group as the same instance; this one reads nothing any more.
    #[error("another consumer has joined group {group} as instance {instance}")]
    ReplacedMember {
        /// The group.
        group: Arc<str>,
        /// The instance.
        instance: Arc<str>,
    },
    /// The consumer's own tasks have ended: a bug.
    #[error("the consumer's tasks have ended")]
    Ended,
}

impl ConsumeError {
    /// Can the same call succeed later?
    pub fn retryable(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::UnknownTopic { .. }
            | Self::TopicDeleted { .. }
            | Self::UnknownPartition { .. }
            | Self::NotAssigned { .. }
            | Self::NoOffset { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::MissingObject { .. }
            | Self::Corrupt { .. }
            | Self::IndexGap { .. }
            | Self::StoreNotOpen { .. }
            | Self::NoGroup
            | Self::NotSubscribed
            | Self::FencedMember { .. }
            | Self::ReplacedMember { .. }
            | Self::Cache(_)
            | Self::Ended => false,
            Self::CommitsWaiting { .. } => true,
            Self::CommittedInPart { error, .. } => error.retryable(),
            Self::Store { error, .. } => error.can_retry(),
            Self::LookUp { refusal, .. } | Self::CommitRefused { refusal, .. } => {
                refusal.code.retryable()
            }
            Self::Call(error) | Self::Commit { error, .. } => error.retryable(),
        }
    }

    /// May the call have taken effect although it is reported as failed? Only a commit may.
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::UnknownTopic { .. }
            | Self::TopicDeleted { .. }
            | Self::UnknownPartition { .. }
            | Self::NotAssigned { .. }
            | Self::NoOffset { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::MissingObject { .. }
            | Self::Corrupt { .. }
            | Self::IndexGap { .. }
            | Self::Store { .. }
            | Self::StoreNotOpen { .. }
            | Self::LookUp { .. }
            | Self::Call(_)
            | Self::NoGroup
            | Self::CommitsWaiting { .. }
            | Self::NotSubscribed
            | Self::FencedMember { .. }
            | Self::ReplacedMember { .. }
            | Self::Cache(_)
            | Self::Ended => false,
            Self::CommittedInPart { .. } => true,
            Self::Commit { error, .. } => error.may_have_taken_effect(),
            Self::CommitRefused { refusal, .. } => refusal.code.may_have_taken_effect(),
        }
    }
}
