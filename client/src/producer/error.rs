//! Why records were not placed.

use std::sync::Arc;
use std::time::Duration;

use streamhouse_host::{Mistake, is_planted};
use thiserror::Error;

use crate::errors::{CallError, ConfigError, Refusal};

/// Why a record was not taken, or not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProduceError {
    /// A builder option that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No topic of that name, or it was deleted.
    #[error("unknown topic {topic}")]
    UnknownTopic {
        /// The topic's name.
        topic: Arc<str>,
    },
    /// The record names a partition that its topic does not have.
    #[error("topic {topic} has no partition {partition}, only 0 to {}", partitions - 1)]
    UnknownPartition {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The record fits into no batch. Nothing else is lost.
    #[error("record of {size} bytes for topic {topic} is over the limit of {limit}")]
    RecordTooLarge {
        /// The topic's name.
        topic: Arc<str>,
        /// The record's encoded size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// No room for the record: just now (`try_send`), or for as long as `max_block` allows (`send`).
    #[error("the buffer of {limit} bytes is full{}", waiting(*waited))]
    BufferFull {
        /// `buffer_memory`.
        limit: usize,
        /// How long the record waited for room: `max_block`, or nothing.
        waited: Duration,
    },
    /// The topic's partitions are not known: nothing was sent to it yet (`try_send`), or the controllers did not tell
    /// within `max_block` (`send`).
    #[error("the partitions of topic {topic} are not known yet")]
    TopicNotLoaded {
        /// The topic's name.
        topic: Arc<str>,
    },
    /// The controllers could not be asked about the topic.
    #[error("topic {topic}: {error}")]
    Metadata {
        /// The topic's name.
        topic: Arc<str>,
        /// What went wrong.
        error: CallError,
    },
    /// No acknowledgement within the delivery timeout, all tries together.
    #[error(
        "{topic}/{partition} not acknowledged within {after:?} ({attempts} tries); last: {last}"
    )]
    TimedOut {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The delivery timeout.
        after: Duration,
        /// How often the batch was sent.
        attempts: u32,
        /// How the last try failed.
        last: Arc<str>,
        /// One of the tries may have been written.
        may_have_taken_effect: bool,
    },
    /// The agent refused the batch for good.
    #[error("{topic}/{partition}: {refusal}")]
    Refused {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// Why.
        refusal: Refusal,
        /// This or an earlier try may have been written.
        may_have_taken_effect: bool,
    },
    /// The controllers could not be asked for a producer id.
    #[error("no producer id: {error}")]
    NoProducerId {
        /// What went wrong.
        error: CallError,
    },
    /// Another producer took this one's name, or the cluster has forgotten it: nothing more is written. Build a new
    /// producer.
    #[error("the producer is fenced: {reason}")]
    Fenced {
        /// In the cluster's words.
        reason: Arc<str>,
        /// The controllers could not say whether the record had been written before.
        may_have_taken_effect: bool,
    },
    /// The producer was closed or dropped.
    #[error("the producer is closed")]
    Closed {
        /// The record was on its way.
        may_have_taken_effect: bool,
    },
}

fn waiting(waited: Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" and was for {waited:?}") }
}

impl ProduceError {
    /// Can sending the record again help?
    pub fn retryable(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::RecordTooLarge { .. }
            | Self::Fenced { .. }
            | Self::Closed { .. } => false,
            Self::BufferFull { .. } | Self::TopicNotLoaded { .. } | Self::TimedOut { .. } => true,
            Self::Metadata { error, .. } | Self::NoProducerId { error } => error.retryable(),
            Self::Refused { refusal, .. } => refusal.code.retryable(),
        }
    }

    /// May the record be in the log although it is reported as failed?
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::UnknownTopic { .. }
            | Self::UnknownPartition { .. }
            | Self::RecordTooLarge { .. }
            | Self::BufferFull { .. }
            | Self::TopicNotLoaded { .. }
            | Self::NoProducerId { .. }
            | Self::Metadata { .. } => false,
            Self::TimedOut { may_have_taken_effect, .. }
            | Self::Refused { may_have_taken_effect, .. }
            | Self::Fenced { may_have_taken_effect, .. }
            | Self::Closed { may_have_taken_effect } => {
                *may_have_taken_effect && !is_planted(Mistake::DoubtTakenForFailure)
            }
        }
    }
}

/// Not every record was acknowledged; each one's reason is in its [`Delivery`](super::Delivery).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{failed} records were not acknowledged; first: {first}")]
pub struct FlushError {
    /// How many failed since the previous flush.
    pub failed: u64,
    /// Why the first of them failed.
    pub first: ProduceError,
}

impl FlushError {
    /// Can sending the failed records again help?
    pub fn retryable(&self) -> bool {
        self.first.retryable()
    }

    /// May a failed record be in the log?
    pub fn may_have_taken_effect(&self) -> bool {
        self.first.may_have_taken_effect()
    }
}
