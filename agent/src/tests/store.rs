//! A store in memory whose writes can be made to fail, with two switches: did it happen, was it reported.

use futures::stream::BoxStream;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use streamhouse_store::{Store, StoreKind};
use tokio::sync::watch;

/// What happens to a write: two switches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// Whether it happens.
    pub(super) happens: bool,
    /// What is said of it.
    pub(super) reported: Reported,
}

/// What is said of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    /// An answer of a server with this status line and body.
    Answer(&'static str),
    /// A success that lacks what stores send with one: a proxy's page, an error in the body.
    OddSuccess,
    /// The connection ended before the answer.
    Reset,
    /// No connection was made.
    Unreachable,
    /// 412: the key is taken.
    Exists,
    /// 403, as the credentials have expired.
    Denied,
    /// No answer ever comes.
    Nothing,
}

/// What happens to a read.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReadFault {
    /// It is refused for now.
    Throttled,
    /// Half of what was asked for comes.
    Truncated,
    /// The connection ends.
    Reset,
}

impl Fault {
    /// It does not happen, and a server says that it failed.
    pub(super) const LOST: Self = Self { happens: false, reported: Reported::Answer(FAILED) };
    /// It happens, and a server says that it failed.
    pub(super) const ANSWER_LOST: Self = Self { happens: true, reported: Reported::Answer(FAILED) };
}

const FAILED: &str = "500 Internal Server Error: <Error><Code>InternalError</Code></Error>";

#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: InMemory,
    faults: parking_lot::Mutex<VecDeque<Fault>>,
    read_faults: parking_lot::Mutex<VecDeque<ReadFault>>,
    /// What happens to every write that has no fault of its own.
    always: parking_lot::Mutex<Option<Fault>>,
    /// Writes are kept back while it is set: whoever made one is never answered.
    keeps: AtomicBool,
    kept: parking_lot::Mutex<Vec<(Path, PutPayload, PutOptions)>>,
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
            read_faults: parking_lot::Mutex::default(),
            always: parking_lot::Mutex::default(),
            keeps: AtomicBool::new(false),
            kept: parking_lot::Mutex::default(),
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

    /// The next read fails so.
    pub(super) fn fail_next_read(&self, fault: ReadFault) {
        self.read_faults.lock().push_back(fault);
    }

    /// Every write fails, or none.
    pub(super) fn set_down(&self, down: bool) {
        self.fail_always(down.then_some(Fault::LOST));
    }

    /// Every write fails so, or none.
    pub(super) fn fail_always(&self, fault: Option<Fault>) {
        *self.always.lock() = fault;
    }

    /// Writes wait, or go on.
    pub(super) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Writes are kept back on their way, until they [`land`](Self::land), whoever still waits for them.
    pub(super) fn keep_back(&self, keeps: bool) {
        self.keeps.store(keeps, Ordering::Release);
    }

    /// What was kept back happens now; how many objects came of it.
    pub(super) async fn land(&self) -> usize {
        let kept = std::mem::take(&mut *self.kept.lock());
        let mut landed = 0;
        for (at, payload, options) in kept {
            landed += usize::from(self.inner.put_opts(&at, payload, options).await.is_ok());
        }
        landed
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

/// An answer, as `object_store` words it.
fn answer(answer: &str) -> Error {
    let text = format!("Server returned non-2xx status code: {answer}");
    Error::Generic { store: "faulty", source: text.into() }
}

fn transport(kind: HttpErrorKind) -> Error {
    let source = HttpError::new(kind, std::io::Error::from(std::io::ErrorKind::ConnectionReset));
    Error::Generic { store: "faulty", source: source.into() }
}

fn denied(at: &Path) -> Error {
    let source = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>ExpiredToken</Code></Error>";
    Error::PermissionDenied { path: at.to_string(), source: source.into() }
}

async fn report(reported: Reported, at: &Path) -> Error {
    match reported {
        Reported::Answer(text) => answer(text),
        Reported::OddSuccess => {
            Error::Generic { store: "faulty", source: "ETag Header missing from response".into() }
        }
        Reported::Reset => transport(HttpErrorKind::Interrupted),
        Reported::Unreachable => transport(HttpErrorKind::Connect),
        Reported::Exists => {
            let source = "412 Precondition Failed".into();
            Error::AlreadyExists { path: at.to_string(), source }
        }
        Reported::Denied => denied(at),
        Reported::Nothing => std::future::pending().await,
    }
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
        if self.keeps.load(Ordering::Acquire) {
            self.kept.lock().push((at.clone(), payload, options));
            return std::future::pending().await;
        }
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let always = *self.always.lock();
        let Some(fault) = self.faults.lock().pop_front().or(always) else {
            return self.inner.put_opts(at, payload, options).await;
        };
        if fault.happens {
            // What a second request for the key finds is what the first one wrote.
            let _ = self.inner.put_opts(at, payload, options).await;
        }
        Err(report(fault.reported, at).await)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, mut options: GetOptions) -> Result<GetResult> {
        let fault = self.read_faults.lock().pop_front();
        match (fault, &options.range) {
            (Some(ReadFault::Throttled), _) => return Err(answer("503 Slow Down: ")),
            (Some(ReadFault::Reset), _) => return Err(transport(HttpErrorKind::Interrupted)),
            (Some(ReadFault::Truncated), Some(GetRange::Suffix(bytes))) => {
                options.range = Some(GetRange::Suffix(bytes / 2));
            }
            _ => {}
        }
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
