//! StreamHouse as its users see it: real processes on loopback, through the command line, the client library and what
//! is on disk.
//!
//! One binary, so that what they all use is compiled once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod availability;
mod backup;
mod benchmarks;
mod chaos;
mod consumer;
mod disk;
mod exactly_once;
mod gc;
mod groups;
mod hostile_store;
mod kills_during_produce;
mod limits;
mod local_cluster;
mod membership;
mod observed;
mod offenders;
mod power_cut;
mod promised;
mod raw;
mod reading;
mod round_trip;
mod scale;
mod stale_agent;
mod store_faults;
mod verify;
mod wrong_use;
