//! Listing, a page at a time and in key order, for the sweeps of GC.

use std::collections::BinaryHeap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::GetError;
use crate::fault::Fault;
use crate::location::{StoreKind, check_key};
use crate::store::Store;

/// One object of a listing. Ordered by key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its key, as [`Store::create`] takes it.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock: milliseconds since the epoch. Only to be shown.
    pub modified_ms: u64,
}

impl Store {
    /// Up to `limit` objects below the folder `prefix` (all, if it is empty), in key order, from the first key
    /// after `after`. A page shorter than `limit` is the last one.
    ///
    /// `prefix` is whole segments: `a/b` lists `a/b/c` and not `a/bc`. A folder has no order of its own, so each
    /// page walks all of it (in bounded memory); the other stores are asked only for what the page holds.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, GetError> {
        let fail = |error: object_store::Error| self.get_error(Fault::of(&error), prefix);
        let folder = self.list_folder(prefix)?;
        let offset = match after {
            Some(key) => Some(self.path(key).map_err(|fault| self.get_error(fault, key))?),
            None => None,
        };
        let mut objects = match &offset {
            Some(offset) => self.inner.objects.list_with_offset(folder.as_ref(), offset),
            None => self.inner.objects.list(folder.as_ref()),
        };
        // BOUND: never more than the page in memory. A max-heap, so that the largest key falls out.
        let mut page: BinaryHeap<Listed> = BinaryHeap::new();
        while page.len() < limit || !self.lists_in_order() {
            let Some(meta) = objects.try_next().await.map_err(fail)? else { break };
            let Some(key) = self.relative(&meta.location) else { continue };
            let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
            page.push(Listed { key, size: meta.size, modified_ms });
            if page.len() > limit {
                page.pop();
            }
        }
        // GC: what an empty mount point does not list is not gone.
        if let Some(folder) = &self.inner.folder {
            let checked = Arc::clone(folder).check().await;
            checked.map_err(|cause| self.get_error(Fault::unreachable(cause), prefix))?;
        }
        Ok(page.into_sorted_vec())
    }

    fn lists_in_order(&self) -> bool {
        match self.kind() {
            StoreKind::File => false,
            // S3 Express One Zone buckets, by their reserved suffix.
            StoreKind::S3 => !self.url().split('/').nth(2).is_some_and(|b| b.ends_with("--x-s3")),
            StoreKind::Memory | StoreKind::Gcs | StoreKind::Azure => true,
        }
    }

    fn list_folder(&self, prefix: &str) -> Result<Option<Path>, GetError> {
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() {
            check_key(prefix)
                .and_then(|()| self.path(prefix).map(Some).map_err(|fault| fault.cause))
                .map_err(|cause| self.get_error(Fault::refused(cause), prefix))
        } else if self.inner.prefix.is_empty() {
            Ok(None)
        } else {
            Ok(Some(Path::from(self.inner.prefix.as_str())))
        }
    }

    fn relative(&self, location: &Path) -> Option<String> {
        let full = location.as_ref();
        match self.inner.prefix.as_str() {
            "" => Some(full.to_owned()),
            prefix => full.strip_prefix(prefix)?.strip_prefix('/').map(str::to_owned),
        }
    }
}
