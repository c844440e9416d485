//! The replicated log: everything that names openraft.
//!
//! - ACK: an entry counts as stored when the log's disk has synced it, see
//!   [`log_writer`]; a proposal is answered when a majority has it so and it
//!   is applied.
//! - The log, the vote, the applied state and what it is the state of live in
//!   one RocksDB, see [`db`]; snapshots in files beside it, see
//!   [`snapshot_file`].
//! - No type of openraft leaves this folder: use [`RaftNode`].

mod admission;
mod append_stream;
mod apply;
mod bootstrap;
mod campaign;
#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod damage_tests;
mod db;
mod entry;
mod evidence;
mod fatal;
mod forward;
#[cfg(test)]
mod golden_tests;
mod hash;
mod health;
mod herald;
mod leadership;
mod levels;
mod log_bounds;
mod log_sizes;
mod log_store;
mod log_tail;
mod log_writer;
mod manifest;
mod marks;
mod membership;
#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod memory;
mod message;
mod meta;
mod network;
mod node;
mod options;
mod peers;
mod propose;
mod propose_many;
mod proposer;
#[cfg(test)]
mod pure_tests;
mod read;
mod read_cache;
#[cfg(test)]
mod recovery_tests;
mod server;
mod snapshot_file;
mod snapshot_receive;
mod snapshot_send;
mod snapshot_store;
mod stall;
mod start;
mod state_machine;
mod state_store;
#[cfg(test)]
mod suite_tests;
mod synced;
mod time;
mod types;
mod view;

pub use admission::Refused;
pub use db::{FILES, OpenError, REPAIR_DONE, REPAIR_PLAN, assign, known_as, last_known, owner};
pub use fatal::{FatalReason, leave, set_fatal_hook};
pub use health::{Health, Sizes};
pub use leadership::Leadership;
pub use levels::TooOld;
pub use membership::{Member, MembershipError};
pub use node::{RaftNode, RaftStatus, Role};
pub use options::{KEEP_LOG_BYTES, MAX_COMMAND_BYTES, RaftOptions, SNAPSHOT_EVERY_BYTES};
pub use propose::ProposeError;
pub use read::ReadError;
pub use server::RaftService;
pub use start::StartError;
pub use view::StateView;

use crate::state::reply::Effect;

/// Hears what was applied. Called in log order, by one caller at a time; must
/// not block.
pub trait ApplyObserver: Send + Sync + 'static {
    /// Everything up to `index` is applied, and can be read; since the last
    /// call, this is what it changed.
    fn applied(&self, index: u64, effects: Vec<Effect>);

    /// The whole state was replaced by a snapshot at `index`.
    fn installed(&self, index: u64);
}

/// Cluster time for new commands (CLOCK).
pub trait CommandClock: Send + Sync + 'static {
    /// The time of a command that is proposed now, in milliseconds since the
    /// epoch. Called on the leader only.
    fn stamp_ms(&self) -> u64;

    /// How far cluster time is from wall time, if that is an alarm. Called on
    /// the leader only.
    fn apart(&self) -> Option<std::time::Duration> {
        None
    }
}
