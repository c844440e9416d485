//! Is this a batch? Answered from its header and checksum alone: nothing is decompressed or allocated.

use super::header::{CRC_START, TIMESTAMP_TYPE_BIT};
use super::record::check_count;
use super::{BatchError, BatchHeader, Compression, HEADER_BYTES, Limits, lz4};

/// Bits of the attributes that say how to read the records.
const CODEC_BITS: u16 = 0b111;

/// Checks that `batch` is exactly one whole batch whose checksum holds: length, magic, counts, codec and size.
///
/// The records themselves are not looked at; that is what [`decode`](super::decode) does.
pub fn validate(batch: &[u8], limits: &Limits) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    // BOUND: the limit comes first, the checksum costs a pass over the bytes.
    if header.total_bytes() > limits.max_batch_bytes {
        return Err(BatchError::BatchTooLarge {
            size: header.total_bytes() as u64,
            limit: limits.max_batch_bytes as u64,
        });
    }
    if header.total_bytes() != batch.len() {
        return Err(BatchError::WrongLength {
            declared: header.total_bytes() as i64,
            found: batch.len() as u64,
        });
    }
    header.compression()?;
    let found = crc32c::crc32c(&batch[CRC_START..]);
    if found != header.crc {
        return Err(BatchError::WrongChecksum { expected: header.crc, found });
    }
    Ok(header)
}

/// What an agent asks before it takes a batch from a producer: [`validate`], and that the batch claims nothing a
/// producer may not claim.
///
/// Refused are control and transactional batches, log append time and unknown attribute bits; offsets with holes;
/// a producer id without epoch and sequence number, or the other way round; more records than the bytes can hold; and
/// an LZ4 frame that is not whole or could decompress to more than the limit.
pub fn validate_for_produce(batch: &[u8], limits: &Limits) -> Result<BatchHeader, BatchError> {
    let header = validate(batch, limits)?;
    let attributes = header.attributes.cast_unsigned();
    let forbidden = attributes & !CODEC_BITS;
    if forbidden != 0 {
        return Err(BatchError::ForbiddenAttributes { attributes, forbidden });
    }
    let wrong = |field, found, expected| Err(BatchError::WrongField { field, found, expected });
    if header.last_offset_delta != header.records_count - 1 {
        return wrong(
            "last offset delta",
            header.last_offset_delta.into(),
            "the records count less one",
        );
    }
    if header.producer_id < -1 {
        return wrong("producer id", header.producer_id, "an id, or -1 for none");
    }
    // BOUND: offsets are given out by this count, so that a lie would use up a partition's offsets, and overflow the
    // sums that a slice is made of.
    let records = &batch[HEADER_BYTES..];
    let available = match header.compression()? {
        Compression::None => records.len(),
        Compression::Lz4 => lz4::decompressed_bound(records, limits)?,
    };
    check_count(&header, available)?;
    let idempotent = header.producer_id >= 0;
    if (header.producer_epoch >= 0) != idempotent || header.producer_epoch < -1 {
        return wrong(
            "producer epoch",
            header.producer_epoch.into(),
            "an epoch with a producer id, -1 without",
        );
    }
    if (header.base_sequence >= 0) != idempotent || header.base_sequence < -1 {
        return wrong(
            "base sequence",
            header.base_sequence.into(),
            "a sequence number with a producer id, -1 without",
        );
    }
    Ok(header)
}

const _: () = assert!(CODEC_BITS & TIMESTAMP_TYPE_BIT.cast_unsigned() == 0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::header::{CONTROL_BIT, TRANSACTIONAL_BIT};
    use crate::batch::{BatchBuilder, Compression, NO_HEADERS, ProducerInfo};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None, Limits::default());
        builder.push(1, None, Some(b"value"), NO_HEADERS).unwrap();
        builder.finish(ProducerInfo::NONE).unwrap().to_vec()
    }

    /// The batch with another header, its checksum made right again.
    fn with(change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
        changed(batch(), change)
    }

    fn changed(mut batch: Vec<u8>, change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
        let mut header = BatchHeader::parse(&batch).unwrap();
        change(&mut header);
        batch[..61].copy_from_slice(&header.to_bytes());
        header.crc = crc32c::crc32c(&batch[CRC_START..]);
        batch[..61].copy_from_slice(&header.to_bytes());
        batch
    }

    #[test]
    fn a_built_batch_is_valid() {
        let header = validate_for_produce(&batch(), &Limits::default()).unwrap();
        assert_eq!(header.total_bytes(), batch().len());
        assert_eq!((header.base_offset, header.partition_leader_epoch), (0, -1));
    }

    #[test]
    fn a_batch_over_the_limit_is_refused_before_its_checksum_is_computed() {
        let mut batch = batch();
        *batch.last_mut().unwrap() ^= 1;
        let limits = Limits { max_batch_bytes: batch.len() - 1, ..Limits::default() };
        assert_eq!(
            validate(&batch, &limits),
            Err(BatchError::BatchTooLarge {
                size: batch.len() as u64,
                limit: batch.len() as u64 - 1
            })
        );
    }

    #[test]
    fn one_byte_more_or_less_is_not_a_batch() {
        let mut batch = batch();
        batch.push(0);
        assert!(matches!(
            validate(&batch, &Limits::default()),
            Err(BatchError::WrongLength { .. })
        ));
        batch.truncate(batch.len() - 2);
        assert!(matches!(
            validate(&batch, &Limits::default()),
            Err(BatchError::WrongLength { .. })
        ));
    }

    #[test]
    fn a_producer_may_not_set_flags_or_leave_holes() {
        let limits = Limits::default();
        for attributes in [TIMESTAMP_TYPE_BIT, TRANSACTIONAL_BIT, CONTROL_BIT, 1 << 6, 1 << 15] {
            let batch = with(|header| header.attributes |= attributes);
            assert!(validate(&batch, &limits).is_ok());
            assert!(matches!(
                validate_for_produce(&batch, &limits),
                Err(BatchError::ForbiddenAttributes { .. })
            ));
        }
        let holes = with(|header| header.last_offset_delta = 1);
        assert!(validate(&holes, &limits).is_ok());
        assert!(validate_for_produce(&holes, &limits).is_err());
    }

    #[test]
    fn a_producer_s_id_epoch_and_sequence_come_together() {
        let limits = Limits::default();
        let claim = |id, epoch, sequence| {
            let batch = with(|header| {
                (header.producer_id, header.producer_epoch, header.base_sequence) =
                    (id, epoch, sequence);
            });
            validate_for_produce(&batch, &limits).is_ok()
        };
        assert!(claim(-1, -1, -1) && claim(0, 0, 0) && claim(i64::MAX, i16::MAX, i32::MAX));
        for (id, epoch, sequence) in
            [(-2, -1, -1), (5, -1, 0), (5, 0, -1), (-1, 0, -1), (-1, -1, 0)]
        {
            assert!(!claim(id, epoch, sequence), "{id} {epoch} {sequence}");
        }
    }

    #[test]
    fn more_records_than_the_bytes_can_hold_are_refused() {
        let limits = Limits::default();
        let count = |count: i32| {
            move |header: &mut BatchHeader| {
                (header.records_count, header.last_offset_delta) = (count, count - 1);
            }
        };
        // One record of twelve bytes: there cannot be two.
        for (records, possible) in [(1, true), (2, false), (i32::MAX, false)] {
            let valid = validate_for_produce(&with(count(records)), &limits);
            assert_eq!(valid.is_ok(), possible, "{records}");
        }
        assert!(matches!(
            validate_for_produce(&with(count(i32::MAX)), &limits),
            Err(BatchError::Truncated { .. })
        ));
    }

    #[test]
    fn a_compressed_batch_promises_no_more_records_than_it_can_decompress_to() {
        let limits = Limits::default();
        let mut builder = BatchBuilder::new(Compression::Lz4, limits);
        for _ in 0..5_000 {
            builder.push(1, None, None, NO_HEADERS).unwrap();
        }
        let honest = builder.finish(ProducerInfo::NONE).unwrap();
        assert!(validate_for_produce(&honest, &limits).is_ok());
        // Its one block can become 64 KiB at the most.
        for (count, possible) in [((64 << 10) / 7, true), ((64 << 10) / 7 + 1, false)] {
            let claims = changed(honest.to_vec(), |header| {
                (header.records_count, header.last_offset_delta) = (count, count - 1);
            });
            assert_eq!(validate_for_produce(&claims, &limits).is_ok(), possible, "{count}");
        }
    }

    #[test]
    fn a_batch_as_large_as_may_be_is_valid() {
        // Neither limit is a multiple of a block.
        for max_decompressed_bytes in [100_000, 200_001] {
            let limits = Limits { max_decompressed_bytes, ..Limits::default() };
            let mut builder = BatchBuilder::new(Compression::Lz4, limits);
            while builder.push(1, None, Some(&[7; 90]), NO_HEADERS).is_ok() {}
            let batch = builder.finish(ProducerInfo::NONE).unwrap();
            assert!(validate_for_produce(&batch, &limits).is_ok());
        }
    }

    #[test]
    fn an_unknown_codec_is_refused() {
        let gzip = with(|header| header.attributes = 1);
        assert_eq!(
            validate(&gzip, &Limits::default()),
            Err(BatchError::UnsupportedCodec { codec: 1 })
        );
    }
}
