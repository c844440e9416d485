//! Whose a cache folder is: one process's, and there one cache's.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::{CacheError, Inner, SegmentCache, SegmentCacheBuilder, open};

/// The caches of this process, by folder.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Inner>>> = Mutex::const_new(BTreeMap::new());

/// Beside foyer's files; locked, not read.
const LOCK_FILE: &str = "lock";

/// The folder is this process's while this lives; the system gives it back when the process ends, however it does.
#[derive(Debug)]
pub(super) struct FolderLock(#[expect(dead_code, reason = "held, not used")] File);

/// The cache in that folder: the one that is open, or a new one.
pub(super) async fn shared(
    dir: PathBuf,
    options: &SegmentCacheBuilder,
) -> Result<SegmentCache, CacheError> {
    let mut all = OPEN.lock().await;
    let failed = |error: std::io::Error| CacheError::Folder {
        folder: dir.clone(),
        reason: error.to_string(),
    };
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let folder = dir.canonicalize().map_err(failed)?;
    if let Some(inner) = all.get(&folder).and_then(Weak::upgrade) {
        return Ok(SegmentCache { inner });
    }
    let cache = open(options, Some(lock(&folder)?)).await?;
    all.retain(|_, inner| inner.strong_count() > 0);
    all.insert(folder, Arc::downgrade(&cache.inner));
    Ok(cache)
}

fn lock(folder: &Path) -> Result<FolderLock, CacheError> {
    let failed = |reason: String| CacheError::Folder { folder: folder.to_owned(), reason };
    let file = File::create(folder.join(LOCK_FILE)).map_err(|error| failed(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock(file)),
        Err(TryLockError::WouldBlock) => Err(CacheError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error.to_string())),
    }
}
