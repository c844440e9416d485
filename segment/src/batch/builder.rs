//! Building a batch: records go as varints straight into the one buffer that becomes the batch.

use bytes::Bytes;

use super::header::{self, CRC_START, HEADER_BYTES, LENGTH_BYTES};
use super::{BatchError, BatchHeader, Compression, Limits, ProducerInfo, lz4, varint};

/// What to pass to [`BatchBuilder::push`] for a record without headers.
pub const NO_HEADERS: &[(&str, Option<&[u8]>)] = &[];

/// Gathers records and makes them a batch.
///
/// The batch's base offset is 0 and its partition leader epoch -1 until [`assign`](super::assign) stamps them.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    compression: Compression,
    limits: Limits,
    /// Room for the header, then the records as they stand in an uncompressed batch.
    buffer: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(compression: Compression, limits: Limits) -> Self {
        Self::with_capacity(compression, limits, 0)
    }

    /// An empty batch with room for about `bytes` bytes of records, so that they need not be moved as they grow.
    pub fn with_capacity(compression: Compression, limits: Limits, bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER_BYTES + bytes);
        buffer.resize(HEADER_BYTES, 0);
        Self { compression, limits, buffer, count: 0, base_timestamp: 0, max_timestamp: 0 }
    }

    /// Appends a record and returns its offset relative to the batch's first. Timestamps are milliseconds since 1970;
    /// any order and any value will do.
    ///
    /// An error names size and limit and leaves the batch as it was: a record over
    /// [`Limits::max_record_bytes`] fits nowhere, one for which this batch is [full](BatchError::BatchFull) belongs
    /// into the next.
    pub fn push<K: AsRef<str>, V: AsRef<[u8]>>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(K, Option<V>)],
    ) -> Result<u32, BatchError> {
        let offset_delta = self.count;
        // Wrapping, as readers add it back the same way: no pair of timestamps is too far apart.
        let timestamp_delta =
            if offset_delta == 0 { 0 } else { timestamp_ms.wrapping_sub(self.base_timestamp) };
        let size = 1
            + varint::len(timestamp_delta)
            + varint::len(offset_delta.into())
            + field_len(key)
            + field_len(value)
            + headers_len(headers);
        self.admit(size)?;

        // Room is made once, so that every part goes to its place without another look at the buffer's capacity.
        let start = self.buffer.len();
        self.buffer.resize(start + varint::len(size as i64) + size, 0);
        let mut writer = varint::Writer::new(&mut self.buffer[start..]);
        writer.varint(size as i64);
        writer.byte(0); // attributes of a record: none are defined
        writer.varint(timestamp_delta);
        writer.varint(offset_delta.into());
        writer.field(key);
        writer.field(value);
        writer.varint(headers.len() as i64);
        for (name, value) in headers {
            writer.field(Some(name.as_ref().as_bytes()));
            writer.field(value.as_ref().map(AsRef::as_ref));
        }
        debug_assert!(writer.is_full(), "a record is as long as was counted");

        if offset_delta == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.count += 1;
        Ok(offset_delta.cast_unsigned())
    }

    /// Whether a record of `size` bytes behind its length may still come in. Decided by the worst the batch can
    /// become, so that a batch that took its records can always be finished.
    #[inline]
    fn admit(&self, size: usize) -> Result<(), BatchError> {
        let record_limit = self.limits.max_record_bytes.min(i32::MAX as usize);
        if size > record_limit {
            return Err(BatchError::RecordTooLarge {
                size: size as u64,
                limit: record_limit as u64,
            });
        }
        let records = self.buffer.len() - HEADER_BYTES + varint::len(size as i64) + size;
        if records > self.limits.max_decompressed_bytes {
            return Err(BatchError::BatchFull {
                size: records as u64,
                limit: self.limits.max_decompressed_bytes as u64,
            });
        }
        let worst = HEADER_BYTES
            + match self.compression {
                Compression::None => records,
                Compression::Lz4 => lz4::worst_case_bytes(records),
            };
        let batch_limit = self.limits.max_batch_bytes.min(i32::MAX as usize);
        if worst > batch_limit {
            return Err(BatchError::BatchFull { size: worst as u64, limit: batch_limit as u64 });
        }
        Ok(())
    }

    /// How many records were pushed.
    pub fn record_count(&self) -> u32 {
        self.count.cast_unsigned()
    }

    /// How long the batch would be without compression, header included.
    pub fn uncompressed_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no record was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The finished batch. One of 64 KiB or more is uncompressed if compressing would not make it shorter by a sixteenth.
    /// The only error is that there is no record in it.
    pub fn finish(self, producer: ProducerInfo) -> Result<Bytes, BatchError> {
        if self.is_empty() {
            return Err(BatchError::Empty);
        }
        let records = &self.buffer[HEADER_BYTES..];
        let compressed = match self.compression {
            Compression::None => None,
            Compression::Lz4 => lz4::compress(HEADER_BYTES, records),
        };
        let used = if compressed.is_some() { self.compression } else { Compression::None };
        let mut header = BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: header::attributes(used),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            records_count: self.count,
        };
        let mut batch = compressed.unwrap_or_else(|| {
            let mut buffer = self.buffer;
            // BOUND: it is kept for as long as the batch, and counted by its length.
            if buffer.capacity() - buffer.len() > buffer.len() / 8 {
                buffer.shrink_to_fit();
            }
            buffer
        });
        header.batch_length = i32::try_from(batch.len() - LENGTH_BYTES)
            .expect("every push kept the batch below 2 GiB");
        batch[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        header.crc = crc32c::crc32c(&batch[CRC_START..]);
        batch[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        Ok(Bytes::from(batch))
    }
}

#[inline]
fn field_len(field: Option<&[u8]>) -> usize {
    match field {
        Some(bytes) => varint::len(bytes.len() as i64) + bytes.len(),
        None => 1,
    }
}

#[inline]
fn headers_len<K: AsRef<str>, V: AsRef<[u8]>>(headers: &[(K, Option<V>)]) -> usize {
    let fields: usize = headers
        .iter()
        .map(|(name, value)| {
            field_len(Some(name.as_ref().as_bytes())) + field_len(value.as_ref().map(AsRef::as_ref))
        })
        .sum();
    varint::len(headers.len() as i64) + fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::decode;

    fn push(builder: &mut BatchBuilder, value: &[u8]) -> Result<u32, BatchError> {
        builder.push(5, None, Some(value), NO_HEADERS)
    }

    #[test]
    fn a_record_over_the_limit_is_refused_and_the_batch_goes_on() {
        let limits = Limits { max_record_bytes: 100, ..Limits::default() };
        for compression in [Compression::None, Compression::Lz4] {
            let mut builder = BatchBuilder::new(compression, limits);
            assert_eq!(push(&mut builder, b"first"), Ok(0));
            let before = builder.uncompressed_bytes();
            // One byte each for attributes, deltas, null key and header count, two for the value's length.
            assert_eq!(
                push(&mut builder, &[0; 94]),
                Err(BatchError::RecordTooLarge { size: 101, limit: 100 })
            );
            assert_eq!((builder.uncompressed_bytes(), builder.record_count()), (before, 1));
            assert_eq!(push(&mut builder, &[0; 93]), Ok(1));
            let batch = builder.finish(ProducerInfo::NONE).unwrap();
            assert_eq!(decode(batch, &limits).unwrap().records().count(), 2);
        }
    }

    #[test]
    fn a_full_batch_refuses_the_next_record_and_can_be_finished() {
        let limits = Limits { max_batch_bytes: 1000, ..Limits::default() };
        for compression in [Compression::None, Compression::Lz4] {
            let mut builder = BatchBuilder::new(compression, limits);
            let error = loop {
                // Noise, which LZ4 cannot shrink: the worst case.
                let noise: Vec<u8> = (0..50u64)
                    .map(|n| {
                        (crc32c::crc32c(
                            &(n + u64::from(builder.record_count()) * 50).to_le_bytes(),
                        ) >> 8) as u8
                    })
                    .collect();
                if let Err(error) = push(&mut builder, &noise) {
                    break error;
                }
            };
            assert!(matches!(error, BatchError::BatchFull { limit: 1000, .. }));
            let batch = builder.finish(ProducerInfo::NONE).unwrap();
            assert!(batch.len() > 850 && batch.len() <= 1000, "{}", batch.len());
        }
    }

    #[test]
    fn deltas_count_from_the_first_record_and_the_largest_timestamp_is_kept() {
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        for timestamp in [100, 300, 50, i64::MIN, 200] {
            builder.push(timestamp, None, None, NO_HEADERS).unwrap();
        }
        let batch = builder.finish(ProducerInfo::NONE).unwrap();
        let decoded = decode(batch, &Limits::default()).unwrap();
        assert_eq!(decoded.header.base_timestamp, 100);
        assert_eq!(decoded.header.max_timestamp, 300);
        let timestamps: Vec<_> =
            decoded.records().map(|record| record.unwrap().timestamp).collect();
        assert_eq!(timestamps, [100, 300, 50, i64::MIN, 200]);
    }

    #[test]
    fn an_empty_batch_cannot_be_finished() {
        let builder = BatchBuilder::new(Compression::Lz4, Limits::default());
        assert_eq!(builder.finish(ProducerInfo::NONE), Err(BatchError::Empty));
    }
}
