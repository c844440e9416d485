//! A store in memory whose writes can be made to fail, with two switches: did it happen, was it reported.

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use streamhouse_store::{Store, StoreKind};
use tokio::sync::watch;

/// What happens to a write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// It does not happen, and that is reported.
    Lost,
    /// It happens, and is reported as failed.
    AnswerLost,
}

#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: InMemory,
    faults: parking_lot::Mutex<VecDeque<Fault>>,
    down: AtomicBool,
    /// Writes wait while it is set.
    held: watch::Sender<bool>,
    /// Writes so far, failed ones included.
    pub(super) writes: watch::Sender<usize>,
}

impl FaultyStore {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            faults: parking_lot::Mutex::default(),
            down: AtomicBool::new(false),
            held: watch::Sender::new(false),
            writes: watch::Sender::new(0),
        })
    }

    pub(super) fn store(self: &Arc<Self>) -> Store {
        Store::from_object_store(Arc::clone(self) as Arc<dyn ObjectStore>, "", StoreKind::Memory)
    }

    /// The next write fails so.
    pub(super) fn fail_next(&self, fault: Fault) {
        self.faults.lock().push_back(fault);
    }

    /// Every write fails, or none.
    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Writes wait, or go on.
    pub(super) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Waits until there have been so many writes in all.
    pub(super) async fn written(&self, count: usize) {
        let mut writes = self.writes.subscribe();
        let _ = writes.wait_for(|writes| *writes >= count).await;
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

fn failure() -> Error {
    // As `object_store` words an answer of a server that failed: the write may have happened.
    let answer = "Server returned non-2xx status code: 500 Internal Server Error: faulty";
    Error::Generic { store: "faulty", source: answer.into() }
}

#[tonic::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        at: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.writes.send_modify(|writes| *writes += 1);
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let fault = self.faults.lock().pop_front();
        if self.down.load(Ordering::SeqCst) || matches!(fault, Some(Fault::Lost)) {
            return Err(failure());
        }
        let done = self.inner.put_opts(at, payload, options).await;
        if fault.is_some() { Err(failure()) } else { done }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
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
