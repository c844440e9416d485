//! What the footer, and later the commit, say about one slice. The layout is in the [module's documentation](super).

use super::ObjectError;
use super::wire::Reader;
use crate::ids::TopicId;

/// How long a slice is in the footer, without its two lists.
pub(super) const SLICE_BYTES: usize = 102;
pub(super) const PRODUCER_BYTES: usize = 34;
pub(super) const SPARSE_POINT_BYTES: usize = 12;

/// One slice: a run of offsets of one partition, bound to one byte range and its checksum (invariant DENSE).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SliceMeta {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
    /// The lease epoch under which it was written.
    pub lease_epoch: u32,
    /// The offset at which that epoch began.
    pub epoch_start_offset: u64,
    /// The first offset.
    pub base_offset: u64,
    /// The last offset, inclusive.
    pub last_offset: u64,
    /// How many records there are.
    pub record_count: u32,
    /// Where the slice begins, in bytes from the start of the object.
    pub position: u64,
    /// How long the slice is, in bytes.
    pub length: u32,
    /// CRC-32C of the slice's bytes.
    pub crc32c: u32,
    /// When the log took the slice: milliseconds of cluster time.
    pub append_time_ms: u64,
    /// The smallest base timestamp of any batch: milliseconds, as the clients gave them.
    pub min_timestamp_ms: i64,
    /// The largest timestamp of any record: milliseconds, as the clients gave them.
    pub max_timestamp_ms: i64,
    /// One entry for each batch of an idempotent producer, in order.
    pub producers: Vec<ProducerState>,
    /// What kinds of batches there are.
    pub flags: SliceFlags,
    /// Batches to begin reading at, in order; the slice's start goes without saying.
    pub sparse_index: Vec<SparsePoint>,
}

/// One batch of an idempotent producer: what the log will know it by (invariant DEDUP).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProducerState {
    /// The producer's id.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The sequence number of the batch's first record.
    pub base_sequence: i32,
    /// The sequence number of the batch's last record; after `i32::MAX` comes 0.
    pub last_sequence: i32,
    /// The first record's offset.
    pub base_offset: u64,
    /// The last record's offset.
    pub last_offset: u64,
}

/// A batch's place in its slice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SparsePoint {
    /// The batch's base offset.
    pub offset: u64,
    /// Where the batch begins, in bytes from the start of the slice.
    pub position: u32,
}

/// What kinds of batches a slice holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SliceFlags(u16);

impl SliceFlags {
    /// Only plain batches.
    pub const NONE: Self = Self(0);
    /// Some batch belongs to a transaction.
    pub const TRANSACTIONAL: Self = Self(1 << 0);
    /// Some batch is a control batch.
    pub const CONTROL: Self = Self(1 << 1);

    const KNOWN: u16 = Self::TRANSACTIONAL.0 | Self::CONTROL.0;

    /// The flags as stored.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The flags that `bits` mean; `None` if there is one among them that means nothing.
    pub fn from_bits(bits: u16) -> Option<Self> {
        (bits & !Self::KNOWN == 0).then_some(Self(bits))
    }

    /// Whether all of `flags` are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These flags and those.
    #[must_use]
    pub fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

impl SliceMeta {
    /// Where in the slice to begin reading for `offset`, in bytes from its start: at or before the batch that holds it.
    pub fn seek_position(&self, offset: u64) -> u32 {
        let after = self.sparse_index.partition_point(|point| point.offset <= offset);
        after.checked_sub(1).map_or(0, |index| self.sparse_index[index].position)
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        SLICE_BYTES
            + self.producers.len() * PRODUCER_BYTES
            + self.sparse_index.len() * SPARSE_POINT_BYTES
    }

    pub(super) fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.topic.to_bytes());
        buffer.extend_from_slice(&self.partition.to_le_bytes());
        buffer.extend_from_slice(&self.lease_epoch.to_le_bytes());
        buffer.extend_from_slice(&self.epoch_start_offset.to_le_bytes());
        buffer.extend_from_slice(&self.base_offset.to_le_bytes());
        buffer.extend_from_slice(&self.last_offset.to_le_bytes());
        buffer.extend_from_slice(&self.record_count.to_le_bytes());
        buffer.extend_from_slice(&self.position.to_le_bytes());
        buffer.extend_from_slice(&self.length.to_le_bytes());
        buffer.extend_from_slice(&self.crc32c.to_le_bytes());
        buffer.extend_from_slice(&self.append_time_ms.to_le_bytes());
        buffer.extend_from_slice(&self.min_timestamp_ms.to_le_bytes());
        buffer.extend_from_slice(&self.max_timestamp_ms.to_le_bytes());
        buffer.extend_from_slice(&self.flags.bits().to_le_bytes());
        buffer.extend_from_slice(&(self.producers.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(self.sparse_index.len() as u32).to_le_bytes());
        for producer in &self.producers {
            producer.encode(buffer);
        }
        for point in &self.sparse_index {
            buffer.extend_from_slice(&point.offset.to_le_bytes());
            buffer.extend_from_slice(&point.position.to_le_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, ObjectError> {
        // In the order of the fields as they are written: struct expressions are evaluated in the order written.
        let mut slice = Self {
            topic: TopicId::from_bytes(reader.array()?),
            partition: reader.u32()?,
            lease_epoch: reader.u32()?,
            epoch_start_offset: reader.u64()?,
            base_offset: reader.u64()?,
            last_offset: reader.u64()?,
            record_count: reader.u32()?,
            position: reader.u64()?,
            length: reader.u32()?,
            crc32c: reader.u32()?,
            append_time_ms: reader.u64()?,
            min_timestamp_ms: reader.i64()?,
            max_timestamp_ms: reader.i64()?,
            flags: decode_flags(reader.u16()?)?,
            producers: Vec::new(),
            sparse_index: Vec::new(),
        };
        let producers = reader.u32()?;
        let sparse_points = reader.u32()?;
        slice.producers = reader.list(producers, PRODUCER_BYTES, ProducerState::decode)?;
        slice.sparse_index = reader.list(sparse_points, SPARSE_POINT_BYTES, |reader| {
            Ok(SparsePoint { offset: reader.u64()?, position: reader.u32()? })
        })?;
        Ok(slice)
    }
}

impl ProducerState {
    fn encode(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.producer_id.to_le_bytes());
        buffer.extend_from_slice(&self.producer_epoch.to_le_bytes());
        buffer.extend_from_slice(&self.base_sequence.to_le_bytes());
        buffer.extend_from_slice(&self.last_sequence.to_le_bytes());
        buffer.extend_from_slice(&self.base_offset.to_le_bytes());
        buffer.extend_from_slice(&self.last_offset.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, ObjectError> {
        Ok(Self {
            producer_id: reader.i64()?,
            producer_epoch: reader.i16()?,
            base_sequence: reader.i32()?,
            last_sequence: reader.i32()?,
            base_offset: reader.u64()?,
            last_offset: reader.u64()?,
        })
    }
}

fn decode_flags(bits: u16) -> Result<SliceFlags, ObjectError> {
    SliceFlags::from_bits(bits)
        .ok_or(ObjectError::Unknown { field: "slice flags", found: bits.into() })
}
