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
mod idempotence;
mod producer_library;
mod producing;
mod read_path;
mod subscribing;
mod world;
