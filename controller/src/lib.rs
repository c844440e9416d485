//! The controllers of StreamHouse: all metadata of a cluster, replicated by
//! Raft and kept in RocksDB.
//!
//! - [`state`]: the state machine, pure functions over a key-value transaction
//! - [`raft`]: everything that names openraft, and the RocksDB beneath it
//! - `service`: the gRPC services, one file each
//! - the rest: what a leader does on its own account ([`clock`], liveness of
//!   sessions, housekeeping) and how changes reach watchers

pub mod clock;
pub mod codec;
mod controller;
mod convert;
mod entropy;
mod errors;
mod housekeeping;
mod hub;
mod join;
mod liveness;
mod options;
pub mod raft;
mod repair_plan;
mod service;
pub mod state;

pub use controller::{Controller, Failure as ControllerFailure, StartError};
pub use join::{RepairError, Repaired, repair};
pub use options::ControllerOptions;
