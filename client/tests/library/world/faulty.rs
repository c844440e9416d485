//! A store whose reads can be made to fail.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, once};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use streamhouse_client::Store;
use streamhouse_store::StoreKind;

/// What happens to one GET.
#[derive(Clone, Copy, Debug)]
pub enum ReadFault {
    None,
    TimedOut,
    /// 503
    SlowDown,
    /// The answer ends early.
    Truncated,
    /// A bit of the answer is another.
    Flipped,
    /// No answer ever.
    Silent,
}

#[derive(Debug)]
pub struct FaultyReads {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<VecDeque<ReadFault>>,
}

impl FaultyReads {
    /// The store with these faults, one GET each; what comes after them goes well.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        faults: impl IntoIterator<Item = ReadFault>,
    ) -> Arc<Self> {
        Arc::new(Self { inner, faults: Mutex::new(faults.into_iter().collect()) })
    }

    pub fn store(self: &Arc<Self>) -> Store {
        Store::from_object_store(self.clone(), "", StoreKind::Memory)
    }

    /// How many faults are left.
    pub fn left(&self) -> usize {
        self.faults.lock().len()
    }
}

impl fmt::Display for FaultyReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty reads")
    }
}

fn failure(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "faulty", source: source.into() }
}

async fn changed(answer: GetResult, change: impl FnOnce(&mut Vec<u8>)) -> Result<GetResult> {
    let (meta, range, attributes, extensions) = (
        answer.meta.clone(),
        answer.range.clone(),
        answer.attributes.clone(),
        answer.extensions.clone(),
    );
    let mut bytes = answer.bytes().await?.to_vec();
    change(&mut bytes);
    let body = once(async move { Ok(Bytes::from(bytes)) }).boxed();
    Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
}

#[tonic::async_trait]
impl ObjectStore for FaultyReads {
    async fn put_opts(&self, at: &Path, payload: PutPayload, o: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, o).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.faults.lock().pop_front().unwrap_or(ReadFault::None);
        match fault {
            ReadFault::TimedOut => {
                return Err(failure(std::io::Error::from(std::io::ErrorKind::TimedOut)));
            }
            ReadFault::SlowDown => {
                let answer = "Server returned non-2xx status code: 503 Service Unavailable: faulty";
                return Err(failure(answer));
            }
            ReadFault::Silent => std::future::pending().await,
            ReadFault::None | ReadFault::Truncated | ReadFault::Flipped => {}
        }
        let answer = self.inner.get_opts(at, options).await?;
        match fault {
            ReadFault::Truncated => changed(answer, |bytes| bytes.truncate(bytes.len() / 2)).await,
            ReadFault::Flipped => changed(answer, |bytes| bytes[0] ^= 1).await,
            _ => Ok(answer),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
