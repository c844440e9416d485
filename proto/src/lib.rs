//! The gRPC contracts of StreamHouse and the code generated from them, plus
//! the one place where an [`ErrorCode`](v1::ErrorCode) becomes a gRPC status
//! and back. Every message is bounded: see [`MAX_MESSAGE_BYTES`].

mod bounded;
mod status;

pub use bounded::{BoundedCodec, BoundedDecoder, MAX_MESSAGE_BATCHES};
pub use status::{Advice, advice, from_status, to_status};

/// Upper bound of one gRPC message, either way: a 16 MiB record batch and its
/// envelope, with room. Larger ones are refused by the receiver.
pub const MAX_MESSAGE_BYTES: usize = 20 << 20;

/// Version 1 of the contracts.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
pub mod v1 {
    tonic::include_proto!("streamhouse.v1");
}
