//! A store whose reads can be made to wait and to fail, and that tells which are under way.

use std::collections::{BTreeSet, VecDeque};
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
use tokio::sync::watch;

use super::reading::SOON;

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

/// The GETs of a store.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// The objects of those that are under way; one that is asked for twice stands here twice.
    under_way: Vec<String>,
    /// The most objects that were read at once.
    pub most: usize,
}

impl Reads {
    /// How many objects are being read.
    pub fn objects(&self) -> usize {
        self.under_way.iter().collect::<BTreeSet<_>>().len()
    }
}

#[derive(Debug)]
pub struct FaultyReads {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<VecDeque<ReadFault>>,
    /// What happens to all GETs after those.
    then: ReadFault,
    /// GETs wait while it is set.
    held: watch::Sender<bool>,
    reads: watch::Sender<Reads>,
}

impl FaultyReads {
    /// The store with these faults, one GET each; what comes after them goes well.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        faults: impl IntoIterator<Item = ReadFault>,
    ) -> Arc<Self> {
        Self::with(inner, faults.into_iter().collect(), ReadFault::None)
    }

    /// The store with this fault in every GET.
    pub fn lasting(inner: Arc<dyn ObjectStore>, fault: ReadFault) -> Arc<Self> {
        Self::with(inner, VecDeque::new(), fault)
    }

    fn with(
        inner: Arc<dyn ObjectStore>,
        faults: VecDeque<ReadFault>,
        then: ReadFault,
    ) -> Arc<Self> {
        let (held, reads) = (watch::channel(false).0, watch::channel(Reads::default()).0);
        Arc::new(Self { inner, faults: Mutex::new(faults), then, held, reads })
    }

    pub fn store(self: &Arc<Self>) -> Store {
        Store::from_object_store(self.clone(), "", StoreKind::Memory)
    }

    /// How many faults are left.
    pub fn left(&self) -> usize {
        self.faults.lock().len()
    }

    /// Whether GETs wait from here on.
    pub fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    pub fn reads(&self) -> Reads {
        self.reads.borrow().clone()
    }

    /// Waits until the GETs are so.
    pub async fn until(&self, so: impl FnMut(&Reads) -> bool) {
        let mut reads = self.reads.subscribe();
        let reached = tokio::time::timeout(SOON, reads.wait_for(so)).await.map(drop);
        assert!(reached.is_ok(), "{:?}", self.reads());
    }

    /// A GET begins; it is over when the guard is dropped.
    fn begin(&self, object: &str) -> Reading<'_> {
        self.reads.send_modify(|reads| {
            reads.under_way.push(object.to_owned());
            reads.most = reads.most.max(reads.objects());
        });
        Reading { reads: &self.reads, object: object.to_owned() }
    }
}

struct Reading<'a> {
    reads: &'a watch::Sender<Reads>,
    object: String,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.reads.send_modify(|reads| {
            let place = reads.under_way.iter().position(|object| *object == self.object);
            reads.under_way.swap_remove(place.unwrap());
        });
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
        let _reading = self.begin(at.as_ref());
        let fault = self.faults.lock().pop_front().unwrap_or(self.then);
        let _ = self.held.subscribe().wait_for(|held| !held).await;
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
