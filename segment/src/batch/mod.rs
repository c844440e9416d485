//! The record batch: Kafka's v2 format (magic 2), bit for bit.
//!
//! Sources: KIP-98 (the v2 format, producer ids, epochs and sequences), KIP-82 (record headers) and the section
//! "Record Batch" of the Kafka protocol documentation.
//!
//! ```text
//!  0  base offset             i64     not covered by the CRC: the agent writes it
//!  8  batch length            i32     bytes after this field
//! 12  partition leader epoch  i32     not covered by the CRC: the agent writes the lease epoch
//! 16  magic                   i8      2
//! 17  CRC-32C                 u32     over everything from the attributes to the end
//! 21  attributes              i16     bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//! 23  last offset delta       i32
//! 27  base timestamp          i64     of the first record, in milliseconds
//! 35  max timestamp           i64
//! 43  producer id             i64     -1: none
//! 51  producer epoch          i16     -1: none
//! 53  base sequence           i32     -1: none
//! 57  records count           i32
//! 61  records                         plain, or one LZ4 frame around all of them
//!
//! record = length, attributes i8, timestamp delta, offset delta,
//!          key length, key, value length, value, header count, headers      (length -1: null)
//! header = key length, key, value length, value
//! ```
//!
//! Integers are big-endian; lengths, counts and deltas inside records are zigzag varints.
//!
//! A producer compresses a batch once ([`BatchBuilder`]), an agent checks it ([`validate_for_produce`]) and stamps the
//! sixteen bytes that lie outside the CRC ([`assign`]), a consumer decompresses it once ([`decode`]) and hands out
//! slices of that one buffer.

mod assign;
mod builder;
mod decode;
mod error;
mod header;
mod headers;
mod lz4;
mod record;
mod restamp;
mod split;
mod validate;
mod varint;

pub use assign::assign;
pub use builder::{BatchBuilder, NO_HEADERS};
pub use decode::{DecodedBatch, RecordRefs, Records, decode, decode_into, decoded_bound};
pub use error::BatchError;
pub use header::{BatchHeader, HEADER_BYTES, ProducerInfo, TimestampType};
pub use headers::{Headers, HeadersIter, HeadersRef};
pub use record::{Record, RecordRef};
pub use restamp::restamp;
pub(crate) use split::whole_batch;
pub use split::{Split, split};
pub use validate::{validate, validate_for_produce};

/// How the records of a batch are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Compression {
    /// Not at all (codec 0).
    #[default]
    None,
    /// One LZ4 frame (codec 3).
    Lz4,
}

/// What a batch may cost whoever handles it. Invariant BOUND: checked before anything is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest record, as encoded (key, value, headers and a few bytes of framing). Default: 1 MiB.
    pub max_record_bytes: usize,
    /// The largest batch, whole, as stored and sent. Default: 16 MiB.
    pub max_batch_bytes: usize,
    /// The most that a batch's records may decompress to. Default: 64 MiB.
    pub max_decompressed_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_record_bytes: 1 << 20,
            max_batch_bytes: 16 << 20,
            max_decompressed_bytes: 64 << 20,
        }
    }
}
