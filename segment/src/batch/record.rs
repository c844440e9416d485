//! One record: found in the decompressed bytes of its batch, and handed out as slices of them.

use bytes::Bytes;

use super::headers::{self, Headers, HeadersRef};
use super::varint::{Cursor, Problem, Span};
use super::{BatchError, BatchHeader};

/// The shortest record: length, attributes, two deltas, two nulls and a header count.
const MIN_RECORD_BYTES: u64 = 7;

/// Refuses a batch that promises more records than `available` bytes, uncompressed, can hold.
pub(super) fn check_count(header: &BatchHeader, available: usize) -> Result<(), BatchError> {
    let needed = u64::from(header.records_count.unsigned_abs()) * MIN_RECORD_BYTES;
    let available = available as u64;
    if needed > available {
        return Err(BatchError::Truncated { what: "records of the batch", needed, available });
    }
    Ok(())
}

/// A record whose key, value and headers are slices that keep their batch's buffer alive. Cloning copies no bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The value; without one, the record is a tombstone.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// A record borrowed from its [`DecodedBatch`](super::DecodedBatch).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordRef<'a> {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The value; without one, the record is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: HeadersRef<'a>,
}

/// Where the parts of a record lie in the buffer; every span is within it.
pub(super) struct Layout {
    pub(super) offset_delta: i32,
    pub(super) timestamp_delta: i64,
    key: Option<Span>,
    value: Option<Span>,
    headers: Span,
    header_count: u32,
    /// Where the next record begins.
    pub(super) end: usize,
}

impl Layout {
    /// Reads the record that begins at `start`. It must fill its length exactly.
    #[inline(always)]
    pub(super) fn read(buffer: &[u8], start: usize) -> Result<Self, Problem> {
        let mut cursor = Cursor::new(buffer, start);
        let len = cursor.length()?;
        let end = cursor.position() + len;
        // From here on nothing may reach past the record's own end.
        let mut cursor = Cursor::new(&buffer[..end], cursor.position());
        cursor.byte()?; // attributes: none are defined
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        let key = cursor.nullable()?;
        let value = cursor.nullable()?;
        let header_count = cursor.length()?;
        let headers_start = cursor.position();
        if header_count > 0 {
            headers::check(&mut cursor, header_count)?;
        }
        if cursor.remaining() > 0 {
            return Err("bytes follow its headers");
        }
        Ok(Self {
            offset_delta,
            timestamp_delta,
            key,
            value,
            headers: Span { start: headers_start, end },
            header_count: header_count as u32,
            end,
        })
    }

    #[inline]
    pub(super) fn borrow<'a>(
        &self,
        buffer: &'a [u8],
        offset: i64,
        timestamp: i64,
    ) -> RecordRef<'a> {
        RecordRef {
            offset,
            timestamp,
            key: self.key.map(|span| span.of(buffer)),
            value: self.value.map(|span| span.of(buffer)),
            headers: HeadersRef::new(self.header_count, self.headers.of(buffer)),
        }
    }

    #[inline]
    pub(super) fn share(&self, buffer: &Bytes, offset: i64, timestamp: i64) -> Record {
        let slice = |span: Span| buffer.slice(span.start..span.end);
        Record {
            offset,
            timestamp,
            key: self.key.map(slice),
            value: self.value.map(slice),
            headers: if self.header_count == 0 {
                Headers::default()
            } else {
                Headers::new(self.header_count, slice(self.headers))
            },
        }
    }
}
