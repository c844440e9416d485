//! The object: what one PUT writes, immutable and self-describing.
//!
//! It holds one *slice* per topic and partition, record batches back to back, and a footer that says all that the
//! slices' commit will say, so that the segment index can be rebuilt from the bucket alone. This is our own format,
//! version 1. Integers are little-endian and of fixed width, ids are sixteen bytes in the order of RFC 9562; record
//! batches inside slices keep Kafka's big-endian layout (see [`batch`](crate::batch)).
//!
//! ```text
//! header, 64 bytes
//!   0  magic            8 bytes "SHOBJECT"
//!   8  format version   u16     1
//!  10  header length    u16     64
//!  12  cluster id       16 bytes
//!  28  generation       u32 counter, u64 random
//!  40  session id       u64
//!  48  object sequence  u64
//!  56  reserved         u32     0
//!  60  CRC-32C          u32     over bytes 0..60
//!
//! slices: the first begins at byte 64, each at the end of the one before
//!
//! footer, begins at the end of the last slice
//!   0  cluster id, generation, session id, object sequence: as in the header (44 bytes)
//!  44  slice count      u32     at most 4096
//!  48  outcome count    u32
//!  52  slices           see below
//!      outcomes         each: sequence u64, slice u32, outcome u8 (0 accepted, 1 refused, 2 abandoned)
//!      extension length u32
//!      extensions       each: tag u16, flags u8 (bit 0: required), length u32, bytes
//!
//! slice in the footer, 102 bytes and two lists
//!   0  topic id            16 bytes
//!  16  partition           u32
//!  20  lease epoch         u32
//!  24  epoch start offset  u64
//!  32  base offset         u64
//!  40  last offset         u64
//!  48  record count        u32
//!  52  position            u64   from the start of the object
//!  60  length              u32   in bytes
//!  64  CRC-32C             u32   over the slice's bytes
//!  68  append time         u64   milliseconds of cluster time
//!  76  min timestamp       i64   milliseconds
//!  84  max timestamp       i64   milliseconds
//!  92  flags               u16   bit 0 transactional, bit 1 control
//!  94  producer count      u32
//!  98  sparse point count  u32
//! 102  producers           each: id i64, epoch i16, base sequence i32, last sequence i32, base offset u64,
//!                          last offset u64
//!      sparse points       each: offset u64, position u32 from the start of the slice
//!
//! trailer, 16 bytes
//!   0  footer length    u32
//!   4  footer CRC-32C   u32     over the footer
//!   8  magic            8 bytes "SHFOOTER"
//! ```
//!
//! How the format grows: a reader skips an extension it does not know, unless its *required* bit is set; then it
//! refuses the object. Anything that no extension can express raises the format version.
//!
//! A reader of the tail alone (trailer, then footer) learns whose object it is, what is in it and where; a reader of
//! one slice alone checks it with [`verify_slice`] against what the index says.

mod builder;
mod error;
mod extension;
mod footer;
mod header;
mod outcome;
mod parse;
mod slice;
mod tally;
mod trailer;
mod verify;
mod wire;

pub use builder::{EncodedObject, ObjectBuilder, SliceStart};
pub use error::ObjectError;
pub use extension::Extension;
pub use footer::Footer;
pub use header::{OBJECT_HEADER_BYTES, ObjectHeader};
pub use outcome::{Outcome, SliceOutcome};
pub use parse::Object;
pub use slice::{ProducerState, SliceFlags, SliceMeta, SparsePoint};
pub use trailer::{TRAILER_BYTES, Trailer};
pub use verify::verify_slice;

/// The most slices an object may have, so that its commit always fits one log entry.
pub const MAX_SLICES: usize = 4096;

/// The most bytes that a footer may have: what a reader must be ready to fetch. Default and maximum, 8 MiB.
pub const MAX_FOOTER_BYTES: usize = 8 << 20;

/// The most batches for which every object has room in its footer, however many slices they make.
pub const MAX_BATCHES: usize = 64 << 10;

/// The most outcomes for which every object has room in its footer.
pub const MAX_OUTCOMES: usize = 300_000;

/// About how many bytes of a slice lie between two points of its sparse index.
pub const SPARSE_INTERVAL_BYTES: u32 = 64 << 10;
