//! Whether a store keeps the promise that everything rests on: of several writers of one key, one wins.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
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
/// How long the answer to a request is waited for before another round begins beside.
const LOST: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Store {
    /// Have 16 writers create one fresh key at once and see that exactly one is told that it did, that its bytes
    /// are the ones to be read (whole, by range, from the tail), and that the key cannot be created again. The
    /// key is `<scope>/probe/<uuid>` (`scope` is a cluster's id; `probe` if empty) and is deleted afterwards.
    ///
    /// A round with a passing error is inconclusive, since an attempt without an answer may have won: it is run
    /// again with another key, for about ten seconds. Its requests may take as long as the store's options let them.
    /// In case answers were lost, rounds whose requests may take two seconds each run beside it from the third
    /// second on; of all rounds the first conclusive one decides.
    pub async fn probe(&self, scope: &str) -> Result<(), ProbeError> {
        let scope = if scope.is_empty() { "probe" } else { scope };
        let patient = Rounds { store: self, scope, limit: None, unfinished: Mutex::default() };
        let hurried = Rounds { limit: Some(LOST), unfinished: Mutex::default(), ..patient };
        let beside = async {
            tokio::time::sleep(LOST).await;
            hurried.run(Duration::MAX).await
        };
        let probed = tokio::select! {
            biased;
            probed = patient.run(PATIENCE) => probed,
            probed = beside => probed,
        };
        tokio::join!(patient.clean_up(), hurried.clean_up());
        probed
    }
}

/// Rounds, one after the other.
struct Rounds<'a> {
    store: &'a Store,
    scope: &'a str,
    /// How long a request may take, if not as long as the store lets it.
    limit: Option<Duration>,
    /// The key of the round that is under way.
    unfinished: Mutex<Option<String>>,
}

impl Rounds<'_> {
    /// Runs them until one is conclusive, or met a passing error this long after the first began.
    async fn run(&self, patience: Duration) -> Result<(), ProbeError> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(error) = self.one().await else { return Ok(()) };
            // S3 may tell several racing writers 409: a fresh key without a winner deserves another look.
            let passing = error.can_retry() || matches!(error, ProbeError::NoWinner { .. });
            if !passing || started.elapsed() + pause > patience {
                return Err(error);
            }
            tracing::debug!(store = self.store.url(), %error, "probing again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn one(&self) -> Result<(), ProbeError> {
        let key = format!("{}/probe/{}", self.scope, unique_name());
        *self.unfinished.lock() = Some(key.clone());
        let round = Round { store: self.store, key, limit: self.limit };
        let probed = round.run().await;
        let deleted = round.write(self.store.delete(&round.key)).await;
        *self.unfinished.lock() = None;
        probed?;
        Ok(deleted?)
    }

    /// Deletes what a round left that another one overtook. What cannot be deleted soon, stays: a few bytes.
    async fn clean_up(&self) {
        let Some(key) = self.unfinished.lock().take() else { return };
        let round = Round { store: self.store, key, limit: Some(LOST) };
        if let Err(error) = round.write(self.store.delete(&round.key)).await {
            tracing::debug!(store = self.store.url(), %error, "a probe's object stays");
        }
    }
}

/// One key, once.
struct Round<'a> {
    store: &'a Store,
    key: String,
    limit: Option<Duration>,
}

impl Round<'_> {
    async fn run(&self) -> Result<(), ProbeError> {
        let (key, store) = (&self.key, || self.store.url().to_owned());
        let bodies: Vec<Bytes> = (0..WRITERS).map(|writer| body(key, writer)).collect();
        let create = |body: Bytes| self.write(self.store.create(key, body));
        let answers = join_all(bodies.iter().cloned().map(create)).await;

        let won = |answer: &Result<Created, PutError>| matches!(answer, Ok(Created::New));
        let winners = answers.iter().filter(|answer| won(answer)).count();
        // Two winners are two winners, whatever became of the rest.
        if winners > 1 {
            return Err(ProbeError::NotExclusive { store: store(), winners, attempts: WRITERS });
        }
        let winner = answers.iter().position(won);
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
    ) -> Result<T, PutError> {
        let late = |late: Fault| Err(late.into_put(self.store.url(), &self.key));
        self.limited(request).await.unwrap_or_else(late)
    }

    async fn read<T>(
        &self,
        request: impl Future<Output = Result<T, GetError>>,
    ) -> Result<T, GetError> {
        let late = |late| Err(self.store.get_error(late, &self.key));
        self.limited(request).await.unwrap_or_else(late)
    }

    async fn limited<T>(&self, request: impl Future<Output = T>) -> Result<T, Fault> {
        let Some(limit) = self.limit else { return Ok(request.await) };
        let late = |_| Fault::interrupted(format!("no answer within {limit:?}"));
        timeout(limit, request).await.map_err(late)
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
