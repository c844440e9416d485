//! The failures after which this process must not go on, each with a name and
//! an exit code of its own.
//!
//! What is on disk is then unknown or unreadable; a restart reads it afresh,
//! a retry would build on a guess.

use super::db::{Db, OpenError};
use std::fmt;
use std::sync::OnceLock;

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FatalReason {
    /// What is on the disk is not what was written.
    DiskDamaged,
    /// A write or sync of the log failed, or of the state, which goes to the
    /// same file; so what it holds is unknown.
    LogDiskFailed,
    /// A write of the log did not end for so long that the disk is given up.
    LogDiskStuck,
    /// The state could not be read.
    StateDiskFailed,
    /// A snapshot could not be written, or what was received not be kept.
    SnapshotDiskFailed,
    /// A committed command cannot be decoded by this release.
    CommandUnreadable,
    /// The cluster uses a feature level that this release does not read.
    FeatureLevelUnknown,
    /// Raft itself stopped: its storage reported damage, or it panicked.
    RaftStopped,
}

impl FatalReason {
    /// The name in the log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskDamaged => "disk-damaged",
            Self::LogDiskFailed => "log-disk-failed",
            Self::LogDiskStuck => "log-disk-stuck",
            Self::StateDiskFailed => "state-disk-failed",
            Self::SnapshotDiskFailed => "snapshot-disk-failed",
            Self::CommandUnreadable => "command-unreadable",
            Self::FeatureLevelUnknown => "feature-level-unknown",
            Self::RaftStopped => "raft-stopped",
        }
    }

    /// The exit code of the process: that of damage is the same when it is
    /// found at start.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::DiskDamaged => 5,
            Self::LogDiskFailed => 74,
            Self::LogDiskStuck => 75,
            Self::StateDiskFailed => 76,
            Self::CommandUnreadable => 77,
            Self::RaftStopped => 78,
            Self::FeatureLevelUnknown => 79,
            Self::SnapshotDiskFailed => 80,
        }
    }
}

/// Ends the process after its controller was stopped and everything is
/// durable.
///
/// A task that is just ending may still hold the database; RocksDB's static
/// destructors would abort under it, and an orderly stop look like a crash.
#[expect(unsafe_code, reason = "there is no safe way to end a process without its destructors")]
pub fn leave(code: u8) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

static HOOK: OnceLock<fn(FatalReason)> = OnceLock::new();

/// For tests: `hook` is called instead of ending the process; the failing
/// thread then panics. The first hook stays.
pub fn set_fatal_hook(hook: fn(FatalReason)) {
    HOOK.get_or_init(|| hook);
}

/// Logs the reason and ends the process.
///
/// `_exit` and not `exit`: RocksDB is still open and at work, and its static
/// destructors would abort under it and hide the exit code.
#[expect(unsafe_code, reason = "there is no safe way to end a process without its destructors")]
pub(crate) fn fatal(reason: FatalReason, detail: impl fmt::Display) -> ! {
    let name = reason.name();
    tracing::error!(reason = name, %detail, "fatal: the controller stops");
    match HOOK.get() {
        Some(hook) => {
            hook(reason);
            panic!("fatal: {name}: {detail}");
        }
        // SAFETY: `_exit` has no preconditions.
        None => unsafe { libc::_exit(reason.exit_code()) },
    }
}

/// Ends the process over what RocksDB said: as damaged if that is what it met,
/// perhaps as it merged tables and nobody had asked for them; else for
/// `reason`.
///
/// Its messages begin with their kind; its binding knows it from there, too.
pub(crate) fn database_failed(reason: FatalReason, db: &Db, what: impl fmt::Display) -> ! {
    let what = what.to_string();
    match what.starts_with("Corruption:") {
        true => damaged(db, what),
        false => fatal(reason, what),
    }
}

/// Ends the process over damage, with the way out that a start tells as well.
pub(crate) fn damaged(db: &Db, what: String) -> ! {
    let database = db.rocks().path();
    let path = database.parent().unwrap_or(database).to_owned();
    fatal(FatalReason::DiskDamaged, OpenError::Damaged { path, what })
}
