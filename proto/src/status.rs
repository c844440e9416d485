//! `ErrorInfo` to gRPC status and back: the only such mapping.
//!
//! The whole `ErrorInfo` travels in the status details, so a client never
//! parses messages. A status without details (from a proxy, or from the
//! transport) maps to the nearest code.

use crate::v1::{ErrorCode, ErrorInfo};
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

/// The two questions that every error answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// The same call may succeed later, perhaps at another address.
    pub retryable: bool,
    /// The call may have taken effect although it is reported as failed.
    pub indeterminate: bool,
}

/// Can a retry help, and may it have taken effect?
pub fn advice(code: ErrorCode) -> Advice {
    let (retryable, indeterminate) = match code {
        ErrorCode::InvalidArgument
        | ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::TopicExists
        | ErrorCode::RecordTooLarge
        | ErrorCode::CorruptBatch
        | ErrorCode::OffsetOutOfRange
        | ErrorCode::StoreMismatch
        | ErrorCode::UnknownController
        | ErrorCode::Conflict
        | ErrorCode::WrongCluster
        | ErrorCode::SessionEnded
        | ErrorCode::ProducerFenced
        | ErrorCode::UnknownProducer
        | ErrorCode::FencedMember
        | ErrorCode::StaleMember
        | ErrorCode::GroupNotEmpty
        | ErrorCode::UnknownGroup => (false, false),
        ErrorCode::NotLeaseHolder
        | ErrorCode::TopicNotReady
        | ErrorCode::StaleCommit
        | ErrorCode::NoLeader
        | ErrorCode::Overloaded
        | ErrorCode::ShuttingDown
        | ErrorCode::Behind
        | ErrorCode::StoreUnavailable
        | ErrorCode::Restoring
        | ErrorCode::Upgrading
        | ErrorCode::OutOfOrderSequence
        | ErrorCode::GroupBusy
        | ErrorCode::TooManyProducers => (true, false),
        ErrorCode::TimedOut | ErrorCode::ConnectionLost => (true, true),
        ErrorCode::OutcomeUnknown | ErrorCode::Internal | ErrorCode::Unspecified => (false, true),
    };
    Advice { retryable, indeterminate }
}

fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::RecordTooLarge | ErrorCode::CorruptBatch => {
            Code::InvalidArgument
        }
        ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::UnknownController
        | ErrorCode::UnknownProducer
        | ErrorCode::UnknownGroup => Code::NotFound,
        ErrorCode::FencedMember | ErrorCode::StaleMember | ErrorCode::GroupNotEmpty => {
            Code::FailedPrecondition
        }
        ErrorCode::GroupBusy => Code::Unavailable,
        ErrorCode::TopicExists => Code::AlreadyExists,
        ErrorCode::OffsetOutOfRange => Code::OutOfRange,
        ErrorCode::StoreMismatch
        | ErrorCode::Conflict
        | ErrorCode::NotLeaseHolder
        | ErrorCode::TopicNotReady
        | ErrorCode::SessionEnded
        | ErrorCode::ProducerFenced => Code::FailedPrecondition,
        ErrorCode::StaleCommit | ErrorCode::OutOfOrderSequence => Code::Aborted,
        ErrorCode::NoLeader
        | ErrorCode::ShuttingDown
        | ErrorCode::Behind
        | ErrorCode::ConnectionLost
        | ErrorCode::StoreUnavailable
        | ErrorCode::Restoring
        | ErrorCode::Upgrading => Code::Unavailable,
        ErrorCode::Overloaded | ErrorCode::TooManyProducers => Code::ResourceExhausted,
        ErrorCode::TimedOut => Code::DeadlineExceeded,
        ErrorCode::WrongCluster => Code::PermissionDenied,
        ErrorCode::OutcomeUnknown => Code::Unknown,
        ErrorCode::Internal | ErrorCode::Unspecified => Code::Internal,
    }
}

/// The status that carries `info`.
pub fn to_status(info: ErrorInfo) -> Status {
    let code = grpc_code(info.code());
    let details = Bytes::from(info.encode_to_vec());
    Status::with_details(code, info.message, details)
}

/// The `ErrorInfo` inside `status`, or the nearest one for a status that
/// carries none.
pub fn from_status(status: &Status) -> ErrorInfo {
    if !status.details().is_empty()
        && let Ok(info) = ErrorInfo::decode(status.details())
    {
        return info;
    }
    let code = match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => ErrorCode::TimedOut,
        // The transport says so of a message that is too long.
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
        // The transport itself failed, perhaps after the peer had acted.
        _ => ErrorCode::ConnectionLost,
    };
    let message = match status.code() {
        // Of whoever answers HTTP, or gRPC but not this call; what the transport makes of it helps nobody.
        Code::Unimplemented => {
            "the peer does not know the call: it is another kind of process, or another version"
        }
        _ => status.message(),
    };
    ErrorInfo::new(code, message)
}

impl ErrorInfo {
    /// An error without an address.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), address: String::new() }
    }

    /// The same error, saying where to go instead.
    pub fn at(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_a_status() {
        let info = ErrorInfo::new(ErrorCode::NotLeaseHolder, "orders/3 moved").at("10.0.0.1:7");
        assert_eq!(from_status(&to_status(info.clone())), info);
    }

    #[test]
    fn a_peer_that_does_not_know_the_call_is_said_to_be_something_else() {
        let info = from_status(&Status::unimplemented(""));
        assert!(info.message.contains("another kind of process"), "{info:?}");
    }

    #[test]
    fn a_bare_transport_failure_may_have_taken_effect() {
        let info = from_status(&Status::unavailable("connection reset"));
        let expected = Advice { retryable: true, indeterminate: true };
        assert_eq!(advice(info.code()), expected);
    }
}
