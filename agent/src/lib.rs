//! The StreamHouse agent: it holds write leases, gathers record batches, PUTs objects, commits them to the
//! controllers and acknowledges. It keeps nothing; another one can take over at any moment.
//!
//! `produce stream → per-partition buffers → flush → PUT → commit → acknowledge`
//!
//! * [`inflow`]: the pool that bounds what producers are still sending (BOUND)
//! * [`service`]: the gRPC service; checks batches and admits them as the buffer budget allows (BOUND)
//! * [`engine`]: what to do, decided without I/O: leases, buffers, sequence numbers, what an answer means
//! * [`core`]: the one task that owns the engine, feeds it and does what it decides
//! * [`fate`]: how copies of one batch share what becomes of it (DEDUP)
//! * [`put`], [`commit`], [`look_up`], [`release`], [`attach`], [`session`]: the tasks that talk to the store and the controllers
//! * [`marker`]: the object by which a store is known to be the cluster's
//! * [`collector`]: the sweep for unreachable objects, by the one agent that the controllers chose
//! * [`metrics`], [`outside`]: what it tells of itself
//! * [`agent`]: start, drain and stop

mod agent;
mod attach;
mod backoff;
mod clock;
pub mod collector;
mod commit;
mod controllers;
mod core;
mod engine;
mod fate;
mod inflow;
mod look_up;
mod marker;
mod metrics;
mod options;
mod outside;
mod partition;
mod put;
mod release;
mod run;
mod service;
mod session;
mod ticket;

#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use marker::MarkerError;
pub use options::{AgentOptions, Fatal, ShutdownError, StartError};
