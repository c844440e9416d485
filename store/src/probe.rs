//! Whether a store keeps the promise that everything rests on: of several writers of one key, one wins.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryFutureExt;
use futures::future::{Either, join_all, select};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::create::Created;
use crate::entropy::{jittered, unique_name};
use crate::error::{GetError, ProbeError, PutError};
use crate::fault::Fault;
use crate::store::Store;

/// Writers of the one key.
const WRITERS: usize = 16;

/// A round that met a passing error is run again, as long as it starts within this time of the first.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a request may take, where the store's own limit is not shorter.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// How long no answer may come before other rounds are run beside, and how long their requests may take.
const LOST: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// Have 16 writers create one fresh key at once and see that exactly one is told that it did, that its bytes
    /// are the ones to be read (whole, by range, from the tail), and that the key cannot be created again. The
    /// key is `<scope>/probe/<uuid>` (`scope` is a cluster's id; `probe` if empty) and is deleted afterwards. What
    /// the store does not delete within two seconds, or writes later than that, stays there: a kilobyte.
    ///
    /// A round with a passing error is inconclusive, since an attempt without an answer may have won: it is run
    /// again with another key, for about ten seconds. A request may take half a minute, or as long as the store's
    /// options let it, if that is less. In case answers were lost, other rounds are run beside once no answer came
    /// for two seconds; their requests may take no longer than that. The first conclusive round decides.
    pub async fn probe(&self, scope: &str) -> Result<(), ProbeError> {
        let scope = if scope.is_empty() { "probe" } else { scope };
        let patient = Rounds::new(self, scope, LONGEST_REQUEST);
        let hurried = Rounds::new(self, scope, LOST);
        let given_up = AtomicBool::new(false);
        let beside = async {
            patient.silence(LOST).await;
            hurried.run(|_| given_up.load(Ordering::Relaxed)).await
        };
        let decided = {
            let alone = pin!(patient.run(|elapsed| elapsed > PATIENCE));
            match select(alone, pin!(beside)).await {
                Either::Left((Err(error), beside)) if passing(&error) && hurried.begun() => {
                    given_up.store(true, Ordering::Relaxed);
                    beside.await.map_err(|late| if passing(&late) { error } else { late })
                }
                Either::Left((decided, _)) | Either::Right((decided, _)) => decided,
            }
        };
        // Two winners are two winners, also in a round that another one overtook.
        let refuted = patient.refuted().or_else(|| hurried.refuted());
        tokio::join!(patient.clean_up(), hurried.clean_up());
        refuted.map_or(decided, Err)
    }
}

/// Whether another round may end otherwise.
fn passing(error: &ProbeError) -> bool {
    // S3 may tell several racing writers 409: a fresh key without a winner deserves another look.
    error.can_retry() || matches!(error, ProbeError::NoWinner { .. })
}

/// Rounds, one after the other.
struct Rounds<'a> {
    store: &'a Store,
    scope: &'a str,
    /// How long a request may take.
    limit: Duration,
    /// All of them, the current one last.
    rounds: Mutex<Vec<Arc<Round<'a>>>>,
}

impl<'a> Rounds<'a> {
    fn new(store: &'a Store, scope: &'a str, limit: Duration) -> Self {
        Self { store, scope, limit, rounds: Mutex::default() }
    }

    /// Runs them until one is conclusive, or met a passing error when it is time to give up, which `give_up` tells
    /// by the time since the first began.
    async fn run(&self, give_up: impl Fn(Duration) -> bool) -> Result<(), ProbeError> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(error) = self.one().await else { return Ok(()) };
            if !passing(&error) || give_up(started.elapsed() + pause) {
                return Err(error);
            }
            tracing::debug!(store = self.store.url(), %error, "probing again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn one(&self) -> Result<(), ProbeError> {
        let round = Arc::new(Round {
            store: self.store,
            key: format!("{}/probe/{}", self.scope, unique_name()),
            limit: self.limit,
            heard: Mutex::new(Instant::now()),
            winners: AtomicUsize::new(0),
            may_write: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
        });
        self.rounds.lock().push(round.clone());
        match round.run().await {
            Ok(()) => Ok(round.delete(self.limit).await?),
            Err(error) => {
                // What is conclusive is told at once, and cleaned up afterwards.
                if passing(&error)
                    && let Err(error) = round.delete(LOST).await
                {
                    tracing::debug!(store = self.store.url(), %error, "to be deleted later");
                }
                Err(error)
            }
        }
    }

    fn begun(&self) -> bool {
        !self.rounds.lock().is_empty()
    }

    /// Waits until no answer came for this long.
    async fn silence(&self, silence: Duration) {
        loop {
            let heard = self.rounds.lock().last().map(|round| *round.heard.lock());
            let until = heard.unwrap_or_else(Instant::now) + silence;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// What a round found, whether or not it ended.
    fn refuted(&self) -> Option<ProbeError> {
        self.rounds.lock().iter().find_map(|round| round.refuted())
    }

    /// Deletes what rounds left, overtaken or without an answer.
    async fn clean_up(&self) {
        let rounds = std::mem::take(&mut *self.rounds.lock());
        let left = rounds.iter().filter(|round| !round.deleted.load(Ordering::Relaxed));
        for result in join_all(left.map(|round| round.delete(LOST))).await {
            if let Err(error) = result {
                tracing::debug!(store = self.store.url(), %error, "a probe's object may stay");
            }
        }
    }
}

/// One key, once.
struct Round<'a> {
    store: &'a Store,
    key: String,
    limit: Duration,
    /// When an answer came last.
    heard: Mutex<Instant>,
    /// How many of the first creates were told that they created it.
    winners: AtomicUsize,
    /// The store may still carry out a create that was not answered.
    may_write: AtomicBool,
    deleted: AtomicBool,
}

impl Round<'_> {
    async fn run(&self) -> Result<(), ProbeError> {
        let (key, store) = (&self.key, || self.store.url().to_owned());
        let bodies: Vec<Bytes> = (0..WRITERS).map(|writer| body(key, writer)).collect();
        let unanswered = |error: &PutError| {
            self.may_write.fetch_or(error.may_have_happened(), Ordering::Relaxed);
        };
        let create = |body: Bytes| {
            self.write(self.store.create(key, body), self.limit).inspect_err(unanswered)
        };
        let count = |created: &Created| {
            self.winners.fetch_add(usize::from(*created == Created::New), Ordering::Relaxed);
        };
        let racing = bodies.iter().cloned().map(|body| create(body).inspect_ok(count));
        let answers = join_all(racing).await;

        if let Some(error) = self.refuted() {
            return Err(error);
        }
        let winner = answers.iter().position(|answer| matches!(answer, Ok(Created::New)));
        for answer in answers {
            answer?;
        }
        let Some(winner) = winner else {
            return Err(ProbeError::NoWinner { store: store(), attempts: WRITERS });
        };
        self.reads(&bodies[winner]).await?;
        if create(body(key, WRITERS)).await? == Created::New {
            return Err(ProbeError::Overwrites { store: store() });
        }
        self.reads(&bodies[winner]).await
    }

    fn refuted(&self) -> Option<ProbeError> {
        let winners = self.winners.load(Ordering::Relaxed);
        let store = || self.store.url().to_owned();
        (winners > 1).then(|| ProbeError::NotExclusive {
            store: store(),
            winners,
            attempts: WRITERS,
        })
    }

    async fn delete(&self, limit: Duration) -> Result<(), PutError> {
        self.write(self.store.delete(&self.key), limit).await?;
        self.deleted.store(!self.may_write.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }

    async fn reads(&self, expected: &Bytes) -> Result<(), ProbeError> {
        let (store, key) = (self.store, &self.key);
        let wrong = |what| ProbeError::WrongBytes { store: store.url().to_owned(), what };
        let missing = |error| missing(error, &wrong);
        let size = expected.len() as u64;
        if self.read(store.get(key)).await.map_err(missing)? != *expected {
            return Err(wrong("whole object"));
        }
        if self.read(store.head(key)).await? != Some(size) {
            return Err(wrong("size"));
        }
        let (from, to) = (size / 4, size / 2);
        let range = self.read(store.get_range(key, from..to)).await.map_err(missing)?;
        if range != expected.slice(from as usize..to as usize) {
            return Err(wrong("range"));
        }
        let n = size / 3;
        let (told, tail) = self.read(store.get_tail(key, n)).await.map_err(missing)?;
        if told != size || tail != expected.slice((size - n) as usize..) {
            return Err(wrong("tail"));
        }
        Ok(())
    }

    async fn write<T>(
        &self,
        request: impl Future<Output = Result<T, PutError>>,
        limit: Duration,
    ) -> Result<T, PutError> {
        let late = |late: Fault| Err(late.into_put(self.store.url(), &self.key));
        self.limited(request, limit).await.unwrap_or_else(late)
    }

    async fn read<T>(
        &self,
        request: impl Future<Output = Result<T, GetError>>,
    ) -> Result<T, GetError> {
        let late = |late| Err(self.store.get_error(late, &self.key));
        self.limited(request, self.limit).await.unwrap_or_else(late)
    }

    async fn limited<T>(
        &self,
        request: impl Future<Output = T>,
        limit: Duration,
    ) -> Result<T, Fault> {
        let late = |_| Fault::interrupted(format!("no answer within {limit:?}"));
        let answer = timeout(limit, request).await.map_err(late)?;
        *self.heard.lock() = Instant::now();
        Ok(answer)
    }
}

/// An object that was just created and is not there, or not whole, is a finding about the store.
fn missing(error: GetError, wrong: &impl Fn(&'static str) -> ProbeError) -> ProbeError {
    match error {
        GetError::NotFound { .. } => wrong("object not found"),
        GetError::Short { .. } => wrong("answer too short"),
        GetError::Unavailable { .. }
        | GetError::Throttled { .. }
        | GetError::Denied { .. }
        | GetError::Other { .. } => ProbeError::Get(error),
    }
}

/// All writers' bodies have one length, so that a mixture of two would not show by its size.
fn body(key: &str, writer: usize) -> Bytes {
    format!("writer {writer:02} of {key}\n").repeat(16).into()
}
