//! The simulated object store: one bucket, and each host's own way to it, which can fail. Whether a request has its
//! effect and what is said of it are decided apart.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_chaos::parts::{HARNESS, Recorder};
use streamhouse_chaos::{Operation, Outcome, Random};
use streamhouse_host::simulated;
use streamhouse_store::{Store, StoreKind};

/// A request that gets no answer is given up after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What a request takes when all is well, in milliseconds.
const USUAL: std::ops::Range<u64> = 2..15;
const SLOW: std::ops::Range<u64> = 100..3_000;
/// How long what got no answer may be on its way, in milliseconds: also past its sender's patience and life.
const ON_ITS_WAY: std::ops::Range<u64> = 0..20_000;

/// How requests fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// 500; done or not.
    InternalError,
    /// 503.
    SlowDown,
    /// No connection.
    Unreachable,
    /// No answer; done or not, and a write perhaps much later.
    Silence,
    /// The connection ends before the answer; done.
    LostAnswer,
    /// Of a write: told that the key is taken, though it is not.
    Conflict,
    /// Of a read: half of it.
    Truncated,
    /// Of a read: one bit is another.
    BitFlip,
    /// It takes its time.
    Slow,
}

impl Trouble {
    pub(crate) const ALL: [Self; 9] = [
        Self::InternalError,
        Self::SlowDown,
        Self::Unreachable,
        Self::Silence,
        Self::LostAnswer,
        Self::Conflict,
        Self::Truncated,
        Self::BitFlip,
        Self::Slow,
    ];

    /// As the trials of real processes call it, where they have it: the checker knows by that what harms reads.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InternalError => "store-500",
            Self::SlowDown => "store-503",
            Self::Unreachable => "store-unreachable",
            Self::Silence => "store-silent",
            Self::LostAnswer => "store-lost-answer",
            Self::Conflict => "store-conflict",
            Self::Truncated => "store-truncated",
            Self::BitFlip => "store-bit-flip",
            Self::Slow => "store-slow",
        }
    }

    /// Whether a request can have it: one that reads, or one that changes something.
    fn concerns(self, reads: bool) -> bool {
        match self {
            Self::Truncated | Self::BitFlip => reads,
            Self::Conflict => !reads,
            _ => true,
        }
    }
}

/// What a write does to the bucket, whenever it arrives there.
type Effect = Box<dyn FnOnce(&Bucket) + Send>;

struct State {
    random: Random,
    /// Writes that are on their way though nobody waits for them any more, by when they arrive.
    late: BTreeMap<(Duration, u64), Effect>,
    sent: u64,
    /// For each host that has trouble: which, and for how many of a hundred requests.
    troubles: BTreeMap<String, (Trouble, u64)>,
    /// How many requests had which.
    struck: BTreeMap<&'static str, u64>,
    recorder: Option<Arc<Recorder>>,
}

/// The bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    objects: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl Bucket {
    pub(crate) fn new(random: Random) -> Self {
        let state = State {
            random,
            late: BTreeMap::new(),
            sent: 0,
            troubles: BTreeMap::new(),
            struck: BTreeMap::new(),
            recorder: None,
        };
        Self { objects: Arc::new(InMemory::new()), state: Arc::new(Mutex::new(state)) }
    }

    /// What is stored and deleted is written down here.
    pub(crate) fn record(&self, recorder: Arc<Recorder>) {
        self.state.lock().recorder = Some(recorder);
    }

    /// The way of one host.
    pub(crate) fn of(&self, host: &str) -> Store {
        let way = Way { host: host.to_owned(), bucket: self.clone() };
        Store::from_object_store(Arc::new(way), "", StoreKind::S3)
    }

    pub(crate) fn trouble(&self, host: &str, trouble: Trouble, percent: u64) {
        self.state.lock().troubles.insert(host.to_owned(), (trouble, percent));
    }

    pub(crate) fn heal(&self, host: &str) {
        self.state.lock().troubles.remove(host);
    }

    /// What is on its way until then arrives.
    pub(crate) fn arrive(&self, until: Duration) {
        loop {
            let next = {
                let mut state = self.state.lock();
                match state.late.first_key_value() {
                    Some(((due, _), _)) if *due <= until => state.late.pop_first(),
                    _ => None,
                }
            };
            let Some((_, effect)) = next else { return };
            effect(self);
        }
    }

    fn on_its_way(&self, effect: Effect) {
        let mut state = self.state.lock();
        let takes = Duration::from_millis(state.random.within(ON_ITS_WAY));
        state.sent += 1;
        let place = (simulated::elapsed() + takes, state.sent);
        state.late.insert(place, effect);
    }

    /// What the simulation did, in the history.
    pub(crate) fn note(&self, operation: Operation) {
        if let Some(recorder) = &self.state.lock().recorder {
            recorder.record(HARNESS, Outcome::Ok, operation);
        }
    }

    /// In memory, where nothing waits.
    fn put(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let done = self.objects.put_opts(at, payload, options).now_or_never();
        let done = done.unwrap_or_else(|| Err(answer("500 Internal Server Error")));
        if done.is_ok() {
            self.note(Operation::Stored { object: at.to_string() });
        }
        done
    }

    fn delete(&self, object: Path) -> Result<()> {
        let one = stream::once(std::future::ready(Ok(object.clone())));
        let all: Vec<_> =
            self.objects.delete_stream(one.boxed()).collect().now_or_never().unwrap_or_default();
        all.into_iter().try_for_each(|deleted| deleted.map(drop))?;
        self.note(Operation::Deleted { object: object.to_string() });
        Ok(())
    }

    /// How many requests had which trouble.
    pub(crate) fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().struck.clone()
    }
}

#[derive(Clone)]
struct Way {
    host: String,
    bucket: Bucket,
}

/// What becomes of one request.
struct Fate {
    trouble: Option<Trouble>,
    /// Where it is either: it has its effect.
    happens: bool,
    takes: Duration,
}

impl Way {
    fn fate(&self, reads: bool) -> Fate {
        let mut state = self.bucket.state.lock();
        let state = &mut *state;
        let of = state.troubles.get(&self.host).copied();
        let trouble = of.filter(|(_, percent)| state.random.below(100) < *percent).map(|of| of.0);
        let trouble = trouble.filter(|trouble| trouble.concerns(reads));
        if let Some(trouble) = trouble {
            *state.struck.entry(trouble.name()).or_default() += 1;
        }
        let range = if trouble == Some(Trouble::Slow) { SLOW } else { USUAL };
        let takes = Duration::from_millis(state.random.within(range));
        Fate { trouble, happens: state.random.below(2) == 0, takes }
    }

    /// What a write, or a delete, comes to.
    async fn change<T>(
        &self,
        act: impl FnOnce(&Bucket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fate = self.fate(false);
        let happens = match fate.trouble {
            None | Some(Trouble::Slow | Trouble::Truncated | Trouble::BitFlip) => true,
            Some(Trouble::LostAnswer) => true,
            Some(Trouble::InternalError) => fate.happens,
            Some(Trouble::SlowDown | Trouble::Unreachable | Trouble::Conflict) => false,
            Some(Trouble::Silence) => {
                if fate.happens {
                    self.bucket.on_its_way(Box::new(|bucket| drop(act(bucket))));
                }
                return Err(self.silence().await);
            }
        };
        // It arrives after half of its time, and its answer does after the other half.
        tokio::time::sleep(fate.takes / 2).await;
        let done = happens.then(|| act(&self.bucket));
        tokio::time::sleep(fate.takes / 2).await;
        match fate.trouble {
            Some(Trouble::SlowDown) => Err(answer("503 Slow Down")),
            Some(Trouble::Unreachable) => Err(broken(io::ErrorKind::ConnectionRefused)),
            Some(Trouble::LostAnswer) => Err(broken(io::ErrorKind::ConnectionReset)),
            Some(Trouble::Conflict) => Err(taken()),
            Some(Trouble::InternalError) => Err(answer("500 Internal Server Error")),
            _ => done.unwrap_or_else(|| Err(answer("500 Internal Server Error"))),
        }
    }

    /// Nobody answers.
    async fn silence(&self) -> Error {
        tokio::time::sleep(REQUEST_TIMEOUT).await;
        broken(io::ErrorKind::TimedOut)
    }

    /// Waits for what a read takes; the trouble that its answer has.
    async fn before_read(&self) -> Result<Option<Trouble>> {
        let fate = self.fate(true);
        tokio::time::sleep(fate.takes).await;
        match fate.trouble {
            Some(Trouble::InternalError) => Err(answer("500 Internal Server Error")),
            Some(Trouble::SlowDown) => Err(answer("503 Slow Down")),
            Some(Trouble::Unreachable) => Err(broken(io::ErrorKind::ConnectionRefused)),
            Some(Trouble::LostAnswer) => Err(broken(io::ErrorKind::ConnectionReset)),
            Some(Trouble::Silence) => Err(self.silence().await),
            trouble => Ok(trouble),
        }
    }
}

fn answer(status: &str) -> Error {
    let source = format!("Server returned non-2xx status code: {status}: simulated");
    Error::Generic { store: "simulated", source: source.into() }
}

fn broken(kind: io::ErrorKind) -> Error {
    Error::Generic { store: "simulated", source: io::Error::from(kind).into() }
}

fn taken() -> Error {
    Error::AlreadyExists { path: "simulated".to_owned(), source: "it is taken".into() }
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
    let body = stream::once(async move { Ok(Bytes::from(bytes)) }).boxed();
    Ok(GetResult { payload: GetResultPayload::Stream(body), meta, range, attributes, extensions })
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bucket as {} sees it", self.host)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for Way {
    async fn put_opts(&self, at: &Path, payload: PutPayload, o: PutOptions) -> Result<PutResult> {
        let at = at.clone();
        self.change(move |bucket| bucket.put(&at, payload, o)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bucket.objects.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let trouble = self.before_read().await?;
        let answer = self.bucket.objects.get_opts(at, options).await?;
        match trouble {
            Some(Trouble::Truncated) => {
                changed(answer, |bytes| bytes.truncate(bytes.len() / 2)).await
            }
            Some(Trouble::BitFlip) => {
                let place = self.bucket.state.lock().random.number();
                let flip = move |bytes: &mut Vec<u8>| {
                    let bits = bytes.len() as u64 * 8;
                    if let Some(bit) = place.checked_rem(bits) {
                        bytes[bit as usize / 8] ^= 1 << (bit % 8);
                    }
                };
                changed(answer, flip).await
            }
            _ => Ok(answer),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let way = self.clone();
        let delete = move |location: Result<Path>| {
            let way = way.clone();
            async move {
                let location = location?;
                let object = location.clone();
                way.change(move |bucket| bucket.delete(object)).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (way, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            match way.before_read().await {
                // A listing is read when it is answered.
                Ok(_) => way.bucket.objects.list(prefix.as_ref()),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            }
        };
        stream::once(listing).flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let after = move |found: &Result<ObjectMeta>| {
            let is = found.as_ref().map_or(true, |found| found.location > offset);
            std::future::ready(is)
        };
        self.list(prefix).filter(after).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before_read().await?;
        self.bucket.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.bucket.objects.copy_opts(from, to, options).await
    }
}
