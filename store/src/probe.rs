//! Whether a store keeps the promise that everything rests on: of several writers of one key, one wins.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use crate::create::Created;
use crate::entropy::{jittered, unique_name};
use crate::error::{GetError, ProbeError, PutError};
use crate::store::Store;

/// Writers of the one key.
const WRITERS: usize = 16;

/// A round that met a passing error is run again, as long as it starts within this time of the first.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Store {
    /// Have 16 writers create one fresh key at once and see that exactly one is told that it did, that its bytes
    /// are the ones to be read (whole, by range, from the tail), and that the key cannot be created again. The
    /// key is `<scope>/probe/<uuid>` (`scope` is a cluster's id; `probe` if empty) and is deleted afterwards.
    ///
    /// A round with a passing error is inconclusive, since an attempt without an answer may have won: it is run
    /// again with another key, for about ten seconds.
    pub async fn probe(&self, scope: &str) -> Result<(), ProbeError> {
        let scope = if scope.is_empty() { "probe" } else { scope };
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let key = format!("{scope}/probe/{}", unique_name());
            let round = self.probe_round(&key).await;
            let deleted = self.delete(&key).await;
            let error = match (round, deleted) {
                (Ok(()), Ok(())) => return Ok(()),
                (Err(error), _) => error,
                (Ok(()), Err(error)) => error.into(),
            };
            // S3 may tell several racing writers 409: a fresh key without a winner deserves another look.
            let passing = error.can_retry() || matches!(error, ProbeError::NoWinner { .. });
            if !passing || started.elapsed() + pause > PATIENCE {
                return Err(error);
            }
            tracing::debug!(store = self.url(), %error, "probing again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn probe_round(&self, key: &str) -> Result<(), ProbeError> {
        let store = || self.url().to_owned();
        let bodies: Vec<Bytes> = (0..WRITERS).map(|writer| body(key, writer)).collect();
        let creates = bodies.iter().map(|body| self.create(key, body.clone()));
        let answers = join_all(creates).await;

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
        self.probe_reads(key, &bodies[winner]).await?;
        if self.create(key, body(key, WRITERS)).await? == Created::New {
            return Err(ProbeError::Overwrites { store: store() });
        }
        self.probe_reads(key, &bodies[winner]).await
    }

    async fn probe_reads(&self, key: &str, expected: &Bytes) -> Result<(), ProbeError> {
        let wrong = |what| ProbeError::WrongBytes { store: self.url().to_owned(), what };
        let size = expected.len() as u64;
        if self.get(key).await.map_err(|error| missing(error, &wrong))? != *expected {
            return Err(wrong("whole object"));
        }
        if self.head(key).await? != Some(size) {
            return Err(wrong("size"));
        }
        let (from, to) = (size / 4, size / 2);
        let range = self.get_range(key, from..to).await.map_err(|error| missing(error, &wrong))?;
        if range != expected.slice(from as usize..to as usize) {
            return Err(wrong("range"));
        }
        let n = size / 3;
        let (told, tail) = self.get_tail(key, n).await.map_err(|error| missing(error, &wrong))?;
        if told != size || tail != expected.slice((size - n) as usize..) {
            return Err(wrong("tail"));
        }
        Ok(())
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
