//! The 61 bytes in front of a batch's records. The layout is in the [module's documentation](super).

use super::{BatchError, Compression};

/// How long a batch's header is.
pub const HEADER_BYTES: usize = 61;

/// The batch length field counts the bytes behind itself: these twelve lie before.
pub(super) const LENGTH_BYTES: usize = 12;

/// Where the bytes begin that the CRC covers.
pub(super) const CRC_START: usize = 21;

/// The only format we read.
const MAGIC: i8 = 2;

const CODEC_BITS: i16 = 0b111;
pub(super) const TIMESTAMP_TYPE_BIT: i16 = 1 << 3;
pub(super) const TRANSACTIONAL_BIT: i16 = 1 << 4;
pub(super) const CONTROL_BIT: i16 = 1 << 5;

/// Who wrote a batch, and which of the writer's batches it is (KIP-98).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProducerInfo {
    /// The producer's id.
    pub id: i64,
    /// The producer's epoch.
    pub epoch: i16,
    /// The sequence number of the batch's first record.
    pub base_sequence: i32,
}

impl ProducerInfo {
    /// No idempotence: nobody in particular wrote the batch.
    pub const NONE: Self = Self { id: -1, epoch: -1, base_sequence: -1 };
}

/// What a record's timestamp means (KIP-32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TimestampType {
    /// When the producer made the record.
    CreateTime,
    /// When the log took the batch: the batch's max timestamp, for all of its records.
    LogAppendTime,
}

/// A batch's header, field by field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BatchHeader {
    /// The offset of the first record; 0 until the batch was [assigned](super::assign) one.
    pub base_offset: i64,
    /// The bytes behind this field; see [`BatchHeader::total_bytes`].
    pub batch_length: i32,
    /// The lease epoch under which the batch was written; -1 until then.
    pub partition_leader_epoch: i32,
    /// The format, 2.
    pub magic: i8,
    /// CRC-32C (Castagnoli) of everything behind this field.
    pub crc: u32,
    /// Codec, timestamp type and flags; see the accessors.
    pub attributes: i16,
    /// The last record's offset, relative to the base offset.
    pub last_offset_delta: i32,
    /// The first record's timestamp, in milliseconds since 1970.
    pub base_timestamp: i64,
    /// The largest timestamp of any record, in milliseconds since 1970.
    pub max_timestamp: i64,
    /// The producer's id, -1 for none.
    pub producer_id: i64,
    /// The producer's epoch, -1 for none.
    pub producer_epoch: i16,
    /// The sequence number of the first record, -1 for none.
    pub base_sequence: i32,
    /// How many records follow.
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads the header that `bytes` begin with. More bytes may follow, or be missing: see
    /// [`validate`](super::validate) for a check of the whole batch.
    ///
    /// Checked here: enough bytes, the magic, and that length, counts and offsets are in their range, so that
    /// [`total_bytes`](Self::total_bytes) and [`last_offset`](Self::last_offset) cannot overflow.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated {
                what: "record batch header",
                needed: HEADER_BYTES as u64,
                available: bytes.len() as u64,
            });
        };
        let header = Self::read(head);
        header.check()?;
        Ok(header)
    }

    fn read(head: &[u8; HEADER_BYTES]) -> Self {
        Self {
            base_offset: i64::from_be_bytes(field(head, 0)),
            batch_length: i32::from_be_bytes(field(head, 8)),
            partition_leader_epoch: i32::from_be_bytes(field(head, 12)),
            magic: i8::from_be_bytes(field(head, 16)),
            crc: u32::from_be_bytes(field(head, 17)),
            attributes: i16::from_be_bytes(field(head, 21)),
            last_offset_delta: i32::from_be_bytes(field(head, 23)),
            base_timestamp: i64::from_be_bytes(field(head, 27)),
            max_timestamp: i64::from_be_bytes(field(head, 35)),
            producer_id: i64::from_be_bytes(field(head, 43)),
            producer_epoch: i16::from_be_bytes(field(head, 51)),
            base_sequence: i32::from_be_bytes(field(head, 53)),
            records_count: i32::from_be_bytes(field(head, 57)),
        }
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.magic != MAGIC {
            return Err(BatchError::WrongMagic { found: self.magic });
        }
        let wrong = |field, found, expected| Err(BatchError::WrongField { field, found, expected });
        if self.batch_length < (HEADER_BYTES - LENGTH_BYTES) as i32 {
            return wrong(
                "batch length",
                self.batch_length.into(),
                "at least the 49 bytes of the header behind it",
            );
        }
        if self.records_count < 1 {
            return wrong("records count", self.records_count.into(), "at least 1");
        }
        if self.last_offset_delta < self.records_count - 1 {
            return wrong(
                "last offset delta",
                self.last_offset_delta.into(),
                "at least the records count less one",
            );
        }
        if self.base_offset < 0 || self.base_offset > i64::MAX - i64::from(self.last_offset_delta) {
            return wrong(
                "base offset",
                self.base_offset,
                "an offset with room for the batch above it",
            );
        }
        Ok(())
    }

    /// The header's 61 bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        head[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        head[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        head[12..16].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        head[16..17].copy_from_slice(&self.magic.to_be_bytes());
        head[17..21].copy_from_slice(&self.crc.to_be_bytes());
        head[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        head[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        head[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        head[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        head[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        head[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        head[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        head[57..61].copy_from_slice(&self.records_count.to_be_bytes());
        head
    }

    /// The whole batch's length, header included.
    pub fn total_bytes(&self) -> usize {
        LENGTH_BYTES + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// The offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// The sequence number of the last record; after the largest comes 0. -1 without a producer.
    pub fn last_sequence(&self) -> i32 {
        if self.producer_id < 0 {
            return -1;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last & i64::from(i32::MAX)) as i32
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        match self.attributes & CODEC_BITS {
            0 => Ok(Compression::None),
            3 => Ok(Compression::Lz4),
            codec => Err(BatchError::UnsupportedCodec { codec: codec as u8 }),
        }
    }

    /// What the records' timestamps mean.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds a marker for readers (a transaction's end) instead of an application's records.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }
}

/// The attributes of a plain batch with this codec.
pub(super) fn attributes(compression: Compression) -> i16 {
    match compression {
        Compression::None => 0,
        Compression::Lz4 => 3,
    }
}

fn field<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *head[at..].first_chunk().expect("every field lies within the header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            base_offset: 7,
            batch_length: 49,
            partition_leader_epoch: 3,
            magic: 2,
            crc: 0xdead_beef,
            attributes: 0b11_1011,
            last_offset_delta: 4,
            base_timestamp: -1,
            max_timestamp: 1_700_000_000_000,
            producer_id: 11,
            producer_epoch: 2,
            base_sequence: i32::MAX - 1,
            records_count: 5,
        }
    }

    #[test]
    fn a_header_reads_back() {
        assert_eq!(BatchHeader::parse(&header().to_bytes()), Ok(header()));
    }

    #[test]
    fn attributes_name_codec_timestamps_and_flags() {
        let header = header();
        assert_eq!(header.compression(), Ok(Compression::Lz4));
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert!(header.is_transactional() && header.is_control());
        let zstd = BatchHeader { attributes: 4, ..header };
        assert_eq!(zstd.compression(), Err(BatchError::UnsupportedCodec { codec: 4 }));
    }

    #[test]
    fn sequence_numbers_go_on_at_zero() {
        assert_eq!(header().last_sequence(), 2);
        let last = BatchHeader { last_offset_delta: 1, ..header() };
        assert_eq!(last.last_sequence(), i32::MAX);
    }

    #[test]
    fn senseless_fields_are_refused() {
        for wrong in [
            BatchHeader { magic: 1, ..header() },
            BatchHeader { batch_length: 48, ..header() },
            BatchHeader { batch_length: -1, ..header() },
            BatchHeader { records_count: 0, ..header() },
            BatchHeader { records_count: i32::MIN, ..header() },
            BatchHeader { records_count: 6, ..header() },
            BatchHeader { last_offset_delta: -1, ..header() },
            BatchHeader { base_offset: -1, ..header() },
            BatchHeader { base_offset: i64::MAX - 3, ..header() },
        ] {
            assert!(BatchHeader::parse(&wrong.to_bytes()).is_err(), "{wrong:?}");
        }
        assert!(BatchHeader::parse(&header().to_bytes()[..60]).is_err());
    }
}
