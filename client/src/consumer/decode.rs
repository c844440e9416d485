//! From fetched bytes to records: checksum, decompression, and one walk over every record. Runs off the polling task.

use bytes::Bytes;
use streamhouse_segment::batch::{self, Limits};
use streamhouse_segment::object::verify_slice;

use super::error::ConsumeError;
use super::plan::Slice;
use crate::types::TopicPartition;

/// A batch ready to be handed out.
#[derive(Debug)]
pub(super) struct ReadyBatch {
    /// What is left of it; all records were found well-formed.
    pub(super) records: batch::Records,
    /// How many records are left.
    pub(super) count: usize,
    /// The offset after the batch.
    pub(super) next_offset: u64,
    /// How much memory it holds.
    pub(super) bytes: usize,
}

/// Decodes consecutive slices, from offset `from` on. READ: all of them hold, or none is handed out.
pub(super) fn decode(
    at: &TopicPartition,
    slices: &[(Slice, Bytes)],
    from: u64,
    limits: &Limits,
) -> Result<Vec<ReadyBatch>, ConsumeError> {
    let mut ready = Vec::new();
    for (slice, bytes) in slices {
        let corrupt = |problem: String| ConsumeError::Corrupt {
            at: at.clone(),
            object: slice.object.key(),
            start: slice.start,
            end: slice.end,
            base_offset: slice.base_offset,
            last_offset: slice.last_offset,
            problem,
        };
        verify_slice(bytes, slice.crc32c, slice.base_offset, slice.last_offset)
            .map_err(|error| corrupt(error.to_string()))?;
        for one in batch::split(bytes.clone()) {
            let one = one.map_err(|error| corrupt(error.to_string()))?;
            let batch =
                decode_batch(one, from, limits).map_err(|error| corrupt(error.to_string()))?;
            ready.extend(batch);
        }
    }
    Ok(ready)
}

fn decode_batch(
    bytes: Bytes,
    from: u64,
    limits: &Limits,
) -> Result<Option<ReadyBatch>, batch::BatchError> {
    let header = batch::BatchHeader::parse(&bytes)?;
    let last = header.last_offset().unsigned_abs();
    if last < from {
        return Ok(None);
    }
    let decoded = batch::decode(bytes, limits)?;
    let mut skip = 0;
    for record in decoded.record_refs() {
        if record?.offset.unsigned_abs() < from {
            skip += 1;
        }
    }
    let control = decoded.header.is_control();
    let count = if control { 0 } else { decoded.record_count() as usize - skip };
    let bytes = decoded.decompressed_bytes();
    let mut records = decoded.into_iter();
    if skip > 0 {
        records.nth(skip - 1);
    }
    Ok(Some(ReadyBatch { records, count, next_offset: last + 1, bytes }))
}
