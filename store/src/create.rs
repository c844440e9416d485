//! Writing: one create-only attempt, delete, and making durable what was found.

use std::sync::Arc;

use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::error::PutError;
use crate::fault::{Fault, FaultKind};
use crate::location::StoreKind;
use crate::store::Store;

/// What a create-only attempt that was answered came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// This attempt wrote the object.
    New,
    /// The key was taken. This proves nothing by itself: an earlier attempt of the caller's own may have taken
    /// it, another writer, or (S3 says 409) one that has not finished and may still fail. Read the object.
    AlreadyExists,
}

impl Store {
    /// One attempt to create the object `key`; an existing object is never touched. No retries inside.
    ///
    /// The bytes are not copied; hand over a [`Bytes`](bytes::Bytes) or a [`PutPayload`] of several chunks.
    /// On `file://`, success means that the file, its directory and every directory above it are on the disk
    /// (ACK), and that the folder is the one that was opened: where it was moved away or its file system
    /// unmounted, the write fails, and may be tried again once it is back. If the future is dropped, the write may
    /// still happen.
    pub async fn create(
        &self,
        key: &str,
        payload: impl Into<PutPayload>,
    ) -> Result<Created, PutError> {
        let path = self.path(key).map_err(|fault| self.put_error(fault, key))?;
        self.prepare(key).await?;
        let options = PutOptions::from(PutMode::Create);
        match self.inner.objects.put_opts(&path, payload.into(), options).await {
            Ok(_) => self.check(key, Fault::interrupted).await.map(|()| Created::New),
            Err(error) => match Fault::of(&error) {
                Fault { kind: FaultKind::Exists, .. } => {
                    self.check(key, Fault::interrupted).await.map(|()| Created::AlreadyExists)
                }
                fault => Err(self.put_error(fault, key)),
            },
        }
    }

    /// Delete the object `key`; one that is not there is deleted already. No retries inside.
    pub async fn delete(&self, key: &str) -> Result<(), PutError> {
        let path = self.path(key).map_err(|fault| self.put_error(fault, key))?;
        self.check(key, Fault::unreachable).await?;
        match self.inner.objects.delete(&path).await {
            Ok(()) => Ok(()),
            Err(error) => match Fault::of(&error) {
                // A missing bucket is "not found" as well, and no success.
                Fault { kind: FaultKind::NotFound, cause } if !cause.contains("NoSuchBucket") => {
                    Ok(())
                }
                fault => Err(self.put_error(fault, key)),
            },
        }
    }

    /// Make an object durable that was found to exist. Only `file://` has something to do: a file may be seen
    /// before its writer has synced the directory, and the writer may have died in between. The file, its
    /// directory and every directory above are synced.
    pub async fn sync_existing(&self, key: &str) -> Result<(), PutError> {
        self.path(key).map_err(|fault| self.put_error(fault, key))?;
        match (&self.inner.folder, self.kind()) {
            (Some(folder), _) => {
                let sync = Arc::clone(folder).sync_existing(key);
                sync.await.map_err(|error| self.put_error(Fault::of_io(&error), key))?;
                self.check(key, Fault::interrupted).await
            }
            (None, StoreKind::File) => {
                Err(self.put_error(Fault::refused("this store knows no folder to sync"), key))
            }
            (None, _) => Ok(()),
        }
    }

    /// What a folder needs before something is written to it.
    pub(crate) async fn prepare(&self, key: &str) -> Result<(), PutError> {
        let Some(folder) = &self.inner.folder else { return Ok(()) };
        self.check(key, Fault::unreachable).await?;
        let sync = Arc::clone(folder).sync_parents(key);
        sync.await.map_err(|error| self.put_error(Fault::of_io(&error), key))
    }

    /// Whether a folder is still the one that was opened; `fault` says what it means for the write if not.
    async fn check(&self, key: &str, fault: fn(String) -> Fault) -> Result<(), PutError> {
        let Some(folder) = &self.inner.folder else { return Ok(()) };
        let checked = Arc::clone(folder).check().await;
        checked.map_err(|cause| self.put_error(fault(cause), key))
    }

    fn put_error(&self, fault: Fault, key: &str) -> PutError {
        fault.into_put(self.url(), key)
    }
}
