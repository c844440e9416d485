//! How one try of a batch ended, and what follows from it. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::errors::{Code, Refusal};

/// How one try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Written: the offset of its first record, and the index of the commit.
    Placed { base_offset: u64, applied: u64 },
    /// The agent said no, and perhaps where to go instead.
    Refused { refusal: Refusal, address: Option<String> },
    /// The stream broke before the answer.
    Lost(Arc<str>),
    /// It was never sent.
    NotSent(Arc<str>),
    /// No answer in time.
    Silent(Duration),
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Placed {
        base_offset: u64,
        applied: u64,
    },
    /// Send it again.
    Retry(Failure),
    /// The agent does not know the topic: true, or the agent is behind. The controllers know.
    Doubt(Failure),
    /// No retry can help.
    Fail(Refusal),
}

/// A failure that a retry may mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    /// The batch may have been written.
    pub(super) ambiguous: bool,
    /// The agent that holds the lease, if the refusal named it.
    pub(super) redirect: Option<Arc<str>>,
}

/// A producer retries more than the contract's general advice says. A batch whose outcome is unknown goes out again, at
/// the price of a possible duplicate; an agent whose session has ended is no longer the one to talk to.
pub(super) fn judge(outcome: Outcome) -> Verdict {
    let again = |reason, ambiguous| Verdict::Retry(Failure { reason, ambiguous, redirect: None });
    let (refusal, address) = match outcome {
        Outcome::Placed { base_offset, applied } => {
            return Verdict::Placed { base_offset, applied };
        }
        Outcome::Lost(reason) => return again(reason, true),
        Outcome::NotSent(reason) => return again(reason, false),
        Outcome::Silent(limit) => return again(format!("no answer within {limit:?}").into(), true),
        Outcome::Refused { refusal, address } => (refusal, address),
    };
    let failure = || Failure {
        reason: refusal.to_string().into(),
        ambiguous: refusal.code.may_have_taken_effect(),
        redirect: address.as_deref().map(Arc::from),
    };
    match refusal.code {
        Code::NotLeaseHolder
        | Code::TopicNotReady
        | Code::SessionEnded
        | Code::StaleCommit
        | Code::NoLeader
        | Code::Overloaded
        | Code::ShuttingDown
        | Code::Behind
        | Code::StoreUnavailable
        | Code::Restoring
        | Code::Upgrading
        | Code::OutcomeUnknown
        | Code::TimedOut
        | Code::ConnectionLost
        | Code::OutOfOrderSequence
        | Code::TooManyProducers => Verdict::Retry(failure()),
        Code::UnknownTopic | Code::UnknownPartition => Verdict::Doubt(failure()),
        Code::InvalidArgument
        | Code::TopicExists
        | Code::RecordTooLarge
        | Code::CorruptBatch
        | Code::OffsetOutOfRange
        | Code::StoreMismatch
        | Code::UnknownController
        | Code::Conflict
        | Code::Internal
        | Code::WrongCluster
        | Code::ProducerFenced
        | Code::UnknownProducer
        | Code::FencedMember
        | Code::StaleMember
        | Code::GroupNotEmpty
        | Code::UnknownGroup
        | Code::GroupBusy => Verdict::Fail(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, address: Option<&str>) -> Verdict {
        let refusal = Refusal { code, message: "no".to_owned() };
        judge(Outcome::Refused { refusal, address: address.map(str::to_owned) })
    }

    #[test]
    fn a_redirect_is_followed_and_is_not_ambiguous() {
        let Verdict::Retry(failure) = refused(Code::NotLeaseHolder, Some("b:2")) else { panic!() };
        assert_eq!((failure.redirect.as_deref(), failure.ambiguous), (Some("b:2"), false));
    }

    #[test]
    fn an_unknown_outcome_is_retried_and_counted_as_ambiguous() {
        for verdict in [
            refused(Code::OutcomeUnknown, None),
            judge(Outcome::Lost("reset".into())),
            judge(Outcome::Silent(Duration::from_secs(1))),
        ] {
            assert!(
                matches!(verdict, Verdict::Retry(Failure { ambiguous: true, .. })),
                "{verdict:?}"
            );
        }
        let unsent = judge(Outcome::NotSent("connection refused".into()));
        assert!(matches!(unsent, Verdict::Retry(Failure { ambiguous: false, .. })));
    }

    #[test]
    fn a_broken_batch_is_not_sent_again() {
        assert!(matches!(refused(Code::CorruptBatch, None), Verdict::Fail(_)));
        assert!(matches!(refused(Code::UnknownTopic, None), Verdict::Doubt(_)));
    }
}
