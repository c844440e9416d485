//! [`SegmentCache`]: slices of segments in memory and on disk, so that the store is asked for them once.
//!
//! An object of the store never changes, so nothing in the cache is ever stale; what an object is called (cluster,
//! generation, session, sequence) and where the slice begins and ends is the key. READ: only bytes whose checksum held go
//! in, foyer keeps a checksum of its own beside each entry on disk, and what comes out is held against the index's
//! checksum again. The folder may be deleted at any time: a cache that has lost its files is an empty one.

mod folder;
mod key;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCachePolicy, RecoverMode,
};
use thiserror::Error;

use self::folder::FolderLock;
use self::key::SliceKey;
use super::plan::Slice;

/// The unit in which the disk tier drops what is old; an entry is no larger.
const BLOCK_BYTES: u64 = 16 << 20;
/// A small cache has at least so many blocks.
const BLOCKS: u64 = 8;
const LEAST_DISK: u64 = 8 << 20;
const LEAST_MEMORY: usize = 1 << 20;
/// What an entry costs besides its bytes, roughly.
const ENTRY_OVERHEAD: usize = 256;

/// Why a cache could not be opened.
#[derive(Clone, Debug, Error)]
pub enum CacheError {
    /// A size that cannot work.
    #[error("{option}: {given} bytes are too few for a segment cache, the least is {least}")]
    TooSmall {
        /// The builder's method.
        option: &'static str,
        /// What was asked for.
        given: u64,
        /// The least that works.
        least: u64,
    },
    /// Another process has it.
    #[error("cache folder {} is in use by another process", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder could not be made or opened.
    #[error("cache folder {}: {reason}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// Options of a [`SegmentCache`]; each says its default.
#[derive(Clone, Debug)]
pub struct SegmentCacheBuilder {
    pub(super) memory_bytes: usize,
    pub(super) dir: Option<PathBuf>,
    pub(super) size_bytes: u64,
}

impl Default for SegmentCacheBuilder {
    fn default() -> Self {
        Self { memory_bytes: 32 << 20, dir: None, size_bytes: 1 << 30 }
    }
}

impl SegmentCacheBuilder {
    /// How many bytes the memory tier holds, besides what consumers read ahead. Default: 32 MiB; at least 1 MiB.
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// The folder of the disk tier, which belongs to one process at a time. Default: none, memory only.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// How many bytes the disk tier takes. Default: 1 GiB; at least 8 MiB.
    pub fn size_bytes(mut self, bytes: u64) -> Self {
        self.size_bytes = bytes;
        self
    }

    /// Opens the cache. Within one process the same folder is the same cache, with the sizes of whoever opened it first.
    pub async fn open(self) -> Result<SegmentCache, CacheError> {
        self.validate()?;
        match &self.dir {
            Some(dir) => folder::shared(dir.clone(), &self).await,
            None => open(&self, None).await,
        }
    }

    fn validate(&self) -> Result<(), CacheError> {
        let too_small = |option, given, least| Err(CacheError::TooSmall { option, given, least });
        if self.memory_bytes < LEAST_MEMORY {
            return too_small("memory_bytes", self.memory_bytes as u64, LEAST_MEMORY as u64);
        }
        if self.dir.is_some() && self.size_bytes < LEAST_DISK {
            return too_small("size_bytes", self.size_bytes, LEAST_DISK);
        }
        Ok(())
    }
}

/// A cache of segments. Cheap to clone; all clones are the same cache, for any number of consumers of this process.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use streamhouse_client::Consumer;
/// use streamhouse_client::consumer::SegmentCache;
///
/// let cache = SegmentCache::builder().dir("/var/cache/segments").size_bytes(10 << 30).open().await?;
/// let one = Consumer::builder().controllers(["127.0.0.1:7601"]).topics(["orders"]).cache(cache.clone());
/// let other = Consumer::builder().controllers(["127.0.0.1:7601"]).topics(["orders"]).cache(cache);
/// # drop((one, other));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SegmentCache {
    inner: Arc<Inner>,
}

struct Inner {
    cache: HybridCache<SliceKey, Bytes>,
    /// A slice that is larger is not kept.
    largest: usize,
    // Dropped after the cache that writes into it.
    _lock: Option<FolderLock>,
}

impl fmt::Debug for SegmentCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentCache").field("largest", &self.inner.largest).finish_non_exhaustive()
    }
}

/// `lock`: of the folder that the builder names, if it names one.
async fn open(
    options: &SegmentCacheBuilder,
    lock: Option<FolderLock>,
) -> Result<SegmentCache, CacheError> {
    let memory = HybridCache::builder()
        .with_name("streamhouse-segments")
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .with_flush_on_close(false)
        .memory(options.memory_bytes)
        .with_weighter(|_: &SliceKey, bytes: &Bytes| bytes.len() + ENTRY_OVERHEAD)
        .storage();
    let folder = options.dir.as_deref().unwrap_or(Path::new(""));
    let failed = |error: foyer::Error| CacheError::Folder {
        folder: folder.to_owned(),
        reason: error.to_string(),
    };
    let block = BLOCK_BYTES.min(options.size_bytes / BLOCKS) as usize;
    let (built, largest) = match &options.dir {
        Some(dir) => {
            let capacity = usize::try_from(options.size_bytes).unwrap_or(usize::MAX);
            let device = FsDeviceBuilder::new(dir).with_capacity(capacity).build();
            let engine = BlockEngineConfig::new(device.map_err(failed)?)
                .with_block_size(block)
                .with_buffer_pool_size(block.max(4 << 20));
            // READ: what is damaged is not in the cache, that is all.
            let storage = memory.with_engine_config(engine).with_recover_mode(RecoverMode::Quiet);
            (storage.build().await, block / 2)
        }
        None => (memory.build().await, options.memory_bytes / 4),
    };
    let cache = built.map_err(failed)?;
    Ok(SegmentCache { inner: Arc::new(Inner { cache, largest, _lock: lock }) })
}

impl SegmentCache {
    /// A cache to be configured.
    pub fn builder() -> SegmentCacheBuilder {
        SegmentCacheBuilder::default()
    }

    /// Waits until everything that is in the cache is on its disk.
    pub async fn flush(&self) {
        self.inner.cache.storage().wait().await;
    }

    pub(super) async fn get(&self, slice: &Slice) -> Option<Bytes> {
        match self.inner.cache.get(&SliceKey::of(slice)).await {
            Ok(found) => {
                let bytes = found?.value().clone();
                (bytes.len() as u64 == slice.bytes()).then_some(bytes)
            }
            Err(error) => {
                tracing::debug!(%error, object = %slice.object.key(), "the segment cache failed");
                None
            }
        }
    }

    /// Keeps a copy, so that a small slice does not keep the whole GET in memory that it came in.
    pub(super) fn insert(&self, slice: &Slice, bytes: &Bytes) {
        if bytes.len() <= self.inner.largest {
            self.inner.cache.insert(SliceKey::of(slice), Bytes::copy_from_slice(bytes));
        }
    }

    pub(super) fn remove(&self, slice: &Slice) {
        self.inner.cache.remove(&SliceKey::of(slice));
    }
}

#[cfg(test)]
mod tests;
