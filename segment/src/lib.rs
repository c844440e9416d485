//! Record batches, objects, ids and keys of StreamHouse: bytes in, bytes out. No I/O, no clock, no async.
//!
//! * [`ids`], [`keys`]: what names a cluster, a topic, a session and an object, and where an object is stored
//! * [`batch`]: Kafka's v2 record batch, which producers make, agents stamp and consumers read
//! * [`object`]: the immutable, self-describing file of many partitions' batches that an agent PUTs
//! * [`sequences`]: which batches of an idempotent producer a partition has
//!
//! Nothing here trusts its input: whatever the bytes, the answer is a value or an error, never a panic, and nothing is
//! allocated that a limit does not allow.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backup_name;
pub mod batch;
pub mod ids;
pub mod keys;
pub mod object;
pub mod sequences;

pub use backup_name::BackupName;
pub use batch::{
    BatchBuilder, BatchError, BatchHeader, Compression, DecodedBatch, Headers, Limits, NO_HEADERS,
    ProducerInfo, Record, RecordRef, assign, decode, split, validate, validate_for_produce,
};
pub use ids::{ClusterId, Generation, IdError, ObjectId, SessionId, TopicId};
pub use keys::KeyError;
pub use object::{
    EncodedObject, Footer, MAX_BATCHES, MAX_OUTCOMES, MAX_SLICES, Object, ObjectBuilder,
    ObjectError, ObjectHeader, Outcome, ProducerState, SliceFlags, SliceMeta, SliceOutcome,
    SliceStart, SparsePoint, TRAILER_BYTES, Trailer, verify_slice,
};
