//! Giving a finished batch to another producer, or another place among its producer's batches.

use super::header::CRC_START;
use super::{BatchError, BatchHeader, HEADER_BYTES, ProducerInfo};
use bytes::Bytes;

/// A copy of the batch with that producer id, epoch and base sequence, its checksum made right again. The records are
/// the same bytes.
///
/// Fails only if `batch` does not begin with a batch's header.
pub fn restamp(batch: &[u8], producer: ProducerInfo) -> Result<Bytes, BatchError> {
    let mut header = BatchHeader::parse(batch)?;
    header.producer_id = producer.id;
    header.producer_epoch = producer.epoch;
    header.base_sequence = producer.base_sequence;
    let mut stamped = batch.to_vec();
    stamped[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    header.crc = crc32c::crc32c(&stamped[CRC_START..]);
    stamped[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Ok(Bytes::from(stamped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, Compression, Limits, NO_HEADERS, validate_for_produce};

    #[test]
    fn a_restamped_batch_is_the_one_that_would_have_been_built() {
        let built = |producer| {
            let mut builder = BatchBuilder::new(Compression::Lz4, Limits::default());
            builder.push(1, None, Some(&[7; 1_000]), NO_HEADERS).unwrap();
            builder.finish(producer).unwrap()
        };
        let info = ProducerInfo { id: 5, epoch: 2, base_sequence: 70_000 };
        let stamped = restamp(&built(ProducerInfo::NONE), info).unwrap();
        assert_eq!(stamped, built(info));
        validate_for_produce(&stamped, &Limits::default()).unwrap();
        assert!(restamp(&stamped[..60], info).is_err());
    }
}
