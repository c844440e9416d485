//! Does the object hold what its footer says? And does a fetched range hold what the index says?

use bytes::Bytes;

use super::error::{expect_checksum, expect_equal};
use super::slice::{SliceMeta, SparsePoint};
use super::tally::Tally;
use super::{Object, ObjectError};
use crate::batch::{self, BatchHeader, Limits};

impl Object {
    /// Checks every slice against its entry in the footer: checksum, batches back to back and each of them
    /// [valid](crate::batch::validate), offsets without a gap, counts, timestamps, flags, producers, sparse index.
    ///
    /// Batches are not decompressed.
    pub fn verify(&self, limits: &Limits) -> Result<(), ObjectError> {
        for (index, slice) in self.footer.slices.iter().enumerate() {
            let bytes = self.slice_bytes(index);
            verify_meta(index as u32, slice, &bytes, limits)?;
        }
        Ok(())
    }
}

fn verify_meta(
    index: u32,
    slice: &SliceMeta,
    bytes: &[u8],
    limits: &Limits,
) -> Result<(), ObjectError> {
    expect_checksum("slice", bytes, slice.crc32c)?;
    let mut tally = Tally::new(slice.base_offset);
    let mut sparse_index = slice.sparse_index.iter().peekable();
    let mut position = 0;
    while position < bytes.len() {
        let header = batch_at(bytes, position)?;
        let end = position + header.total_bytes();
        batch::validate(&bytes[position..end], limits).map_err(|error| at(position, error))?;
        expect_equal("lease epoch of a batch", header.partition_leader_epoch, slice.lease_epoch)?;
        tally.add(&header)?;
        let here =
            SparsePoint { offset: header.base_offset.unsigned_abs(), position: position as u32 };
        sparse_index.next_if_eq(&&here);
        position = end;
    }
    if tally.is_empty() {
        return Err(ObjectError::EmptySlice { slice: index });
    }
    // Points that are left were passed over: no batch begins there, or they are out of order.
    if sparse_index.next().is_some() {
        return Err(ObjectError::WrongList { slice: index, list: "sparse index" });
    }
    compare(index, slice, &tally)
}

/// What the footer says against what the batches add up to.
fn compare(index: u32, slice: &SliceMeta, tally: &Tally) -> Result<(), ObjectError> {
    let fields: [(_, i128, i128); 5] = [
        ("last offset", slice.last_offset.into(), (tally.next_offset - 1).into()),
        ("record count", slice.record_count.into(), tally.record_count.into()),
        ("min timestamp", slice.min_timestamp_ms.into(), tally.min_timestamp_ms.into()),
        ("max timestamp", slice.max_timestamp_ms.into(), tally.max_timestamp_ms.into()),
        ("flags", slice.flags.bits().into(), tally.flags.bits().into()),
    ];
    for (field, found, expected) in fields {
        if found != expected {
            return Err(ObjectError::SliceMismatch { slice: index, field, expected, found });
        }
    }
    if slice.producers != tally.producers {
        return Err(ObjectError::WrongList { slice: index, list: "producers" });
    }
    Ok(())
}

/// Checks a slice that a reader fetched against the index entry that sent it there.
///
/// READ, DENSE: the checksum holds, so the bytes are those that were committed, whichever object they came from; the
/// batches lie back to back, rise in offset, and reach from `base_offset` to `last_offset`. Inside, offsets may be
/// absent. The batches' own checksums are covered by the slice's and checked again when they are decoded.
pub fn verify_slice(
    bytes: &Bytes,
    expected_crc: u32,
    base_offset: u64,
    last_offset: u64,
) -> Result<(), ObjectError> {
    expect_checksum("slice", bytes, expected_crc)?;
    let mut position = 0;
    let mut previous: Option<u64> = None;
    while position < bytes.len() {
        let header = batch_at(bytes, position)?;
        let base = header.base_offset.unsigned_abs();
        match previous {
            None => expect_equal("base offset of the first batch", base, base_offset)?,
            Some(previous) if base > previous => {}
            Some(previous) => {
                return Err(ObjectError::Mismatch {
                    field: "base offset of a batch",
                    expected: i128::from(previous) + 1,
                    found: base.into(),
                });
            }
        }
        previous = Some(header.last_offset().unsigned_abs());
        position += header.total_bytes();
    }
    let last = previous.ok_or(ObjectError::NoBatch { base_offset, last_offset })?;
    expect_equal("last offset of the last batch", last, last_offset)
}

/// The header of the batch at `position`, all of which lies within the slice.
fn batch_at(bytes: &[u8], position: usize) -> Result<BatchHeader, ObjectError> {
    batch::whole_batch(&bytes[position..]).map_err(|error| at(position, error))
}

fn at(position: usize, error: batch::BatchError) -> ObjectError {
    ObjectError::Batch { position: position as u64, error }
}
