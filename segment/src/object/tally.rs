//! What a slice's batches add up to: kept by the builder as it appends, and again by whoever verifies an object.

use super::ObjectError;
use super::error::expect_equal;
use super::slice::{ProducerState, SliceFlags};
use crate::batch::BatchHeader;

/// The sums over the batches of one slice.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// The offset that the next batch must have.
    pub(super) next_offset: u64,
    pub(super) record_count: u32,
    pub(super) min_timestamp_ms: i64,
    pub(super) max_timestamp_ms: i64,
    pub(super) flags: SliceFlags,
    pub(super) producers: Vec<ProducerState>,
}

impl Tally {
    pub(super) fn new(base_offset: u64) -> Self {
        Self {
            next_offset: base_offset,
            record_count: 0,
            min_timestamp_ms: i64::MAX,
            max_timestamp_ms: i64::MIN,
            flags: SliceFlags::NONE,
            producers: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Whether the batch, whose base offset is the next one, could come next: what must be asked before anything
    /// changes. Returns the record count with it.
    pub(super) fn admit(&self, header: &BatchHeader) -> Result<u32, ObjectError> {
        // DENSE: offsets inside a slice follow each other without a gap.
        expect_equal("base offset of a batch", header.base_offset, self.next_offset)?;
        self.record_count.checked_add(header.records_count.unsigned_abs()).ok_or(
            ObjectError::OverLimit {
                what: "record count of a slice",
                size: u64::from(self.record_count) + u64::from(header.records_count.unsigned_abs()),
                limit: u32::MAX.into(),
            },
        )
    }

    /// Adds a batch.
    pub(super) fn add(&mut self, header: &BatchHeader) -> Result<(), ObjectError> {
        self.record_count = self.admit(header)?;
        let base_offset = header.base_offset.unsigned_abs();
        let last_offset = header.last_offset().unsigned_abs();
        self.next_offset = last_offset + 1;
        self.min_timestamp_ms =
            self.min_timestamp_ms.min(header.base_timestamp.min(header.max_timestamp));
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp);
        if header.is_transactional() {
            self.flags = self.flags.with(SliceFlags::TRANSACTIONAL);
        }
        if header.is_control() {
            self.flags = self.flags.with(SliceFlags::CONTROL);
        }
        if header.producer_id >= 0 {
            self.producers.push(ProducerState {
                producer_id: header.producer_id,
                producer_epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
                last_sequence: header.last_sequence(),
                base_offset,
                last_offset,
            });
        }
        Ok(())
    }
}
