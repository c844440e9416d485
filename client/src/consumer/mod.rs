//! [`Consumer`]: reads partitions in order, straight from the object store.
//!
//! ```text
//! controllers ──watch: new high watermarks──┐
//!             ──look-up: which ranges───────┤
//! object store ──range GETs, in parallel──▶ Fetcher (a task) ──decoded batches, in order──▶ Ready ──▶ poll
//! ```
//!
//! The fetcher works ahead of `poll` within a memory limit. Each partition's ranges are fetched in parallel and decoded
//! off the polling task, but handed out in offset order. READ: a range whose object is missing, or whose checksum does
//! not hold, stops its partition with an error that names it; nothing is ever skipped, and the next poll tries again.
//!
//! A consumer that has read everything makes no look-up and no GET until the watch stream tells of new records.

mod bookkeeping;
mod builder;
mod commit;
mod decode;
mod error;
mod fetcher;
mod handle;
mod metrics;
mod offsets;
mod plan;
mod ready;
mod records;
mod slot;
mod source;
mod targets;
mod watch;

pub use builder::{ConsumerBuilder, OffsetReset};
pub use error::ConsumeError;
pub use handle::Consumer;
pub use metrics::ConsumerMetrics;
pub use records::{IntoIter, Record, Records};
pub use streamhouse_segment::batch::Headers;
