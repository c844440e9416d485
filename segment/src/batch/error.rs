//! What can be wrong with a batch.

use thiserror::Error;

/// Why a batch, or a record for one, was refused. Nothing here can be helped by trying the same bytes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BatchError {
    /// The bytes end early.
    #[error("{what} needs {needed} bytes, {available} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// How many bytes it takes.
        needed: u64,
        /// How many there are.
        available: u64,
    },
    /// The length field does not describe the bytes at hand.
    #[error("batch length says {declared} bytes in all, found {found}")]
    WrongLength {
        /// The whole batch's length, as its header has it.
        declared: i64,
        /// The bytes that were given.
        found: u64,
    },
    /// Another format than v2.
    #[error("record batch magic is {found}, expected 2")]
    WrongMagic {
        /// The magic byte found.
        found: i8,
    },
    /// The bytes were damaged.
    #[error("record batch checksum is {found:#010x}, its header says {expected:#010x}")]
    WrongChecksum {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        found: u32,
    },
    /// Compressed in a way we do not read.
    #[error("compression codec {codec} is not supported, only none (0) and lz4 (3) are")]
    UnsupportedCodec {
        /// The codec number in the attributes.
        codec: u8,
    },
    /// Attributes that a producer must not set.
    #[error("attributes {attributes:#06x} set bits that a producer may not set ({forbidden:#06x})")]
    ForbiddenAttributes {
        /// The attributes found.
        attributes: u16,
        /// The offending bits among them.
        forbidden: u16,
    },
    /// A header field with a value that makes no sense.
    #[error("{field} is {found}, expected {expected}")]
    WrongField {
        /// The field's name.
        field: &'static str,
        /// Its value.
        found: i64,
        /// What would have been right.
        expected: &'static str,
    },
    /// A record over the limit.
    #[error("record of {size} bytes is over the limit of {limit}")]
    RecordTooLarge {
        /// The record's encoded size.
        size: u64,
        /// [`Limits::max_record_bytes`](super::Limits::max_record_bytes).
        limit: u64,
    },
    /// No room for this record in this batch; it may well fit into a new one.
    #[error("batch would grow to {size} bytes, over the limit of {limit}")]
    BatchFull {
        /// What the batch would grow to.
        size: u64,
        /// What it may have.
        limit: u64,
    },
    /// A batch over the limit.
    #[error("batch of {size} bytes is over the limit of {limit}")]
    BatchTooLarge {
        /// The whole batch's size.
        size: u64,
        /// [`Limits::max_batch_bytes`](super::Limits::max_batch_bytes).
        limit: u64,
    },
    /// A batch that decompresses to more than the limit.
    #[error("batch decompresses to more than the limit of {limit} bytes")]
    DecompressedTooLarge {
        /// [`Limits::max_decompressed_bytes`](super::Limits::max_decompressed_bytes).
        limit: u64,
    },
    /// A batch must have a record.
    #[error("batch has no record")]
    Empty,
    /// The LZ4 frame is broken although the checksum holds: its producer wrote it so.
    #[error("malformed lz4 frame at byte {position}: {problem}")]
    MalformedLz4 {
        /// Where in the frame.
        position: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A record is broken although the checksum holds: its producer wrote it so.
    #[error("malformed record {index}: {problem}")]
    MalformedRecord {
        /// Which record of the batch, from 0.
        index: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Something follows the last record.
    #[error("{found} bytes follow the last record")]
    TrailingBytes {
        /// How many.
        found: u64,
    },
}
