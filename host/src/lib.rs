//! What a process of StreamHouse asks of the machine it runs on, asked in one place: time, threads, connections.
//!
//! A release gets them from the operating system. With the feature `simulated` they come from a machine that a seed
//! drives, in one thread with all others (chaos/sim): time passes when the simulation says so, whatever would run on a
//! thread of its own runs as a task that is late by chance, and connections lead through a simulated network.
//!
//! | module | a release | the simulation |
//! |---|---|---|
//! | [`clock`] | the system's clocks | the host's, which the simulation moves |
//! | [`net`] | TCP | turmoil's network |
//! | [`threads`] | threads | tasks that are late by chance |
//! | [`planted`] | nothing | mistakes, one at a time, for the simulation to find |

pub mod clock;
pub mod net;
pub mod planted;
pub mod threads;

#[cfg(feature = "simulated")]
pub mod simulated;

pub use planted::{Mistake, is_planted};
pub use threads::{Worker, disk_latency, spawn_blocking, spawn_blocking_on};

/// Mistakes can be planted into what is built with this. A release asserts that they cannot.
pub const PLANTABLE: bool = cfg!(feature = "planted");
