//! The snapshots of one controller: `data/snapshots/<index>-<term>.snap`, of
//! which the newest is kept.
//!
//! A file is complete when it has its final name: it is written under another
//! one, synced, renamed, and the directory synced.

use super::meta::AppliedMeta;
use super::snapshot_file::{self, SnapshotError};
use super::time;
use super::types::{LogId, Snapshot, SnapshotMeta};
use super::view::StateView;
use parking_lot::Mutex;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const FOLDER: &str = "snapshots";

/// Extensions of the files: complete; being built or copied; being received,
/// perhaps in several transfers.
const SNAPSHOT: &str = "snap";
const TMP: &str = "tmp";
const PART: &str = "part";
/// Received as a whole, and Raft's to install or not.
pub(crate) const RECEIVED: &str = "received";

/// A complete snapshot file, kept readable by the open handle even if a newer
/// snapshot removes it.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// All its checksums were checked after it was written here.
    pub(crate) verified: bool,
}

/// The directory; clones share it.
#[derive(Clone)]
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    current: Arc<Mutex<Option<Current>>>,
}

#[derive(Clone)]
struct Current {
    applied: AppliedMeta,
    path: PathBuf,
}

impl SnapshotStore {
    /// Opens `data/snapshots`, removes unfinished files and checks the newest
    /// snapshot from start to end.
    pub(crate) fn open(data: &Path) -> Result<Self, SnapshotError> {
        let dir = data.join(FOLDER);
        fs::create_dir_all(&dir)?;
        let mut newest = None;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some(SNAPSHOT) => newest = newest.max(Some(path)),
                Some(TMP | RECEIVED) => fs::remove_file(&path)?,
                _ => {}
            }
        }
        let current = match newest {
            Some(path) => Some(Current { applied: snapshot_file::verify(&path)?, path }),
            None => None,
        };
        let store = Self { dir, current: Arc::new(Mutex::new(current)) };
        store.remove_older();
        Ok(store)
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Result<Option<Snapshot>, SnapshotError> {
        // The lock is held while opening, so that nobody removes the file.
        let current = self.current.lock();
        current.as_ref().map(snapshot).transpose()
    }

    /// Writes a snapshot of what `view` sees and makes it the newest.
    pub(crate) fn build(&self, view: &StateView) -> Result<Snapshot, SnapshotError> {
        let path = self.path_of(view.meta());
        let written = path.with_extension(TMP);
        let begun = time::now();
        snapshot_file::write(&written, view)?;
        let built = self.keep(&written, path, view.meta().clone())?;
        tracing::info!(
            index = view.applied(),
            bytes = built.snapshot.file.metadata()?.len(),
            took_ms = time::now().saturating_duration_since(begun).as_millis(),
            "snapshot built"
        );
        Ok(built)
    }

    /// Where a snapshot is received; what came of others is removed.
    pub(crate) fn incoming(&self, meta: &SnapshotMeta) -> PathBuf {
        let path = self.named_after(meta.last_log_id, PART);
        for other in self.files(PART).into_iter().filter(|other| *other != path) {
            remove(&other);
        }
        path
    }

    /// Takes over a file that was received, or is here already, after
    /// checking all of it; it becomes the newest snapshot.
    pub(crate) fn adopt(
        &self,
        file: &SnapshotFile,
    ) -> Result<(AppliedMeta, PathBuf), SnapshotError> {
        let applied = match file.verified {
            true => snapshot_file::SnapshotReader::open(&file.path)?.applied().clone(),
            false => snapshot_file::verify(&file.path)?,
        };
        let path = self.path_of(&applied);
        if file.path == path {
            return Ok((applied, path));
        }
        let mut from = file.path.clone();
        if from.parent() != Some(&self.dir) {
            from = path.with_extension(TMP);
            fs::copy(&file.path, &from)?;
        }
        File::open(&from)?.sync_all()?;
        self.keep(&from, path.clone(), applied.clone())?;
        Ok((applied, path))
    }

    /// The file of this name, as the marker of an installation has it.
    pub(crate) fn named(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Renames the complete, synced file `from` to `path`; it becomes the
    /// newest unless a newer one is there.
    fn keep(
        &self,
        from: &Path,
        path: PathBuf,
        applied: AppliedMeta,
    ) -> Result<Snapshot, SnapshotError> {
        fs::rename(from, &path)?;
        File::open(&self.dir)?.sync_all()?;
        let built = Current { applied, path };
        let opened = snapshot(&built)?;
        {
            let mut current = self.current.lock();
            let newest = current.as_ref().map(|c| c.applied.last_applied);
            if newest.is_none_or(|newest| newest <= built.applied.last_applied) {
                *current = Some(built);
            }
        }
        self.remove_older();
        Ok(opened)
    }

    fn path_of(&self, applied: &AppliedMeta) -> PathBuf {
        self.named_after(applied.last_applied, SNAPSHOT)
    }

    fn named_after(&self, last: Option<LogId>, extension: &str) -> PathBuf {
        let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
        self.dir.join(format!("{index:020}-{term:020}.{extension}"))
    }

    /// Files of that kind; none if the directory cannot be read.
    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
    }

    /// Removes every snapshot but the newest.
    fn remove_older(&self) {
        let current = self.current.lock();
        let Some(keep) = current.as_ref().map(|c| c.path.as_path()) else {
            return;
        };
        let older = self.files(SNAPSHOT).into_iter().filter(|path| path.as_path() < keep);
        older.for_each(|path| remove(&path));
    }
}

/// A failure leaves a file behind that the next time removes.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "old snapshot file not removed");
    }
}

fn snapshot(current: &Current) -> Result<Snapshot, SnapshotError> {
    let file = Arc::new(File::open(&current.path)?);
    Ok(Snapshot {
        meta: snapshot_file::snapshot_meta(&current.applied),
        snapshot: SnapshotFile { path: current.path.clone(), file, verified: true },
    })
}
