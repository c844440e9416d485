//! The client library of StreamHouse: [`Producer`], [`Consumer`] and [`Admin`].
//!
//! A producer gathers records into batches and streams them to the agent that holds the write lease of their
//! partition. A consumer asks a controller which byte ranges hold the records it wants and reads those straight from
//! the object store. Both need nothing but the addresses of some controllers; they learn the rest.
//!
//! ```no_run
//! use std::time::Duration;
//! use streamhouse_client::{Consumer, OffsetReset, Producer, Record};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = Producer::builder().controllers(["127.0.0.1:7601"]).build().await?;
//! let delivery = producer.send(Record::to("orders").key("user123").value("order data")).await?;
//! let placed = delivery.await?;
//! println!("{}/{} at offset {}", placed.topic, placed.partition, placed.offset);
//! producer.close().await?;
//!
//! let mut consumer = Consumer::builder()
//!     .controllers(["127.0.0.1:7601"])
//!     .group_id("analytics")
//!     .topics(["orders"])
//!     .offset_reset(OffsetReset::Earliest)
//!     .build()
//!     .await?;
//! for record in consumer.poll(Duration::from_secs(1)).await? {
//!     println!("{} {:?}", record.offset, record.value);
//! }
//! consumer.commit().await?;
//! consumer.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every error says what failed, whether a retry can help (`retryable`) and whether the operation may have taken
//! effect although it is reported as failed (`may_have_taken_effect`).
#![deny(missing_docs)]

mod admin;
mod clock;
mod convert;
mod errors;
mod groups;
mod prometheus;
mod retry;
mod routing;
mod types;

pub mod consumer;
pub mod producer;

pub use admin::{Admin, AdminBuilder, AdminError};
pub use consumer::{Consumer, OffsetReset};
pub use errors::{CallError, Code, ConfigError, Refusal};
pub use groups::{GroupDescription, GroupMember, GroupPartition, GroupState, GroupSummary};
pub use producer::{Producer, Record};
pub use types::{
    AgentStatus, Cluster, ControllerAddress, ControllerStatus, PartitionDescription, Role, Topic,
    TopicDescription, TopicPartition,
};

pub use streamhouse_segment::batch::Compression;
pub use streamhouse_segment::ids::TopicId;
pub use streamhouse_store::Store;
