//! One object's way into the store: built once, then PUT under its one key until it is certain that it lies there.
//!
//! ONCE: every attempt is create-only, under the same key and with the same bytes. The store's own retries are off,
//! these are the only ones. What must hold beside that:
//!
//! * Nothing that the store says ends a session or fails a producer, but other bytes under our key: it is tried again
//!   until the put deadline, then given up by a command, and its batches go into another object.
//! * A store in trouble is not asked more than a healthy one: retries and hedges of all uploads draw from one budget
//!   ([`RetryBudget`]), and requests under way become fewer while it asks to slow down ([`gate`]).
//! * An answer that never comes costs seconds, not the request's timeout ([`patience`]).
//! * What is wrong is told once for each cause ([`trouble`]).

mod attempt;
mod gate;
mod hedge;
mod patience;
mod trouble;

pub(crate) use trouble::Cause;

use crate::backoff::{Backoff, RetryBudget};
use crate::clock;
use crate::engine::{Built, UploadOrder};
use crate::metrics::Probes;
use attempt::Attempt;
use gate::Gate;
use hedge::Hedging;
use parking_lot::Mutex;
use patience::Patience;
use std::sync::Arc;
use std::time::Duration;
use streamhouse_proto::v1::{ProducerBatch, SliceCommit, TopicPartition};
use streamhouse_segment::{EncodedObject, ObjectBuilder, ObjectError, ProducerState, SliceMeta};
use streamhouse_store::Store;
use trouble::Trouble;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Retries of all uploads in a second, and at once, beside one for every PUT that succeeds: enough for every upload
/// slot to find a store that has healed.
const RETRIES_PER_SECOND: u32 = 10;
const RETRIES_AT_ONCE: u32 = 20;
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

/// What all uploads of an agent share; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Uploader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    timeout: Duration,
    budget: Mutex<RetryBudget>,
    gate: Gate,
    hedging: Mutex<Hedging>,
    trouble: Trouble,
    probes: Probes,
}

impl Uploader {
    pub(crate) fn new(store: Store, timeout: Duration, most: usize, probes: Probes) -> Self {
        let inner = Inner {
            store,
            timeout,
            budget: Mutex::new(RetryBudget::new(RETRIES_PER_SECOND, RETRIES_AT_ONCE)),
            gate: Gate::new(most),
            hedging: Mutex::default(),
            trouble: Trouble::default(),
            probes,
        };
        Self { inner: Arc::new(inner) }
    }

    /// PUTs the object until it is stored, or the put deadline has passed.
    pub(crate) async fn put(&self, object: &EncodedObject) -> Uploaded {
        self.inner.hedging.lock().started();
        let put = tokio::time::timeout(self.inner.timeout, self.until_certain(object));
        let uploaded = put.await.unwrap_or(Uploaded::GivenUp);
        match &uploaded {
            Uploaded::Stored => self.inner.probes.put_bytes.increment(object.size),
            Uploaded::GivenUp => self.inner.probes.put("given_up"),
            Uploaded::Foreign(_) => {}
        }
        uploaded
    }

    async fn until_certain(&self, object: &EncodedObject) -> Uploaded {
        let key = object.id.key();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut patience = Patience::new(object.size, self.inner.hedging.lock().delay());
        loop {
            match self.attempt(&key, object, patience.next()).await {
                Attempt::Done(uploaded) => return uploaded,
                Attempt::Again => {}
            }
            self.inner.probes.put_retries.increment(1);
            let budgeted = self.inner.budget.lock().take(clock::now());
            tokio::time::sleep(backoff.next().max(budgeted)).await;
        }
    }

    /// Requests under way, and how many there may be.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        self.inner.gate.taken()
    }

    /// Whether the last PUT failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.inner.trouble.is_failing()
    }

    /// Why no batch can be stored just now, if none can.
    pub(crate) fn hindrance(&self) -> Option<String> {
        self.inner.trouble.hindrance(clock::now())
    }
}

/// Makes the batches an object: the only time that the agent copies any of them, and that only what is small.
pub(crate) fn build(order: &UploadOrder) -> Result<EncodedObject, ObjectError> {
    let batches = order.slices.iter().flat_map(|(_, batches)| batches);
    let copied: usize = batches.map(|batch| ObjectBuilder::copied_bytes(batch.len())).sum();
    let mut builder =
        ObjectBuilder::new(order.id, copied + ENVELOPE_BYTES + order.slices.len() * 160);
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
    Built { chunks: object.chunks.clone(), slices: object.slices.iter().map(commit_of).collect() }
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
