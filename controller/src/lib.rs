//! The controllers of StreamHouse: all metadata of a cluster, replicated by
//! Raft and kept in RocksDB.
//!
//! - [`state`]: the state machine, pure functions over a key-value transaction
//! - [`raft`]: everything that names openraft, and the RocksDB beneath it
//! - `service`: the gRPC services, one file each
//! - [`backup`]: copies of the metadata in an object store, and the way back
//! - the rest: what a leader does on its own account ([`clock`], liveness of
//!   sessions, housekeeping) and how changes reach watchers

pub mod backup;
mod calls;
pub mod clock;
pub mod codec;
mod connections;
mod controller;
mod convert;
mod entropy;
mod errors;
mod group_care;
mod group_lag;
mod housekeeping;
mod http;
mod hub;
mod join;
mod journal;
mod limits;
mod liveness;
mod member_bells;
mod metrics;
mod options;
mod places;
pub mod raft;
mod repair_plan;
mod seeds;
mod service;
pub mod state;

pub use controller::{Controller, Failure as ControllerFailure, StartError};
pub use join::{RepairError, Repaired, repair};
pub use limits::Limits;
pub use metrics::Probes;
pub use options::ControllerOptions;
