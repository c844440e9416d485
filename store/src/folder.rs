//! The folder behind a `file://` store: made, tried, swept, and synced where `object_store` does not.
//!
//! `object_store` stages a file as `<name>#<number>`, syncs it, links it to its name and syncs its directory.
//! Two gaps are left, both of which lose acknowledged records when the power fails (ACK):
//!
//! 1. Two writers need the same new directory. One makes it and has not yet synced the directory above; the
//!    other finds it there, writes its file, and syncs only the directory itself. So every directory up to the
//!    root is synced before this process writes its first file below it, whoever made it.
//! 2. A writer links its file and dies before it syncs the directory. Whoever finds the file and takes it for
//!    written calls [`Folder::sync_existing`].
//!
//! A third one is the path itself: a file system that is unmounted, or a folder that is moved away, leaves a path under
//! which writes go somewhere else, where nobody will look for them. So a write is reported done only if the folder has
//! the device and the inode of the one that was opened ([`Folder::check`]). Another file system under the same numbers
//! passes for it, as does one that was away for a part of the write only.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::entropy::unique_name;

/// A staging file that was last written so long ago has no writer any more. Another agent of this machine may
/// be writing the younger ones.
const STALE: Duration = Duration::from_secs(3600);

/// How many directory entries opening a store looks at in search of stale staging files.
const SWEEP_ENTRIES: usize = 200_000;

/// How many directories are remembered as synced; past that all are forgotten, which only costs syncs.
const REMEMBERED: usize = 8192;

pub(crate) struct Folder {
    root: PathBuf,
    /// Device and inode of the root when it was opened.
    identity: OnceLock<(u64, u64)>,
    synced: Mutex<HashSet<PathBuf>>,
}

/// A step of preparing a folder that failed, with the path it failed at.
pub(crate) struct StepFailed {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, identity: OnceLock::new(), synced: Mutex::new(HashSet::new()) }
    }

    /// The root as it was opened; from now on [`check`](Self::check) compares it.
    pub(crate) fn opened(&self, root: &fs::Metadata) {
        self.identity.get_or_init(|| identity(root));
    }

    /// Whether the root is still what was opened; if not, what is there, in words.
    pub(crate) async fn check(self: Arc<Self>) -> Result<(), String> {
        let checked = tokio::task::spawn_blocking(move || {
            let folder = self.root.display();
            match fs::metadata(&self.root) {
                Err(error) => Err(format!("the folder {folder} is gone: {error}")),
                Ok(found) if self.identity.get().is_some_and(|own| *own != identity(&found)) => {
                    Err(format!(
                        "the folder {folder} is another one than was opened: mount or move the right one back"
                    ))
                }
                Ok(_) => Ok(()),
            }
        });
        checked.await.unwrap_or_else(|join| Err(join.to_string()))
    }

    /// Make the folder if it is missing, make it durable, see that it can be written, sweep it.
    pub(crate) fn prepare(&self) -> Result<(), StepFailed> {
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StepFailed { action, path, source }
        };
        fs::create_dir_all(&self.root).map_err(failed("cannot be made", &self.root))?;
        // Directories above that may not be opened were not made by us just now.
        for above in self.root.ancestors().skip(1) {
            match sync_dir(above) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                    return Err(failed("cannot be synced", above)(error));
                }
                _ => {}
            }
        }
        self.try_write().map_err(failed("cannot be written", &self.root))?;
        self.sweep(SWEEP_ENTRIES, STALE);
        Ok(())
    }

    /// The name is one of a staging file, so that listings pass over it and a sweep takes it.
    fn try_write(&self) -> io::Result<()> {
        let path = self.root.join(format!("write-test-{}#1", unique_name()));
        OpenOptions::new().write(true).create_new(true).open(&path)?;
        let synced = sync_dir(&self.root);
        fs::remove_file(&path)?;
        synced
    }

    /// Before a file is written: its directories exist and are on the disk up to the root.
    pub(crate) async fn sync_parents(self: Arc<Self>, key: &str) -> io::Result<()> {
        let Some(parent) = self.root.join(key).parent().map(Path::to_path_buf) else {
            return Ok(());
        };
        if self.synced.lock().contains(&parent) {
            return Ok(());
        }
        blocking(move || {
            fs::create_dir_all(&parent)?;
            self.sync_up(&parent)?;
            let mut synced = self.synced.lock();
            if synced.len() >= REMEMBERED {
                synced.clear();
            }
            synced.insert(parent);
            Ok(())
        })
        .await
    }

    /// Sync a file that was found, and every directory from it to the root.
    pub(crate) async fn sync_existing(self: Arc<Self>, key: &str) -> io::Result<()> {
        let path = self.root.join(key);
        blocking(move || {
            File::open(&path)?.sync_all()?;
            path.parent().map_or(Ok(()), |parent| self.sync_up(parent))
        })
        .await
    }

    fn sync_up(&self, dir: &Path) -> io::Result<()> {
        for dir in dir.ancestors() {
            sync_dir(dir)?;
            if dir == self.root {
                break;
            }
        }
        Ok(())
    }

    /// Remove staging files whose writer must be gone. Whatever fails is left for the next opening: a file
    /// that stays costs space and nothing else.
    fn sweep(&self, mut entries: usize, stale: Duration) -> usize {
        let mut swept = 0;
        let mut open = vec![self.root.clone()];
        while let Some(dir) = open.pop() {
            let Ok(listing) = fs::read_dir(&dir) else { continue };
            for entry in listing.flatten() {
                if entries == 0 {
                    tracing::info!(folder = %self.root.display(), swept, "sweep of staging files ended early");
                    return swept;
                }
                entries -= 1;
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() && is_staging(&entry) && is_older(&entry, stale) {
                    swept += usize::from(fs::remove_file(entry.path()).is_ok());
                }
            }
        }
        if swept > 0 {
            tracing::info!(folder = %self.root.display(), swept, "stale staging files removed");
        }
        swept
    }
}

fn is_staging(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// CLOCK: should the wall clock jump an hour while a file is being staged, its writer's link fails and the
/// write is tried again.
fn is_older(entry: &fs::DirEntry, age: Duration) -> bool {
    let modified = entry.metadata().and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed > age))
}

#[cfg(unix)]
fn identity(folder: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (folder.dev(), folder.ino())
}

/// Elsewhere one folder is not told from another.
#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> (u64, u64) {
    (0, 0)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|join| Err(io::Error::other(join)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_stale_staging_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("l0");
        fs::create_dir(&below).unwrap();
        for name in ["old#1", "young#2", "object", "no#staging", "none#"] {
            fs::write(below.join(name), b"x").unwrap();
        }
        let written = File::open(below.join("young#2")).unwrap().metadata().unwrap();
        let past = written.modified().unwrap() - Duration::from_secs(7200);
        for name in ["old#1", "object", "no#staging", "none#"] {
            File::options().write(true).open(below.join(name)).unwrap().set_modified(past).unwrap();
        }
        let folder = Folder::new(dir.path().to_path_buf());
        assert_eq!(folder.sweep(SWEEP_ENTRIES, STALE), 1);
        assert_eq!(names(&below), ["no#staging", "none#", "object", "young#2"]);
    }

    #[test]
    fn preparing_leaves_an_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b/c");
        assert!(Folder::new(root.clone()).prepare().is_ok());
        assert!(names(&root).is_empty());
    }
}
