//! Building an object: a list of chunks that are uploaded one after the other. A large batch is not copied, but for its
//! header, which changes; small ones are gathered in one buffer.

use bytes::{Bytes, BytesMut};

use super::footer::{FIXED_BYTES, Footer};
use super::outcome::{OUTCOME_BYTES, SliceOutcome};
use super::slice::{PRODUCER_BYTES, SLICE_BYTES, SPARSE_POINT_BYTES, SliceMeta, SparsePoint};
use super::tally::Tally;
use super::{
    MAX_BATCHES, MAX_FOOTER_BYTES, MAX_OUTCOMES, MAX_SLICES, OBJECT_HEADER_BYTES, ObjectError,
    ObjectHeader, SPARSE_INTERVAL_BYTES, TRAILER_BYTES, Trailer,
};
use crate::batch::{BatchError, BatchHeader, HEADER_BYTES, assign};
use crate::ids::{ObjectId, TopicId};

/// Half the footer is for the slices, the other half for what came before.
const MAX_SLICES_BYTES: usize = MAX_FOOTER_BYTES / 2;

/// What the footer says of a batch at the most.
const BATCH_BYTES: usize = PRODUCER_BYTES + SPARSE_POINT_BYTES;

// An object within these counts can always be built.
const _: () =
    assert!(FIXED_BYTES + MAX_SLICES * SLICE_BYTES + MAX_BATCHES * BATCH_BYTES <= MAX_SLICES_BYTES);
const _: () = assert!(MAX_OUTCOMES * OUTCOME_BYTES <= MAX_FOOTER_BYTES - MAX_SLICES_BYTES);

/// A batch of so many bytes is a chunk of its own. Of a smaller one, the copy costs less than a chunk more to be written.
const LARGE_BATCH_BYTES: usize = 32 << 10;

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
    /// The object: these bytes, one after the other.
    pub chunks: Vec<Bytes>,
    /// What its footer says of its slices.
    pub slices: Vec<SliceMeta>,
    /// Its footer's CRC-32C: with the size, what tells it from another upload under the same key.
    pub footer_crc: u32,
    /// How long it is, in bytes.
    pub size: u64,
}

impl EncodedObject {
    /// The object in one piece: a copy, unless it is that already.
    pub fn to_bytes(&self) -> Bytes {
        match &self.chunks[..] {
            [whole] => whole.clone(),
            chunks => Bytes::from(chunks.concat()),
        }
    }
}

/// Gathers slices and makes them an object.
///
/// An error leaves the builder as it was.
#[derive(Debug)]
pub struct ObjectBuilder {
    id: ObjectId,
    /// What comes before `buffer`.
    chunks: Vec<Bytes>,
    /// How many bytes those are.
    behind: usize,
    buffer: BytesMut,
    finished: Vec<SliceMeta>,
    /// The footer's length so far, without the open slice and without outcomes.
    finished_footer_bytes: usize,
    open: Option<OpenSlice>,
}

#[derive(Debug)]
struct OpenSlice {
    start: SliceStart,
    position: usize,
    /// Of its bytes so far.
    crc32c: u32,
    tally: Tally,
    sparse_index: Vec<SparsePoint>,
    /// Where the last point of the sparse index lies; the slice's start counts as one.
    last_point: u32,
}

impl ObjectBuilder {
    /// An empty object with room for about `capacity_bytes` of what is copied, so that it need not be moved as it grows:
    /// small batches, footer, and headers.
    pub fn new(id: ObjectId, capacity_bytes: usize) -> Self {
        let mut header = Vec::with_capacity(OBJECT_HEADER_BYTES);
        ObjectHeader::new(id).encode(&mut header);
        let mut buffer = BytesMut::with_capacity(capacity_bytes.max(OBJECT_HEADER_BYTES));
        buffer.extend_from_slice(&header);
        Self {
            id,
            chunks: Vec::new(),
            behind: 0,
            buffer,
            finished: Vec::new(),
            finished_footer_bytes: FIXED_BYTES,
            open: None,
        }
    }

    /// How many bytes of a batch of `len` bytes are copied.
    pub const fn copied_bytes(len: usize) -> usize {
        if len < LARGE_BATCH_BYTES { len } else { HEADER_BYTES }
    }

    /// Where the next byte goes.
    fn position(&self) -> usize {
        self.behind + self.buffer.len()
    }

    /// How long the object is so far and would be if it were finished now, outcomes aside.
    pub fn size(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, OpenSlice::footer_bytes);
        (self.position() + self.finished_footer_bytes + open + TRAILER_BYTES) as u64
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
            position: self.position(),
            crc32c: 0,
            tally: Tally::new(start.base_offset),
            sparse_index: Vec::new(),
            last_point: 0,
        });
        Ok(())
    }

    /// Appends a batch to the slice, gives it the next offsets and the lease epoch, and returns its first and last
    /// offset. The batch must have been [validated](crate::batch::validate_for_produce). A large one is shared.
    pub fn append_batch(&mut self, batch: &Bytes) -> Result<(u64, u64), ObjectError> {
        let (at, footer_bytes) = (self.position(), self.finished_footer_bytes);
        let open = self.open.as_mut().ok_or(ObjectError::NoSlice)?;
        let in_slice = at - open.position;
        let header = open.place(batch, in_slice)?;
        check_limit("length of a slice", (in_slice + batch.len()) as u64, u32::MAX.into())?;
        check_limit(
            "footer length",
            (footer_bytes + open.footer_bytes() + BATCH_BYTES) as u64,
            MAX_SLICES_BYTES as u64,
        )?;
        open.tally.add(&header)?;

        let (copied, shared) = batch.split_at(Self::copied_bytes(batch.len()));
        let copy = self.buffer.len();
        self.buffer.extend_from_slice(copied);
        assign(&mut self.buffer[copy..], header.base_offset, header.partition_leader_epoch);
        let crc32c = crc32c::crc32c_append(open.crc32c, &self.buffer[copy..]);
        open.crc32c = crc32c::crc32c_append(crc32c, shared);
        if !shared.is_empty() {
            let before = self.buffer.split().freeze();
            self.behind += before.len() + shared.len();
            self.chunks.extend([before, batch.slice_ref(shared)]);
        }
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

        let mut end = Vec::with_capacity(footer_bytes + TRAILER_BYTES);
        footer.encode(&mut end);
        let footer_crc = crc32c::crc32c(&end);
        Trailer { footer_length: footer_bytes as u32, footer_crc }.encode(&mut end);
        let (mut chunks, mut buffer) = (self.chunks, self.buffer);
        buffer.extend_from_slice(&end);
        let size = (self.behind + buffer.len()) as u64;
        chunks.push(buffer.freeze());
        Ok(EncodedObject { id: self.id, size, chunks, slices: footer.slices, footer_crc })
    }

    fn close_slice(&mut self) {
        if let Some(open) = self.open.take() {
            self.finished_footer_bytes += open.footer_bytes();
            let length = self.position() - open.position;
            self.finished.push(open.close(length));
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

    fn close(self, length: usize) -> SliceMeta {
        SliceMeta {
            topic: self.start.topic,
            partition: self.start.partition,
            lease_epoch: self.start.lease_epoch,
            epoch_start_offset: self.start.epoch_start_offset,
            base_offset: self.start.base_offset,
            last_offset: self.tally.next_offset - 1,
            record_count: self.tally.record_count,
            position: self.position as u64,
            length: length as u32,
            crc32c: self.crc32c,
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
