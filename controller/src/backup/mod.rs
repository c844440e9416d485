//! Backups of the metadata, and the way back.
//!
//! A backup is one object: all metadata as of one index, see [`file`]. It is
//! taken by a command or on a schedule, and restored into a new, empty
//! cluster, whose index is then rolled forward from the footers of the objects
//! that were written after the backup, see [`chain`].

mod bucket;
pub mod chain;
mod error;
pub mod file;
mod forward;
mod patience;
pub(crate) mod place;
mod report;
mod restore;
pub(crate) mod schedule;
mod survey;
pub(crate) mod take;

pub use error::BackupError;
pub use report::{NotPlaced, Restored, RolledForward, SliceName};
pub use restore::{Objects, restore};
pub use schedule::BackupPlan;
pub use take::{Taken, take};
