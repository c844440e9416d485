//! What all parts of the client share about errors: the closed set of reasons a cluster gives, and what can go wrong
//! with a call to the controllers. The errors of each operation stand beside it and are made of these.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::convert;

/// Why the cluster refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The request itself is wrong.
    InvalidArgument,
    /// No topic of that name or id.
    UnknownTopic,
    /// The topic has no such partition.
    UnknownPartition,
    /// The name is taken.
    TopicExists,
    /// A record over the limit.
    RecordTooLarge,
    /// A batch whose checksum or structure is broken.
    CorruptBatch,
    /// No record was or will be kept at that offset.
    OffsetOutOfRange,
    /// An agent of the same cluster writes to another store.
    StoreMismatch,
    /// No controller of that number.
    UnknownController,
    /// The cluster is in a state that does not allow it.
    Conflict,
    /// Another agent holds the write lease.
    NotLeaseHolder,
    /// The topic is still being created.
    TopicNotReady,
    /// The agent's session has ended.
    SessionEnded,
    /// The lease moved while the write was under way.
    StaleCommit,
    /// The controllers have no leader just now.
    NoLeader,
    /// No room; try later.
    Overloaded,
    /// The process is about to stop.
    ShuttingDown,
    /// This controller has not yet applied what the caller has seen.
    Behind,
    /// The object store does not answer.
    StoreUnavailable,
    /// The cluster's metadata is being restored from a backup.
    Restoring,
    /// Some controller runs a release that cannot read what was asked for yet.
    Upgrading,
    /// It is no longer known whether an earlier attempt was applied.
    OutcomeUnknown,
    /// No answer in time.
    TimedOut,
    /// The connection broke before an answer came.
    ConnectionLost,
    /// A bug or a condition that the cluster has no name for.
    Internal,
    /// The peer belongs to another cluster.
    WrongCluster,
    /// The idempotent producer's epoch is over: another one took its place.
    ProducerFenced,
    /// The idempotent producer is not known, or no more.
    UnknownProducer,
    /// Not the idempotent producer's next batch of the partition.
    OutOfOrderSequence,
    /// The caller is no member of the consumer group, or no longer one.
    FencedMember,
    /// The group's member does not own the partition, or did not when it says.
    StaleMember,
    /// The consumer group has members: nobody else changes it.
    GroupNotEmpty,
    /// No consumer group of that name.
    UnknownGroup,
    /// The consumer group is being removed.
    GroupBusy,
    /// The partition remembers as many idempotent producers as it can.
    TooManyProducers,
}

impl Code {
    /// Can the same call succeed later?
    pub fn retryable(self) -> bool {
        convert::advice(self).retryable
    }

    /// May the call have taken effect although it is reported as failed?
    pub fn may_have_taken_effect(self) -> bool {
        convert::advice(self).indeterminate
    }
}

/// A "no" from the cluster, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub code: Code,
    /// One line that names the thing.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "refused: {:?}", self.code)
        } else {
            f.write_str(&self.message)
        }
    }
}

/// A call to the controllers that did not succeed. Retryable failures were retried until the operation's deadline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// No connection to any controller could be made.
    #[error("cannot reach any controller: tried {}; last: {last}", tried.join(", "))]
    Unreachable {
        /// Every address tried.
        tried: Vec<String>,
        /// What the last one said.
        last: String,
    },
    /// The controllers answered, with a refusal that no retry can help.
    #[error("{0}")]
    Refused(Refusal),
    /// Controllers were reached, but none gave an answer in time.
    #[error("{operation} got no answer within {after:?}: {last}")]
    TimedOut {
        /// What was asked.
        operation: &'static str,
        /// How long.
        after: Duration,
        /// What the last try said.
        last: String,
        /// One of the tries may have reached its goal.
        may_have_taken_effect: bool,
    },
}

impl CallError {
    /// Can the same call succeed later?
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Refused(refusal) => refusal.code.retryable(),
        }
    }

    /// May the call have taken effect although it is reported as failed?
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Unreachable { .. } => false,
            Self::Refused(refusal) => refusal.code.may_have_taken_effect(),
            Self::TimedOut { may_have_taken_effect, .. } => *may_have_taken_effect,
        }
    }

    /// The cluster's reason, if it gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Unreachable { .. } | Self::TimedOut { .. } => None,
        }
    }
}

/// A builder was given something that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{option}: {problem}")]
pub struct ConfigError {
    /// The builder's method.
    pub option: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(option: &'static str, problem: impl Into<String>) -> Self {
        Self { option, problem: problem.into() }
    }

    /// Refuses a value outside `range`.
    pub(crate) fn check<T: PartialOrd + fmt::Display>(
        option: &'static str,
        value: T,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<(), Self> {
        if range.contains(&value) {
            return Ok(());
        }
        let (least, most) = (range.start(), range.end());
        Err(Self::new(option, format!("{value} is not between {least} and {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_cluster_names_every_address_tried() {
        let error = CallError::Unreachable {
            tried: vec!["127.0.0.1:7601".into(), "127.0.0.1:7602".into()],
            last: "connection refused".into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot reach any controller: tried 127.0.0.1:7601, 127.0.0.1:7602; last: connection refused"
        );
        assert!(error.retryable() && !error.may_have_taken_effect());
    }

    #[test]
    fn a_refusal_speaks_in_the_cluster_s_words() {
        let refusal = |code| CallError::Refused(Refusal { code, message: "topic a exists".into() });
        assert_eq!(refusal(Code::TopicExists).to_string(), "topic a exists");
        assert!(!refusal(Code::TopicExists).retryable());
        assert!(refusal(Code::OutcomeUnknown).may_have_taken_effect());
        assert!(refusal(Code::ConnectionLost).retryable());
    }

    #[test]
    fn an_option_out_of_range_is_named_with_its_range() {
        let error = ConfigError::check("max_in_flight", 65, 1..=64).unwrap_err();
        assert_eq!(error.to_string(), "max_in_flight: 65 is not between 1 and 64");
    }
}
