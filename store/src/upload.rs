//! Writing an object that is too large to be held in memory.

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions};

use crate::create::Created;
use crate::error::PutError;
use crate::fault::Fault;
use crate::store::Store;

/// What is held in memory, and the size of all parts but the last: above every store's minimum, and alike as some
/// demand it.
const PART_BYTES: usize = 8 << 20;

/// An object that is being written, part by part. It exists once [`finish`](Self::finish) has said so, whole, or not
/// at all.
///
/// One that turns out small is written with a single create-only attempt. A large one goes by a multipart upload, and
/// stores know no condition for those: whether the key is free is asked before the first part. So give it a key that
/// no two writers use for different bytes. Nothing is tried again inside.
pub struct Upload {
    store: Store,
    key: String,
    buffer: BytesMut,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl Store {
    /// Begin to write the object `key`. Nothing is sent before there is a part.
    #[must_use]
    pub fn upload(&self, key: &str) -> Upload {
        let (store, key) = (self.clone(), key.to_owned());
        Upload { store, key, buffer: BytesMut::new(), parts: None }
    }
}

impl Upload {
    /// Add bytes. After an error the upload is of no more use: [`abort`](Self::abort) it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<Created, PutError> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= PART_BYTES {
            if self.parts.is_none() && self.begin().await? == Created::AlreadyExists {
                return Ok(Created::AlreadyExists);
            }
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.send(part).await?;
        }
        Ok(Created::New)
    }

    /// Write the rest, and make the object appear.
    pub async fn finish(mut self) -> Result<Created, PutError> {
        let rest = self.buffer.split().freeze();
        if self.parts.is_none() {
            return self.store.create(&self.key, rest).await;
        }
        if !rest.is_empty()
            && let Err(error) = self.send(rest).await
        {
            self.abort().await;
            return Err(error);
        }
        let Some(mut parts) = self.parts.take() else { return Ok(Created::New) };
        if let Err(error) = parts.complete().await {
            // Whether it was completed or not, what is left of it need not stay.
            let _ = parts.abort().await;
            return Err(self.failed(&error));
        }
        self.store.sync_existing(&self.key).await?;
        Ok(Created::New)
    }

    /// Give it up, and remove what the store keeps of it. If that fails, parts of it cost space until the store's
    /// own rule for unfinished uploads removes them.
    pub async fn abort(mut self) {
        if let Some(mut parts) = self.parts.take()
            && let Err(error) = parts.abort().await
        {
            tracing::warn!(store = %self.store, key = self.key, %error, "an unfinished upload was left behind");
        }
    }

    async fn begin(&mut self) -> Result<Created, PutError> {
        let path = self.store.path(&self.key);
        let path = path.map_err(|fault| fault.into_put(self.store.url(), &self.key))?;
        self.store.prepare(&self.key).await?;
        match self.store.inner.objects.head(&path).await {
            Ok(_) => return Ok(Created::AlreadyExists),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.failed(&error)),
        }
        let begun =
            self.store.inner.objects.put_multipart_opts(&path, PutMultipartOptions::default());
        self.parts = Some(begun.await.map_err(|error| self.failed(&error))?);
        Ok(Created::New)
    }

    async fn send(&mut self, part: Bytes) -> Result<(), PutError> {
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let sent = parts.put_part(part.into()).await;
        sent.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &object_store::Error) -> PutError {
        Fault::of(error).into_put(self.store.url(), &self.key)
    }
}
