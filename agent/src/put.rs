//! One object's way into the store: built once, then PUT under its one key until it is certain that it lies there.
//!
//! ONCE: every attempt is create-only, under the same key and with the same bytes. The store's own retries are off,
//! these are the only ones.

use crate::backoff::{Backoff, RetryBudget};
use crate::clock;
use crate::engine::{Built, UploadOrder};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use streamhouse_proto::v1::{ProducerBatch, SliceCommit, TopicPartition};
use streamhouse_segment::{
    EncodedObject, ObjectBuilder, ObjectError, ProducerState, SliceMeta, TRAILER_BYTES, Trailer,
};
use streamhouse_store::{Created, GetError, PutError, Store, StoreKind};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Header, footer and trailer of an object, besides 160 bytes a slice.
const ENVELOPE_BYTES: usize = 4_096;

/// How an upload ended.
#[derive(Debug)]
pub(crate) enum Uploaded {
    Stored,
    /// Not within the deadline. It may still land later.
    GivenUp,
    /// Something else lies under our key.
    Foreign(String),
}

/// What all uploads of an agent share.
#[derive(Debug, Clone)]
pub(crate) struct Uploader {
    store: Store,
    timeout: Duration,
    budget: Arc<Mutex<RetryBudget>>,
}

enum Attempt {
    Done(Uploaded),
    /// Try again, after a pause.
    Again,
}

impl Uploader {
    pub(crate) fn new(store: Store, timeout: Duration) -> Self {
        // Twenty at once, then ten a second: enough for every upload slot to find a store that has healed.
        Self { store, timeout, budget: Arc::new(Mutex::new(RetryBudget::new(10, 20))) }
    }

    /// PUTs the object until it is stored, or the put deadline has passed.
    pub(crate) async fn put(&self, object: &EncodedObject) -> Uploaded {
        let key = object.id.key();
        let deadline = clock::now() + self.timeout;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            let attempt = tokio::time::timeout(left, self.attempt(&key, object)).await;
            match attempt {
                Ok(Attempt::Done(uploaded)) => return uploaded,
                Ok(Attempt::Again) => {}
                Err(_) => return Uploaded::GivenUp,
            }
            let pause = backoff.next().max(self.budgeted(clock::now()));
            if clock::now() + pause >= deadline {
                tokio::time::sleep(deadline.saturating_duration_since(clock::now())).await;
                return Uploaded::GivenUp;
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn budgeted(&self, now: Instant) -> Duration {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    async fn attempt(&self, key: &str, object: &EncodedObject) -> Attempt {
        let sequence = object.id.sequence;
        match self.store.create(key, object.bytes.clone()).await {
            Ok(Created::New) => Attempt::Done(Uploaded::Stored),
            Ok(Created::AlreadyExists) => self.inspect(key, object).await,
            Err(error @ PutError::Fatal { .. }) => {
                // After a failed sync a second one proves nothing: other bytes under another key have to do it.
                tracing::error!(sequence, %error, "the store failed for good; giving the object up");
                tokio::time::sleep(clock::jittered(LONGEST_PAUSE)).await;
                Attempt::Done(Uploaded::GivenUp)
            }
            Err(error) if error.can_retry() => {
                tracing::warn!(sequence, %error, "put failed, trying again");
                Attempt::Again
            }
            Err(error) => {
                tracing::error!(sequence, %error, "put refused, trying again");
                Attempt::Again
            }
        }
    }

    /// Something lies under our key: an earlier attempt of ours that was reported as failed, or another's bytes.
    async fn inspect(&self, key: &str, object: &EncodedObject) -> Attempt {
        let (size, tail) = match self.store.get_tail(key, TRAILER_BYTES as u64).await {
            Ok(found) => found,
            // S3 also says "exists" of a writer that has not finished and may still fail.
            Err(GetError::NotFound { .. }) => return Attempt::Again,
            Err(error) => {
                tracing::warn!(key, %error, "cannot see what lies under our key, trying again");
                return Attempt::Again;
            }
        };
        if !is_ours(size, &tail, object) {
            tracing::error!(
                key,
                size,
                expected = object.size,
                "other bytes than ours lie under our key"
            );
            return Attempt::Done(Uploaded::Foreign(format!(
                "other bytes than ours lie under {key}"
            )));
        }
        if self.store.kind() != StoreKind::File {
            return Attempt::Done(Uploaded::Stored);
        }
        // ACK: a file may be seen before its writer has synced it.
        match self.store.sync_existing(key).await {
            Ok(()) => Attempt::Done(Uploaded::Stored),
            Err(error) => {
                tracing::error!(key, %error, "cannot sync what lies under our key; giving it up");
                Attempt::Done(Uploaded::GivenUp)
            }
        }
    }
}

fn is_ours(size: u64, tail: &[u8], object: &EncodedObject) -> bool {
    size == object.size
        && Trailer::parse(tail).is_ok_and(|trailer| trailer.footer_crc == object.footer_crc)
}

/// Copies the batches into an object: the only time that the agent copies them.
pub(crate) fn build(order: &UploadOrder) -> Result<EncodedObject, ObjectError> {
    let batches = order.slices.iter().flat_map(|(_, batches)| batches);
    let bytes: usize = batches.map(Bytes::len).sum();
    let mut builder =
        ObjectBuilder::new(order.id, bytes + ENVELOPE_BYTES + order.slices.len() * 160);
    for (start, batches) in &order.slices {
        builder.begin_slice(*start)?;
        for batch in batches {
            builder.append_batch(batch)?;
        }
    }
    builder.finish(&order.outcomes)
}

/// What the engine is told of a built object.
pub(crate) fn describe(object: &EncodedObject) -> Built {
    Built { bytes: object.bytes.clone(), slices: object.slices.iter().map(commit_of).collect() }
}

fn commit_of(slice: &SliceMeta) -> SliceCommit {
    let partition =
        TopicPartition { topic_id: slice.topic.to_bytes().to_vec(), partition: slice.partition };
    SliceCommit {
        partition: Some(partition),
        lease_epoch: slice.lease_epoch,
        base_offset: slice.base_offset,
        last_offset: slice.last_offset,
        record_count: slice.record_count,
        position: slice.position,
        length: slice.length,
        crc32c: slice.crc32c,
        append_time_ms: slice.append_time_ms,
        min_timestamp_ms: slice.min_timestamp_ms,
        max_timestamp_ms: slice.max_timestamp_ms,
        flags: slice.flags.bits().into(),
        producers: slice.producers.iter().map(|state| producer_batch(slice, state)).collect(),
    }
}

fn producer_batch(slice: &SliceMeta, state: &ProducerState) -> ProducerBatch {
    let records = state.last_offset.saturating_sub(state.base_offset).saturating_add(1);
    ProducerBatch {
        producer_id: state.producer_id.unsigned_abs(),
        producer_epoch: state.producer_epoch.unsigned_abs().into(),
        base_sequence: state.base_sequence.unsigned_abs(),
        records: u32::try_from(records).unwrap_or(u32::MAX),
        offset_delta: state.base_offset.saturating_sub(slice.base_offset),
    }
}
