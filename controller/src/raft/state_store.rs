//! The applied state in RocksDB: applying groups of entries to it, replacing
//! it by a snapshot, and handing out views of it.

use super::apply::{self, Group};
use super::db::Db;
use super::fatal::{FatalReason, database_failed, fatal};
use super::levels::TooOld;
use super::meta::{self, AppliedMeta};
use super::read_cache::ReadCache;
use super::snapshot_file::{self, SnapshotError, SnapshotReader};
use super::snapshot_store::{SnapshotFile, SnapshotStore};
use super::types::Entry;
use super::view::{LiveState, StateView};
use crate::codec;
use crate::state::features;
use crate::state::kv::KvError;
use parking_lot::{Mutex, RwLock};
use rocksdb::WriteBatch;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use streamhouse_host::{Mistake, is_planted};

/// Bytes per write while a snapshot is installed.
const INSTALL_BYTES: usize = 1 << 20;

/// The state and who may read it.
pub(crate) struct StateStore {
    db: Arc<Db>,
    snapshots: SnapshotStore,
    /// While a snapshot is being installed, what everyone reads instead.
    frozen: RwLock<Option<StateView>>,
    /// Apply's own.
    cache: Mutex<ReadCache>,
    /// The highest feature level that this controller reads.
    reads: u32,
    /// What came in the way of a snapshot.
    snapshot_failure: Mutex<Option<SnapshotError>>,
}

impl StateStore {
    /// Opens the state; ends an installation that a crash interrupted.
    pub(crate) fn open(
        db: Arc<Db>,
        snapshots: SnapshotStore,
        reads: u32,
    ) -> Result<Self, SnapshotError> {
        let cache = Mutex::new(ReadCache::new());
        let (frozen, snapshot_failure) = (RwLock::default(), Mutex::default());
        let store = Self { db, snapshots, frozen, cache, reads, snapshot_failure };
        let marker = store.db.get_raft(meta::INSTALLING)?;
        if let Some(name) = marker {
            let name = String::from_utf8_lossy(&name).into_owned();
            tracing::info!(snapshot = name, "resuming the installation of a snapshot");
            store.replace(&store.snapshots.named(&name))?;
        }
        Ok(store)
    }

    pub(crate) fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// The state as of now, or, during an installation, as it was before.
    pub(crate) fn view(&self) -> Result<StateView, KvError> {
        let frozen = self.frozen.read();
        match &*frozen {
            Some(view) => Ok(view.clone()),
            None => StateView::take(&self.db),
        }
    }

    /// Applies committed entries and writes state and [`AppliedMeta`] in one
    /// batch. The write need not be synced: the log before it is, and a crash
    /// that loses it only makes the entries be applied again.
    ///
    /// Runs alone: openraft applies in order, from one task.
    pub(crate) fn apply(&self, applied: &mut AppliedMeta, entries: &[Entry]) -> Group {
        let mut cache = self.cache.lock();
        let live = LiveState::new(&self.db, &mut cache);
        let (group, writes) =
            apply::apply(&live, applied, entries).unwrap_or_else(|e| self.failed(e.0));
        self.check_level(group.raises_to);
        let mut batch = WriteBatch::default();
        for (key, value) in &writes {
            match value {
                Some(value) => batch.put_cf(self.db.state(), key, value),
                None => batch.delete_cf(self.db.state(), key),
            }
        }
        if is_planted(Mistake::AppliedMarkerFirst) {
            let mut marker = WriteBatch::default();
            marker.put_cf(self.db.raft(), meta::APPLIED, codec::encode_serde(applied));
            self.db.write_unsynced(marker).unwrap_or_else(|e| self.unwritten(e));
        }
        batch.put_cf(self.db.raft(), meta::APPLIED, codec::encode_serde(applied));
        self.db.write_unsynced(batch).unwrap_or_else(|e| self.unwritten(e));
        writes.into_iter().for_each(|(key, value)| cache.wrote(key, value));
        group
    }

    /// Replaces the state by the snapshot in `file`; returns what it is of.
    pub(crate) fn install(&self, file: &SnapshotFile) -> Result<AppliedMeta, SnapshotError> {
        let (_, path) = self.snapshots.adopt(file)?;
        self.check_level(snapshot_file::feature_level(&path)?);
        let before = self.view().map_err(|e| SnapshotError::State(e.0))?;
        *self.frozen.write() = Some(before);
        let applied = self.replace(&path).unwrap_or_else(|error| match error {
            SnapshotError::State(what) => self.unwritten(what),
            // The next start reads the file again, and knows damage from one wrong read.
            SnapshotError::Damaged(_) | SnapshotError::Io(_) => self.failed(error),
        });
        self.cache.lock().clear();
        *self.frozen.write() = None;
        Ok(applied)
    }

    /// A snapshot could not be made or taken over, which ends Raft: kept for
    /// whoever ends the process, unless that is about to end anyway.
    pub(crate) fn snapshot_failed(&self, error: SnapshotError) -> io::Error {
        let told = io::Error::other(error.to_string());
        *self.snapshot_failure.lock() = Some(error);
        told
    }

    /// Ends the process if it was a snapshot that ended Raft.
    pub(crate) fn end_over_snapshot(&self) {
        match self.snapshot_failure.lock().take() {
            None => {}
            Some(SnapshotError::State(what)) => self.failed(what),
            // A file that was sound as it came, or a table, which the next
            // start reads again: it knows damage from one wrong read.
            Some(error) => fatal(FatalReason::SnapshotDiskFailed, error),
        }
    }

    /// The feature level of the state, once the cluster has an identity.
    pub(crate) fn feature_level(&self) -> Result<Option<u32>, KvError> {
        features::level(&self.view()?)
    }

    /// What follows a higher level is not for this controller: it ends before
    /// it has taken anything of it.
    fn check_level(&self, level: u32) {
        let reads = self.reads;
        if level > reads {
            fatal(FatalReason::FeatureLevelUnknown, TooOld { level, reads });
        }
    }

    /// SUBTLE: a crash at any point must leave either the old state, or the
    /// new one, or the marker.
    ///
    /// 1. The marker is written, synced; `path` has been synced before. From
    ///    here on the state counts for nothing.
    /// 2. The state is emptied and filled in pieces of bounded size.
    /// 3. The last batch writes what the state is of and removes the marker,
    ///    synced, and with it all pieces before it.
    ///
    /// At start, a marker means: begin again at 1.
    fn replace(&self, path: &Path) -> Result<AppliedMeta, SnapshotError> {
        let failed = SnapshotError::State;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let mut batch = WriteBatch::default();
        batch.put_cf(self.db.raft(), meta::INSTALLING, name);
        self.db.write_synced(batch).map_err(failed)?;
        self.clear().map_err(failed)?;

        let mut reader = SnapshotReader::open(path)?;
        let mut batch = WriteBatch::default();
        while reader.next_block(|key, value| batch.put_cf(self.db.state(), key, value))? {
            if batch.size_in_bytes() >= INSTALL_BYTES {
                self.db.write_unsynced(std::mem::take(&mut batch)).map_err(failed)?;
            }
        }
        let applied = reader.applied().clone();
        batch.put_cf(self.db.raft(), meta::APPLIED, codec::encode_serde(&applied));
        batch.delete_cf(self.db.raft(), meta::INSTALLING);
        self.db.write_synced(batch).map_err(failed)?;
        Ok(applied)
    }

    fn clear(&self) -> Result<(), String> {
        let mut iterator = self.db.rocks().raw_iterator_cf(self.db.state());
        iterator.seek_to_last();
        let last = iterator.key().map(<[u8]>::to_vec);
        iterator.status().map_err(|e| e.to_string())?;
        let Some(last) = last else {
            return Ok(());
        };
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.db.state(), Vec::new(), last.clone());
        batch.delete_cf(self.db.state(), last);
        self.db.write_unsynced(batch)
    }

    /// State and log go to the same file: what failed is the log's disk.
    fn unwritten(&self, error: impl Display) -> ! {
        database_failed(FatalReason::LogDiskFailed, &self.db, error)
    }

    fn failed(&self, error: impl Display) -> ! {
        database_failed(FatalReason::StateDiskFailed, &self.db, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::damage_tests;

    #[test]
    fn damage_that_rocksdb_met_by_itself_ends_the_process_as_damage() {
        let dir = tempfile::tempdir().unwrap();
        let db = damage_tests::met_damage(dir.path());
        let snapshots = SnapshotStore::open(dir.path()).unwrap();
        let store = StateStore::open(db, snapshots, features::NEWEST).unwrap();
        let entry = damage_tests::entry(1);
        damage_tests::ends_as_damaged(dir.path(), || {
            store.apply(&mut AppliedMeta::default(), &[entry]);
        });
    }
}
