//! [`Producer`]: records in, offsets out.
//!
//! ```text
//! send ── partitioner ──▶ Buffer (one per partition: an open batch, sealed batches)
//!                           │ taken when full or when the linger is over
//!                           ▼
//!                  partition task: compress, Window (what is in flight, in which order), retry
//!                           │
//!                           ▼
//!                  agent link: one stream per agent, shared by all partitions
//! ```
//!
//! **Order.** Several batches of a partition may be in flight, all on one stream. If one of them fails in a way that a
//! retry may help, nothing new is sent for the partition until the fate of every later batch in flight is known; then
//! what failed is sent again in its original order, the first batch alone until it is written. So the *first* appearance
//! of every record keeps its place, because an agent that refuses a batch also refuses those of its partition that come
//! behind it on the stream, up to one that says `restart`: the first batch that goes out after such a failure, and the
//! first of a partition on a stream. `max_in_flight(1)` gives the same without relying on the agent.
//!
//! **Duplicates.** An idempotent producer, which is the default, numbers its batches, and the cluster writes each once. A
//! batch that is given up is *settled* first, so that it is known to be written or not: see `partition_task/settling.rs`.
//! Without idempotence a batch whose outcome is unknown (connection lost, no answer in time) is sent again, and may then
//! be in the log twice; [`ProducerMetrics::ambiguous_retries`] counts these.

mod agent_link;
mod buffer;
mod builder;
mod config;
mod delivery;
mod error;
mod handle;
mod histogram;
mod identity;
mod metrics;
mod murmur2;
mod outcome;
mod pace;
mod partition_task;
mod partitioner;
mod prometheus;
mod record;
mod room;
mod sending;
mod topics;
mod window;

pub use builder::ProducerBuilder;
pub use delivery::{Delivery, Placed};
pub use error::{FlushError, ProduceError};
pub use handle::Producer;
pub use histogram::Histogram;
pub use metrics::ProducerMetrics;
pub use partitioner::{ChoosePartition, Partitioner};
pub use record::{Payload, Record};
pub use sending::Sending;
