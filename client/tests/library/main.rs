//! The client library against fake controllers, fake agents and a memory store.
//!
//! One binary, so that what they all use is compiled once.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "fake servers end with the test, and a failed step is a failed test"
)]

mod consuming;
mod grouping;
mod hostile_store;
mod idempotence;
mod joining;
mod positions;
mod producer_library;
mod producing;
mod read_path;
mod redelivery;
mod subscribing;
mod world;
