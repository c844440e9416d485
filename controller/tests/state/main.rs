//! The state machine, through `apply` alone: over a map in memory, one
//! command after another, as the log would have it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests own what they start")]

mod assignors;
mod collector;
mod commits;
mod golden;
mod groups;
mod groups_large;
mod groups_model;
mod level1;
mod machine;
mod model;
mod placement;
mod producers;
mod purity;
mod requests;
mod restore;
mod topics;
