//! Building an object: every batch is copied once, into the one buffer that is uploaded.

use bytes::Bytes;

use super::footer::{FIXED_BYTES, Footer};
use super::outcome::{OUTCOME_BYTES, SliceOutcome};
use super::slice::{PRODUCER_BYTES, SLICE_BYTES, SPARSE_POINT_BYTES, SliceMeta, SparsePoint};
use super::tally::Tally;
use super::{
    MAX_BATCHES, MAX_FOOTER_BYTES, MAX_OUTCOMES, MAX_SLICES, OBJECT_HEADER_BYTES, ObjectError,
    ObjectHeader, SPARSE_INTERVAL_BYTES, TRAILER_BYTES, Trailer,
};
use crate::batch::{BatchError, BatchHeader, assign};
use crate::ids::{ObjectId, TopicId};

/// Half the footer is for the slices, the other half for what came before.
const MAX_SLICES_BYTES: usize = MAX_FOOTER_BYTES / 2;

/// What the footer says of a batch at the most.
const BATCH_BYTES: usize = PRODUCER_BYTES + SPARSE_POINT_BYTES;

// An object within these counts can always be built.
const _: () =
    assert!(FIXED_BYTES + MAX_SLICES * SLICE_BYTES + MAX_BATCHES * BATCH_BYTES <= MAX_SLICES_BYTES);
const _: () = assert!(MAX_OUTCOMES * OUTCOME_BYTES <= MAX_FOOTER_BYTES - MAX_SLICES_BYTES);

/// What is known of a slice before its first batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SliceStart {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
    /// The lease epoch under which the agent writes.
    pub lease_epoch: u32,
    /// The offset at which that epoch began.
    pub epoch_start_offset: u64,
    /// The offset of the first record.
    pub base_offset: u64,
    /// When the log takes the slice: milliseconds of cluster time.
    pub append_time_ms: u64,
}

/// A finished object.
#[derive(Clone, Debug)]
pub struct EncodedObject {
    /// Which object it is.
    pub id: ObjectId,
    /// The object, whole.
    pub bytes: Bytes,
    /// What its footer says of its slices.
    pub slices: Vec<SliceMeta>,
    /// Its footer's CRC-32C: with the size, what tells it from another upload under the same key.
    pub footer_crc: u32,
    /// How long it is, in bytes.
    pub size: u64,
}

/// Gathers slices and makes them an object.
///
/// An error leaves the builder as it was.
#[derive(Debug)]
pub struct ObjectBuilder {
    id: ObjectId,
    buffer: Vec<u8>,
    finished: Vec<SliceMeta>,
    /// The footer's length so far, without the open slice and without outcomes.
    finished_footer_bytes: usize,
    open: Option<OpenSlice>,
}

#[derive(Debug)]
struct OpenSlice {
    start: SliceStart,
    position: usize,
    tally: Tally,
    sparse_index: Vec<SparsePoint>,
    /// Where the last point of the sparse index lies; the slice's start counts as one.
    last_point: u32,
}

impl ObjectBuilder {
    /// An empty object with room for about `capacity_bytes`, so that its batches need not be moved as it grows.
    pub fn new(id: ObjectId, capacity_bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity_bytes.max(OBJECT_HEADER_BYTES));
        ObjectHeader::new(id).encode(&mut buffer);
        Self { id, buffer, finished: Vec::new(), finished_footer_bytes: FIXED_BYTES, open: None }
    }

    /// How long the object is so far and would be if it were finished now, outcomes aside.
    pub fn size(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, OpenSlice::footer_bytes);
        (self.buffer.len() + self.finished_footer_bytes + open + TRAILER_BYTES) as u64
    }

    /// How many slices were begun.
    pub fn slice_count(&self) -> usize {
        self.finished.len() + usize::from(self.open.is_some())
    }

    /// Begins a slice, and so ends the one before. Refused if that has no batch, or if there are [`MAX_SLICES`].
    pub fn begin_slice(&mut self, start: SliceStart) -> Result<(), ObjectError> {
        if let Some(open) = self.open.as_ref().filter(|open| open.tally.is_empty()) {
            return Err(open.empty(self.finished.len()));
        }
        if self.slice_count() == MAX_SLICES {
            return Err(ObjectError::OverLimit {
                what: "slice count",
                size: MAX_SLICES as u64 + 1,
                limit: MAX_SLICES as u64,
            });
        }
        check_limit("lease epoch", start.lease_epoch.into(), i32::MAX as u64)?;
        check_limit("base offset of a slice", start.base_offset, i64::MAX as u64)?;
        self.close_slice();
        self.open = Some(OpenSlice {
            start,
            position: self.buffer.len(),
            tally: Tally::new(start.base_offset),
            sparse_index: Vec::new(),
            last_point: 0,
        });
        Ok(())
    }

    /// Appends a batch to the slice, gives it the next offsets and the lease epoch, and returns its first and last
    /// offset. The batch must have been [validated](crate::batch::validate_for_produce).
    pub fn append_batch(&mut self, batch: &[u8]) -> Result<(u64, u64), ObjectError> {
        let footer_bytes = self.finished_footer_bytes;
        let open = self.open.as_mut().ok_or(ObjectError::NoSlice)?;
        let in_slice = self.buffer.len() - open.position;
        let header = open.place(batch, in_slice)?;
        check_limit("length of a slice", (in_slice + batch.len()) as u64, u32::MAX.into())?;
        check_limit(
            "footer length",
            (footer_bytes + open.footer_bytes() + BATCH_BYTES) as u64,
            MAX_SLICES_BYTES as u64,
        )?;
        open.tally.add(&header)?;

        let at = self.buffer.len();
        self.buffer.extend_from_slice(batch);
        assign(&mut self.buffer[at..], header.base_offset, header.partition_leader_epoch);
        let (base, last) = (header.base_offset.unsigned_abs(), header.last_offset().unsigned_abs());
        open.mark(base, in_slice as u32);
        Ok((base, last))
    }

    /// The finished object, with the outcomes of the session's earlier slices since its last object.
    ///
    /// Refused if the last slice has no batch, or if there are so many outcomes that the footer outgrows
    /// [`MAX_FOOTER_BYTES`]; there is always room for [`MAX_OUTCOMES`].
    pub fn finish(mut self, outcomes: &[SliceOutcome]) -> Result<EncodedObject, ObjectError> {
        if let Some(open) = self.open.as_ref().filter(|open| open.tally.is_empty()) {
            return Err(open.empty(self.finished.len()));
        }
        self.close_slice();
        let footer = Footer {
            id: self.id,
            slices: self.finished,
            outcomes: outcomes.to_vec(),
            extensions: Vec::new(),
        };
        let footer_bytes = footer.encoded_bytes();
        check_limit("footer length", footer_bytes as u64, MAX_FOOTER_BYTES as u64)?;

        let mut buffer = self.buffer;
        let footer_start = buffer.len();
        buffer.reserve_exact(footer_bytes + TRAILER_BYTES);
        footer.encode(&mut buffer);
        let trailer = Trailer {
            footer_length: footer_bytes as u32,
            footer_crc: crc32c::crc32c(&buffer[footer_start..]),
        };
        trailer.encode(&mut buffer);
        Ok(EncodedObject {
            id: self.id,
            size: buffer.len() as u64,
            bytes: Bytes::from(buffer),
            slices: footer.slices,
            footer_crc: trailer.footer_crc,
        })
    }

    fn close_slice(&mut self) {
        if let Some(open) = self.open.take() {
            self.finished_footer_bytes += open.footer_bytes();
            self.finished.push(open.close(&self.buffer));
        }
    }
}

impl OpenSlice {
    /// The batch's header as it will stand in the slice, at the next offset.
    fn place(&self, batch: &[u8], in_slice: usize) -> Result<BatchHeader, ObjectError> {
        let wrong = |error| ObjectError::Batch { position: in_slice as u64, error };
        let mut header = BatchHeader::parse(batch).map_err(wrong)?;
        if header.total_bytes() != batch.len() {
            return Err(wrong(BatchError::WrongLength {
                declared: header.total_bytes() as i64,
                found: batch.len() as u64,
            }));
        }
        let last_delta = u64::from(header.last_offset_delta.unsigned_abs());
        check_limit(
            "last offset of a slice",
            self.tally.next_offset.saturating_add(last_delta),
            i64::MAX as u64,
        )?;
        header.base_offset = self.tally.next_offset.cast_signed();
        header.partition_leader_epoch = self.start.lease_epoch.cast_signed();
        Ok(header)
    }

    /// Adds the batch to the sparse index, if the last point lies far enough back.
    fn mark(&mut self, offset: u64, position: u32) {
        if position - self.last_point >= SPARSE_INTERVAL_BYTES {
            self.sparse_index.push(SparsePoint { offset, position });
            self.last_point = position;
        }
    }

    fn footer_bytes(&self) -> usize {
        SLICE_BYTES
            + self.tally.producers.len() * PRODUCER_BYTES
            + self.sparse_index.len() * SPARSE_POINT_BYTES
    }

    fn empty(&self, index: usize) -> ObjectError {
        ObjectError::EmptySlice { slice: index as u32 }
    }

    fn close(self, buffer: &[u8]) -> SliceMeta {
        let bytes = &buffer[self.position..];
        SliceMeta {
            topic: self.start.topic,
            partition: self.start.partition,
            lease_epoch: self.start.lease_epoch,
            epoch_start_offset: self.start.epoch_start_offset,
            base_offset: self.start.base_offset,
            last_offset: self.tally.next_offset - 1,
            record_count: self.tally.record_count,
            position: self.position as u64,
            length: bytes.len() as u32,
            crc32c: crc32c::crc32c(bytes),
            append_time_ms: self.start.append_time_ms,
            min_timestamp_ms: self.tally.min_timestamp_ms,
            max_timestamp_ms: self.tally.max_timestamp_ms,
            producers: self.tally.producers,
            flags: self.tally.flags,
            sparse_index: self.sparse_index,
        }
    }
}

fn check_limit(what: &'static str, size: u64, limit: u64) -> Result<(), ObjectError> {
    if size <= limit { Ok(()) } else { Err(ObjectError::OverLimit { what, size, limit }) }
}
