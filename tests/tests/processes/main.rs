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
mod controllers_down;
mod disk;
mod exactly_once;
mod examples;
mod floods;
mod gc;
mod group_figures;
mod group_upkeep;
mod groups;
mod hostile_store;
mod kills_during_produce;
mod large_topics;
mod leader_kills;
mod leases;
mod limits;
mod load;
mod local_cluster;
mod member_process;
mod membership;
mod observed;
mod offenders;
mod other_cluster;
mod power_cut;
mod promised;
mod raw;
mod reading;
mod redelivery;
mod round_trip;
mod scale;
mod snapshots_on_disk;
mod stale_agent;
mod store_faults;
mod thousand_members;
mod verify;
mod wrong_use;
