//! One attempt to PUT an object: a request, perhaps a second one that overtakes it, and a look at what lies under the
//! key if somebody was there before.

use super::{Cause, Uploaded, Uploader};
use crate::clock;
use std::pin::pin;
use std::time::Duration;
use streamhouse_host::{Mistake, is_planted};
use streamhouse_segment::{EncodedObject, TRAILER_BYTES, Trailer};
use streamhouse_store::{Created, GetError, PutError, PutPayload, StoreKind};

/// Before other bytes are tried under another key.
const AFTER_FAILED_SYNC: Duration = Duration::from_secs(2);

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Attempt {
    Done(Uploaded),
    /// Nothing certain: try again, after a pause.
    Again,
}

impl Uploader {
    /// One attempt, once there is a place for it; it is over when it has taken longer than `patience`.
    pub(super) async fn attempt(
        &self,
        key: &str,
        object: &EncodedObject,
        patience: Duration,
    ) -> Attempt {
        let _place = self.inner.gate.enter().await;
        // A disk that hangs would not take a second write either.
        if self.inner.store.kind() == StoreKind::File {
            return self.requests(key, object).await;
        }
        match tokio::time::timeout(patience, self.requests(key, object)).await {
            Ok(attempt) => attempt,
            Err(_) => {
                let cause = format!("no answer within {patience:?}");
                let (store, key) = (self.inner.store.to_string(), key.to_owned());
                self.failed(&PutError::Ambiguous { store, key, cause }).await
            }
        }
    }

    /// A request, and another one if it is slow.
    async fn requests(&self, key: &str, object: &EncodedObject) -> Attempt {
        let mut first = pin!(self.request(key, object));
        let Some(delay) = self.hedge_delay() else { return first.await };
        tokio::select! {
            biased;
            attempt = &mut first => return attempt,
            () = tokio::time::sleep(delay) => {}
        }
        if !self.may_hedge() {
            return first.await;
        }
        tracing::debug!(key, ?delay, "a put is slow; sending it once more");
        let mut second = pin!(self.request(key, object));
        // The first that is certain counts. The other is dropped: should it still write, it writes the same bytes.
        tokio::select! {
            attempt = &mut first => match attempt {
                Attempt::Done(_) => attempt,
                Attempt::Again => second.await,
            },
            attempt = &mut second => match attempt {
                Attempt::Done(_) => attempt,
                Attempt::Again => first.await,
            },
        }
    }

    /// Never on a disk, where the second request would only add to what makes the first one slow.
    fn hedge_delay(&self) -> Option<Duration> {
        if self.inner.store.kind() == StoreKind::File {
            return None;
        }
        self.inner.hedging.lock().delay()
    }

    fn may_hedge(&self) -> bool {
        let may =
            self.inner.hedging.lock().take() && self.inner.budget.lock().take_now(clock::now());
        self.inner.probes.put_hedges.increment(u64::from(may));
        may
    }

    async fn request(&self, key: &str, object: &EncodedObject) -> Attempt {
        let payload: PutPayload = object.chunks.iter().cloned().collect();
        let began = clock::now();
        match self.inner.store.create(key, payload).await {
            Ok(Created::New) => {
                let took = clock::now().saturating_duration_since(began);
                self.inner.hedging.lock().finished(took);
                self.inner.probes.put_seconds.record(took.as_secs_f64());
                self.stored("stored");
                Attempt::Done(Uploaded::Stored)
            }
            Ok(Created::AlreadyExists) if is_planted(Mistake::ExistsTakenForStored) => {
                Attempt::Done(Uploaded::Stored)
            }
            Ok(Created::AlreadyExists) => self.inspect(key, object).await,
            Err(error) => self.failed(&error).await,
        }
    }

    fn stored(&self, outcome: &'static str) {
        self.inner.probes.put(outcome);
        self.inner.trouble.succeeded();
        self.inner.gate.succeeded();
        self.inner.budget.lock().earn(clock::now());
    }

    async fn failed(&self, error: &PutError) -> Attempt {
        let cause = Cause::of(error);
        self.inner.probes.put(cause.as_str());
        self.inner.trouble.failed(cause, error);
        match cause {
            Cause::Throttled => self.inner.gate.throttled(clock::now()),
            // After a failed sync a second one proves nothing: other bytes under another key have to do it.
            Cause::Fatal => {
                tokio::time::sleep(clock::jittered(AFTER_FAILED_SYNC)).await;
                return Attempt::Done(Uploaded::GivenUp);
            }
            // None of them is the producers' fault, and each may pass: credentials are renewed, space is made.
            Cause::Unavailable
            | Cause::Ambiguous
            | Cause::Denied
            | Cause::Full
            | Cause::ReadOnly
            | Cause::Invalid => {}
        }
        Attempt::Again
    }

    /// Something lies under our key: an earlier attempt of ours that was reported as failed, or another's bytes.
    async fn inspect(&self, key: &str, object: &EncodedObject) -> Attempt {
        let (size, tail) = match self.inner.store.get_tail(key, TRAILER_BYTES as u64).await {
            Ok(found) => found,
            // S3 also says "exists" of a writer that has not finished and may still fail.
            Err(GetError::NotFound { .. }) => return Attempt::Again,
            Err(error) => {
                tracing::debug!(key, %error, "cannot see what lies under our key, trying again");
                return Attempt::Again;
            }
        };
        if !is_ours(size, &tail, object) {
            self.inner.probes.put("foreign");
            let expected = object.size;
            tracing::error!(key, size, expected, "other bytes than ours lie under our key");
            let message = format!("other bytes than ours lie under {key}");
            return Attempt::Done(Uploaded::Foreign(message));
        }
        if self.inner.store.kind() == StoreKind::File {
            // ACK: a file may be seen before its writer has synced it.
            if let Err(error) = self.inner.store.sync_existing(key).await {
                tracing::error!(key, %error, "cannot sync what lies under our key; giving it up");
                return Attempt::Done(Uploaded::GivenUp);
            }
        }
        self.stored("found");
        Attempt::Done(Uploaded::Stored)
    }
}

fn is_ours(size: u64, tail: &[u8], object: &EncodedObject) -> bool {
    size == object.size
        && Trailer::parse(tail).is_ok_and(|trailer| trailer.footer_crc == object.footer_crc)
}
