//! Real nodes, several to a process: their log, their state and their services through public interfaces.
//!
//! One binary, so that what they all use is compiled once.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests own what they start")]

mod lookup_service;
mod member_liveness;
mod raft_cluster;
mod raft_levels;
mod raft_members;
mod raft_reads;
mod raft_retry;
mod raft_storage;
mod raft_strangers;
mod raft_support;
mod sessions_service;
mod watch_service;
