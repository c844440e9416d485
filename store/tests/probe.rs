//! The probe refuses stores that would lose records without a sign. Each is a sound store with one thing broken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use streamhouse_store::{ProbeError, Store, StoreKind};
use tokio::time::Instant;

const SLOW: Duration = Duration::from_secs(5);
/// So long after its beginning the store answers again.
const LATE: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy)]
enum Broken {
    /// `If-None-Match` is read by nobody: every create overwrites and succeeds.
    IgnoresTheCondition,
    /// Two creates look, find nothing, and both write.
    LetsThreeWin,
    /// Every create is told that the key is taken.
    LetsNobodyWin,
    /// The race has one winner, and who comes later overwrites.
    OverwritesLater,
    /// The loser's bytes replace the winner's.
    KeepsTheLosersBytes,
    /// The first 20 requests fail in passing.
    FailsAtFirst,
    /// Every write fails in passing.
    NeverWrites,
    /// No write is answered.
    NeverAnswers,
    /// The same for the first twelve seconds.
    AnswersLate,
    /// Two creates win, the answer to a third is lost.
    LetsTwoWinAndLosesOne,
    /// The answers to the first three writes are lost.
    LosesAnswers,
    /// Every write takes five seconds.
    IsSlow,
}

#[derive(Debug)]
struct Faulty {
    inner: InMemory,
    broken: Broken,
    puts: AtomicUsize,
    started: Instant,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?})", self.broken)
    }
}

fn passing() -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Error::Generic { store: "Faulty", source: source.into() }
}

fn taken(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "taken".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let put = self.puts.fetch_add(1, Ordering::SeqCst);
        match self.broken {
            Broken::IgnoresTheCondition => options.mode = PutMode::Overwrite,
            Broken::OverwritesLater if put >= 16 => options.mode = PutMode::Overwrite,
            Broken::OverwritesLater => {}
            Broken::LetsThreeWin if put < 3 => options.mode = PutMode::Overwrite,
            Broken::LetsThreeWin => {}
            Broken::LetsNobodyWin => return Err(taken(location)),
            Broken::KeepsTheLosersBytes => {
                options.mode = PutMode::Overwrite;
                let written = self.inner.put_opts(location, payload, options).await;
                return if put == 0 { written } else { Err(taken(location)) };
            }
            Broken::FailsAtFirst if put < 20 => return Err(passing()),
            Broken::FailsAtFirst => {}
            Broken::NeverWrites => return Err(passing()),
            Broken::NeverAnswers => std::future::pending().await,
            Broken::AnswersLate if self.started.elapsed() < LATE => std::future::pending().await,
            Broken::AnswersLate => {}
            Broken::LetsTwoWinAndLosesOne if put < 2 => options.mode = PutMode::Overwrite,
            Broken::LetsTwoWinAndLosesOne if put == 2 => std::future::pending().await,
            Broken::LetsTwoWinAndLosesOne => {}
            Broken::LosesAnswers if put < 3 => std::future::pending().await,
            Broken::LosesAnswers => {}
            Broken::IsSlow => tokio::time::sleep(SLOW).await,
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
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

fn faulty(broken: Broken) -> Faulty {
    let puts = AtomicUsize::new(0);
    Faulty { inner: InMemory::new(), broken, puts, started: Instant::now() }
}

fn store(broken: Broken) -> Store {
    Store::from_object_store(Arc::new(faulty(broken)), "", StoreKind::Memory)
}

#[tokio::test]
async fn a_store_that_lets_several_writers_win_is_refused() {
    let error = store(Broken::LetsThreeWin).probe("cluster").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store memory://given does not honour create-only PUT: 3 of 16 concurrent creates of one key won"
    );
    assert!(!error.can_retry());
    let error = store(Broken::IgnoresTheCondition).probe("cluster").await.unwrap_err();
    assert!(matches!(error, ProbeError::NotExclusive { winners: 16, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_in_which_nobody_wins_is_refused() {
    let error = store(Broken::LetsNobodyWin).probe("cluster").await.unwrap_err();
    assert!(matches!(error, ProbeError::NoWinner { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_overwrites_later_is_refused() {
    let store = store(Broken::OverwritesLater);
    let error = store.probe("").await.unwrap_err();
    assert!(matches!(error, ProbeError::Overwrites { .. }), "{error}");
    assert!(store.list("", None, 10).await.unwrap().is_empty(), "the probe cleans up");
}

#[tokio::test]
async fn a_store_that_keeps_the_losers_bytes_is_refused() {
    let error = store(Broken::KeepsTheLosersBytes).probe("cluster").await.unwrap_err();
    assert!(matches!(error, ProbeError::WrongBytes { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_waited_out() {
    let store = store(Broken::FailsAtFirst);
    store.probe("").await.unwrap();
    assert!(store.list("", None, 10).await.unwrap().is_empty(), "the probe cleans up");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_waited_for_two_seconds() {
    let started = Instant::now();
    let store = store(Broken::LosesAnswers);
    store.probe("").await.unwrap();
    assert!(store.list("", None, 10).await.unwrap().is_empty(), "the probe cleans up");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_waited_for() {
    let store = store(Broken::IsSlow);
    let started = Instant::now();
    store.probe("").await.unwrap();
    let two = SLOW * 2..SLOW * 3;
    assert!(two.contains(&started.elapsed()), "as long as its creates: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn two_winners_are_two_also_if_another_answer_is_lost() {
    let error = store(Broken::LetsTwoWinAndLosesOne).probe("").await.unwrap_err();
    assert!(matches!(error, ProbeError::NotExclusive { winners: 2, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_again_is_found_within_four_seconds() {
    let store = store(Broken::AnswersLate);
    let started = Instant::now();
    store.probe("").await.unwrap();
    let until = LATE..LATE + Duration::from_secs(4);
    assert!(until.contains(&started.elapsed()), "{:?}", started.elapsed());
    assert!(store.list("", None, 10).await.unwrap().is_empty(), "the probe cleans up");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up_within_a_minute() {
    let started = Instant::now();
    let error = store(Broken::NeverAnswers).probe("cluster").await.unwrap_err();
    assert!(matches!(error, ProbeError::Put(_)) && error.can_retry(), "{error}");
    assert!(error.to_string().contains("no answer within 30s"), "{error}");
    assert!(started.elapsed() <= Duration::from_secs(60), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_writes_is_given_up_in_bounded_time() {
    let started = Instant::now();
    let error = store(Broken::NeverWrites).probe("cluster").await.unwrap_err();
    assert!(matches!(error, ProbeError::Put(_)) && error.can_retry(), "{error}");
    assert!(started.elapsed() <= Duration::from_secs(11));
}

#[tokio::test]
async fn a_layer_sees_the_requests_of_the_store_it_covers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Store::open(&format!("file://{}", dir.path().display())).unwrap();
    let covered = folder.layered(|_| Arc::new(faulty(Broken::NeverWrites)));
    assert_eq!(covered.url(), folder.url());
    let error = covered.create("k", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.may_have_happened(), "{error}");
    assert_eq!(folder.head("k").await.unwrap(), None);
}
