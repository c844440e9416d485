//! What a sweep found and did.

use serde::Serialize;
use streamhouse_proto::v1;
use streamhouse_store::Listed;

/// BOUND: of an error that is kept in the controllers' state.
const MAX_ERROR_CHARS: usize = 240;

/// Counts are of objects, sizes in bytes, times in milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SweepReport {
    /// Cluster time at which it ended; 0 while it goes on.
    pub finished_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// All objects found.
    pub listed: u64,
    /// Their size.
    pub listed_bytes: u64,
    /// Those that nothing can refer to any more.
    pub orphans: u64,
    /// Their size.
    pub orphan_bytes: u64,
    /// Those of them that were deleted.
    pub deleted: u64,
    /// Their size.
    pub deleted_bytes: u64,
    /// Nothing refers to them any more, but the readers' grace is not over.
    pub waiting: u64,
    /// Nothing refers to them any more, but a kept backup may.
    pub kept_for_backups: u64,
    /// Of older generations, which no operator has confirmed.
    pub unconfirmed: u64,
    /// Not this cluster's, or with a name that no agent gives: never touched.
    pub foreign: u64,
    /// Requests to the store that failed.
    pub errors: u64,
    /// The store's time of the oldest orphan; 0 without one.
    pub oldest_orphan_ms: u64,
    /// The last of the errors, or empty.
    pub last_error: String,
}

/// What a sweep would do that deletes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DryRun {
    /// What it found.
    #[serde(flatten)]
    pub report: SweepReport,
    /// Keys of orphans, the first 1,000.
    pub keys: Vec<String>,
}

impl SweepReport {
    pub(super) fn orphan(&mut self, listed: &Listed) {
        self.orphans += 1;
        self.orphan_bytes += listed.size;
        let oldest = self.oldest_orphan_ms;
        if oldest == 0 || listed.modified_ms < oldest {
            self.oldest_orphan_ms = listed.modified_ms;
        }
    }

    pub(super) fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.errors += 1;
        self.last_error = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
    }

    pub(super) fn to_wire(&self) -> v1::SweepReport {
        v1::SweepReport {
            finished_ms: self.finished_ms,
            took_ms: self.took_ms,
            listed: self.listed,
            listed_bytes: self.listed_bytes,
            orphans: self.orphans,
            orphan_bytes: self.orphan_bytes,
            deleted: self.deleted,
            deleted_bytes: self.deleted_bytes,
            waiting: self.waiting,
            kept_for_backups: self.kept_for_backups,
            unconfirmed: self.unconfirmed,
            foreign: self.foreign,
            errors: self.errors,
            oldest_orphan_ms: self.oldest_orphan_ms,
            last_error: self.last_error.clone(),
        }
    }

    pub(super) fn from_wire(wire: v1::SweepReport) -> Self {
        Self {
            finished_ms: wire.finished_ms,
            took_ms: wire.took_ms,
            listed: wire.listed,
            listed_bytes: wire.listed_bytes,
            orphans: wire.orphans,
            orphan_bytes: wire.orphan_bytes,
            deleted: wire.deleted,
            deleted_bytes: wire.deleted_bytes,
            waiting: wire.waiting,
            kept_for_backups: wire.kept_for_backups,
            unconfirmed: wire.unconfirmed,
            foreign: wire.foreign,
            errors: wire.errors,
            oldest_orphan_ms: wire.oldest_orphan_ms,
            last_error: wire.last_error,
        }
    }
}
