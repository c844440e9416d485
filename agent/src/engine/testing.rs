//! Shorthands for this folder's tests.

use crate::partition::PartitionId;
use crate::ticket::{Pending, Ticket};
use bytes::Bytes;
use std::time::Instant;
use streamhouse_segment::TopicId;
use tokio::sync::mpsc;

pub(crate) fn partition(partition: u32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([9; 16]), partition }
}

/// A batch of `size` bytes and one record whose answer nobody reads.
pub(crate) fn pending(size: usize, arrived: Instant) -> Pending {
    let ticket = Ticket::new(mpsc::unbounded_channel().0, 0, None);
    Pending { batch: Bytes::from(vec![0; size]), records: 1, sequence: None, arrived, ticket }
}
