//! Ids of mutating calls.

use std::sync::atomic::{AtomicU64, Ordering};

use streamhouse_proto::v1::RequestId;

use crate::clock;

/// Numbers the mutating calls of one client object.
///
/// RETRY: every try of one call carries the same id, so the controllers apply it once and answer it alike.
#[derive(Debug)]
pub(crate) struct Requester {
    id: [u8; 16],
    last: AtomicU64,
}

impl Requester {
    pub(crate) fn new() -> Self {
        Self { id: clock::random_id(), last: AtomicU64::new(0) }
    }

    /// The id of the next call; numbers count up from 1.
    pub(crate) fn next(&self) -> RequestId {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        RequestId { requester: self.id.to_vec(), number }
    }
}
