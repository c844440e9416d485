//! The end-to-end tests' harness: clusters of real processes, driven and observed through the `streamhouse` binary.
//!
//! Nothing outlives a test: every process belongs to a group that a guardian kills when the test ends, panics or is
//! killed itself (see [`guard`]). One cluster runs at a time in each test binary, so that tests do not take each
//! other's processor.

mod binary;
mod clock;
mod cluster;
mod doors;
mod guard;
mod http;
mod local;
mod machine;
mod owners;
mod ports;
mod rows;
mod wait;

pub use binary::{Finished, binary, run, run_with};
pub use clock::{Stopwatch, micros};
pub use cluster::{LocalCluster, Running, Setup};
pub use doors::Doors;
pub use guard::one_at_a_time;
pub use http::http_get;
pub use local::{UpCluster, kill_process, signal};
pub use machine::{busy_share, in_bounds, unless_paused};
pub use nix::sys::signal::Signal;
pub use owners::no_partition_had_two_owners;
pub use ports::{free_base_port, free_ports};
pub use rows::{sample_file, sample_rows, sorted};
pub use streamhouse_chaos::{Disk, Random, Tail};
pub use wait::until;
