//! [`Consumer`]: reads partitions in order, straight from the object store.
//!
//! ```text
//! controllers ──watch: new high watermarks──┐
//!             ──look-up: which ranges───────┤
//! object store ──range GETs, in parallel──▶ Fetcher (a task) ──decoded batches, in order──▶ Ready ──▶ poll
//! ```
//!
//! The fetcher works ahead of `poll` within a memory limit. What several partitions want of one object is fetched by one
//! GET; ranges are fetched in parallel and decoded off the polling task, but handed out in offset order. READ: a range
//! whose object is missing, or whose checksum does not hold, is planned or fetched again, and if that does not help, it
//! stops its partition with an error that names it; nothing is ever skipped, and the next poll tries again.
//!
//! A consumer that has read everything makes no look-up and no GET until the watch stream tells of new records.
//!
//! Which partitions are read is decided elsewhere and comes in as events: see `assignment`; for a member of a consumer
//! group by the controllers: see `group`.

mod assignment;
mod bookkeeping;
mod budget;
mod buffers;
mod builder;
mod cache;
mod commit;
mod committing;
mod decode;
mod discovery;
mod error;
mod fetcher;
mod group;
mod handle;
mod hedge;
mod joint;
mod locate;
mod metrics;
mod offsets;
mod plan;
mod prometheus;
mod ready;
mod records;
mod slot;
mod source;
mod stream;
mod subscription;
mod table;
mod targets;
mod times;
mod watch;

pub use builder::{ConsumerBuilder, OffsetReset};
pub use cache::{CacheError, SegmentCache, SegmentCacheBuilder};
pub use commit::{CommittedOffset, PendingCommit};
pub use error::ConsumeError;
pub use group::{Assignor, RebalanceListener};
pub use handle::Consumer;
pub use locate::RecordLocation;
pub use metrics::ConsumerMetrics;
pub use records::{IntoIter, Record, Records};
pub use streamhouse_segment::batch::Headers;
pub use times::OffsetAndTimestamp;
