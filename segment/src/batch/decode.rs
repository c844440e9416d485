//! Reading a batch: its checksum, one decompression, then records as slices of that one buffer.

use bytes::Bytes;

use super::header::{HEADER_BYTES, TimestampType};
use super::record::{Layout, check_count};
use super::{
    BatchError, BatchHeader, Compression, Limits, Record, RecordRef, lz4, validate, whole_batch,
};

/// Checks a batch (see [`validate`]) and decompresses it, once, into one buffer; without compression that buffer is
/// the batch itself. Records are read when asked for.
///
/// What does not decompress within [`Limits::max_decompressed_bytes`] is refused.
pub fn decode(batch: Bytes, limits: &Limits) -> Result<DecodedBatch, BatchError> {
    // READ: nothing is handed out of a batch whose checksum does not hold.
    let header = validate(&batch, limits)?;
    let (records, buffer_bytes) = match header.compression()? {
        Compression::None => (batch.slice(HEADER_BYTES..), 0),
        Compression::Lz4 => {
            let buffer = lz4::decompress(&batch[HEADER_BYTES..], limits)?;
            let capacity = buffer.capacity();
            (Bytes::from(buffer), capacity)
        }
    };
    check_count(&header, records.len())?;
    Ok(DecodedBatch { header, records, buffer_bytes })
}

/// The same, decompressed into `buffer`, which must have room for [`decoded_bound`] bytes; it is dropped with the last of
/// the records. Records that take less than half of it are copied out, so that a few of them never hold on to much. For
/// those who use buffers more than once. Without compression it is dropped at once.
pub fn decode_into<B>(
    batch: Bytes,
    mut buffer: B,
    limits: &Limits,
) -> Result<DecodedBatch, BatchError>
where
    B: AsRef<[u8]> + AsMut<[u8]> + Send + 'static,
{
    let header = validate(&batch, limits)?;
    let (records, buffer_bytes) = match header.compression()? {
        Compression::None => (batch.slice(HEADER_BYTES..), 0),
        Compression::Lz4 => {
            let filled = lz4::decompress_to(&batch[HEADER_BYTES..], buffer.as_mut(), limits)?;
            let whole = buffer.as_ref().len();
            if filled < whole / 2 {
                (Bytes::copy_from_slice(&buffer.as_ref()[..filled]), filled)
            } else {
                (Bytes::from_owner(buffer).slice(..filled), whole)
            }
        }
    };
    check_count(&header, records.len())?;
    Ok(DecodedBatch { header, records, buffer_bytes })
}

/// The most bytes that [`decode`] would hold for this batch, by its headers alone: nothing is decompressed and no checksum
/// is looked at, so it is a hint until [`decode`] has succeeded.
///
/// A batch that is not whole is refused, and one that could decompress to more than
/// [`Limits::max_decompressed_bytes`].
pub fn decoded_bound(batch: &[u8], limits: &Limits) -> Result<usize, BatchError> {
    let header = whole_batch(batch)?;
    let records = &batch[HEADER_BYTES..header.total_bytes()];
    match header.compression()? {
        Compression::None => Ok(records.len()),
        Compression::Lz4 => lz4::decompressed_bound(records, limits),
    }
}

/// A batch whose checksum holds, decompressed.
#[derive(Clone, Debug)]
pub struct DecodedBatch {
    /// The batch's header.
    pub header: BatchHeader,
    records: Bytes,
    buffer_bytes: usize,
}

impl DecodedBatch {
    /// How many records the header promises; the iterators yield as many, or an error.
    pub fn record_count(&self) -> u32 {
        self.header.records_count.unsigned_abs()
    }

    /// The decompressed records' size in bytes.
    pub fn decompressed_bytes(&self) -> usize {
        self.records.len()
    }

    /// How many bytes were allocated for them: what a consumer holds on to while it holds any of them. 0 without
    /// compression, when they lie in the batch's own bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// The records, each sharing the batch's buffer. The iterator ends after the first error.
    ///
    /// Offsets rise and stay within the batch's range, lengths fit, nothing follows the last record: anything else is
    /// an error in its place.
    pub fn records(&self) -> Records {
        Records { buffer: self.records.clone(), walk: Walk::new(&self.header) }
    }

    /// The records, borrowed: the same as [`records`](Self::records), cheaper still.
    pub fn record_refs(&self) -> RecordRefs<'_> {
        RecordRefs { buffer: &self.records, walk: Walk::new(&self.header) }
    }
}

impl IntoIterator for DecodedBatch {
    type Item = Result<Record, BatchError>;
    type IntoIter = Records;

    fn into_iter(self) -> Records {
        Records { walk: Walk::new(&self.header), buffer: self.records }
    }
}

impl<'a> IntoIterator for &'a DecodedBatch {
    type Item = Result<RecordRef<'a>, BatchError>;
    type IntoIter = RecordRefs<'a>;

    fn into_iter(self) -> RecordRefs<'a> {
        self.record_refs()
    }
}

/// See [`DecodedBatch::records`].
#[derive(Clone, Debug)]
pub struct Records {
    buffer: Bytes,
    walk: Walk,
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let step = self.walk.step(&self.buffer)?;
        Some(step.map(|(layout, offset, timestamp)| layout.share(&self.buffer, offset, timestamp)))
    }

    /// What is skipped is read, and not shared.
    fn nth(&mut self, skipped: usize) -> Option<Self::Item> {
        for _ in 0..skipped {
            // After an error there is nothing.
            drop(self.walk.step(&self.buffer)?);
        }
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.walk.size_hint()
    }
}

impl std::iter::FusedIterator for Records {}

/// See [`DecodedBatch::record_refs`].
#[derive(Clone, Debug)]
pub struct RecordRefs<'a> {
    buffer: &'a [u8],
    walk: Walk,
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let step = self.walk.step(self.buffer)?;
        Some(step.map(|(layout, offset, timestamp)| layout.borrow(self.buffer, offset, timestamp)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.walk.size_hint()
    }
}

impl std::iter::FusedIterator for RecordRefs<'_> {}

/// Where the iteration stands.
#[derive(Clone, Debug)]
struct Walk {
    position: usize,
    index: u32,
    count: u32,
    /// The least that the next offset delta may be.
    next_delta: i64,
    last_delta: i64,
    base_offset: i64,
    base_timestamp: i64,
    /// The one timestamp of all records, if the log set it.
    append_timestamp: Option<i64>,
}

impl Walk {
    fn new(header: &BatchHeader) -> Self {
        Self {
            position: 0,
            index: 0,
            count: header.records_count.unsigned_abs(),
            next_delta: 0,
            last_delta: header.last_offset_delta.into(),
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_timestamp: match header.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(header.max_timestamp),
            },
        }
    }

    /// The next record's layout, offset and timestamp; `None` after the last, or after an error.
    #[inline(always)]
    fn step(&mut self, buffer: &[u8]) -> Option<Result<(Layout, i64, i64), BatchError>> {
        if self.index == self.count {
            return None;
        }
        let step = self.read(buffer);
        self.index = if step.is_ok() { self.index + 1 } else { self.count };
        Some(step)
    }

    #[inline(always)]
    fn read(&mut self, buffer: &[u8]) -> Result<(Layout, i64, i64), BatchError> {
        let malformed = |problem| BatchError::MalformedRecord { index: self.index, problem };
        let layout = Layout::read(buffer, self.position).map_err(malformed)?;
        // READ: offsets rise, and stay in the range that the index has for the batch.
        let delta = i64::from(layout.offset_delta);
        if delta < self.next_delta || delta > self.last_delta {
            return Err(malformed("its offset is out of order or out of the batch's range"));
        }
        let last = self.index + 1 == self.count;
        if last && layout.end != buffer.len() {
            return Err(BatchError::TrailingBytes { found: (buffer.len() - layout.end) as u64 });
        }
        self.position = layout.end;
        self.next_delta = delta + 1;
        let offset = self.base_offset + delta;
        let timestamp = self
            .append_timestamp
            .unwrap_or_else(|| self.base_timestamp.wrapping_add(layout.timestamp_delta));
        Ok((layout, offset, timestamp))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = (self.count - self.index) as usize;
        (remaining.min(1), Some(remaining))
    }
}
