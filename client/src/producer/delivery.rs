//! What became of a record.
//!
//! Nothing is allocated per record: a [`Delivery`] is an index into its batch, whose one [`Completion`] wakes all who
//! wait.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::error::ProduceError;

/// Where a record is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The record's offset in the partition.
    pub offset: u64,
    /// The record's timestamp, milliseconds since 1970.
    pub timestamp: i64,
}

/// Resolves when the record is acknowledged (invariant ACK: it is then on disk in the object store and in the index)
/// or has failed for good. Dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "a record may fail; await its delivery, or `flush`"]
pub struct Delivery {
    batch: Arc<Completion>,
    index: u32,
    timestamp: i64,
    /// Where this delivery's waker is in the batch's list.
    slot: Option<usize>,
}

impl Delivery {
    pub(super) fn new(batch: Arc<Completion>, index: u32, timestamp: i64) -> Self {
        Self { batch, index, timestamp, slot: None }
    }

    /// The partition that the record goes to.
    pub fn partition(&self) -> u32 {
        self.batch.partition
    }

    /// Calls `callback` with the result, once it is known. Callbacks of a batch are called in the order of its records.
    ///
    /// It runs on the producer's own tasks (or at once, if the result is known): it must not block. One that panics is
    /// reported to the log and harms nothing else.
    pub fn on_result(self, callback: impl FnOnce(Result<Placed, ProduceError>) + Send + 'static) {
        let batch = Arc::clone(&self.batch);
        batch.call_back(Callback { delivery: self, call: Box::new(callback) });
    }

    /// The result, if it is known already.
    pub fn try_result(&self) -> Option<Result<Placed, ProduceError>> {
        let outcome = self.batch.outcome.get()?;
        Some(match outcome {
            Ok(base) => Ok(Placed {
                topic: self.batch.topic.clone(),
                partition: self.batch.partition,
                offset: base.saturating_add(u64::from(self.index)),
                timestamp: self.timestamp,
            }),
            Err(error) => Err(error.clone()),
        })
    }
}

impl Future for Delivery {
    type Output = Result<Placed, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_result() {
            return Poll::Ready(result);
        }
        let slot = self.batch.register(self.slot, context.waker());
        self.slot = Some(slot);
        // SUBTLE: the batch may have been completed between the look above and the registration, whose waker nobody
        // would then wake. Completion sets the outcome first and drains the wakers second, so one more look settles it.
        match self.try_result() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

/// A function that waits for a delivery.
struct Callback {
    delivery: Delivery,
    call: Box<dyn FnOnce(Result<Placed, ProduceError>) + Send>,
}

impl Callback {
    fn run(self) {
        let Some(result) = self.delivery.try_result() else { return };
        let Callback { delivery, call } = self;
        if catch_unwind(AssertUnwindSafe(|| call(result))).is_err() {
            let Completion { topic, partition, .. } = &*delivery.batch;
            tracing::error!(%topic, partition, "the callback of a delivery panicked");
        }
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not its batch, which it is a part of.
        f.debug_struct("Callback").field("index", &self.delivery.index).finish_non_exhaustive()
    }
}

/// One batch's outcome, shared by the deliveries of all its records.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    /// The base offset.
    outcome: OnceLock<Result<u64, ProduceError>>,
    /// At most one per record of the batch.
    wakers: Mutex<Vec<Waker>>,
    /// At most one per record of the batch. Emptied when the batch is complete, and with it what they hold of it.
    callbacks: Mutex<Vec<Callback>>,
}

impl Completion {
    pub(super) fn new(topic: Arc<str>, partition: u32) -> Arc<Self> {
        Arc::new(Self {
            topic,
            partition,
            outcome: OnceLock::new(),
            wakers: Mutex::new(Vec::new()),
            callbacks: Mutex::new(Vec::new()),
        })
    }

    /// The first outcome stands.
    pub(super) fn complete(&self, outcome: Result<u64, ProduceError>) {
        if self.outcome.set(outcome).is_ok() {
            let wakers = std::mem::take(&mut *self.wakers.lock());
            wakers.into_iter().for_each(Waker::wake);
            self.run_callbacks();
        }
    }

    fn call_back(&self, callback: Callback) {
        self.callbacks.lock().push(callback);
        // SUBTLE: as with wakers, completion sets the outcome first and takes the callbacks second; whoever of the two
        // comes later finds this one.
        if self.is_complete() {
            self.run_callbacks();
        }
    }

    fn run_callbacks(&self) {
        let mut callbacks = std::mem::take(&mut *self.callbacks.lock());
        callbacks.sort_by_key(|callback| callback.delivery.index);
        callbacks.into_iter().for_each(Callback::run);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Resolves when the batch is complete, whatever its outcome.
    pub(super) async fn wait(self: Arc<Self>) {
        let _ = Delivery::new(self, 0, 0).await;
    }

    fn register(&self, slot: Option<usize>, waker: &Waker) -> usize {
        let mut wakers = self.wakers.lock();
        if let Some(known) = slot.and_then(|slot| wakers.get_mut(slot)) {
            known.clone_from(waker);
            return slot.expect("a known waker has a slot");
        }
        wakers.push(waker.clone());
        wakers.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_completion_answers_every_record_of_its_batch() {
        let batch = Completion::new("orders".into(), 3);
        let deliveries: Vec<_> = (0..3)
            .map(|index| Delivery::new(batch.clone(), index, 100 + i64::from(index)))
            .collect();
        assert!(deliveries[0].try_result().is_none());
        let all = futures::future::join_all(deliveries);
        let completed = async { batch.complete(Ok(40)) };
        let (placed, ()) = futures::future::join(all, completed).await;
        let found: Vec<_> =
            placed.into_iter().map(|placed| placed.map(|p| (p.offset, p.timestamp))).collect();
        assert_eq!(found, [Ok((40, 100)), Ok((41, 101)), Ok((42, 102))]);
    }

    #[test]
    fn callbacks_run_in_the_order_of_records_and_a_panic_harms_none() {
        let batch = Completion::new("orders".into(), 3);
        let (results, called) = std::sync::mpsc::channel();
        for index in [2, 0, 1] {
            let results = results.clone();
            Delivery::new(batch.clone(), index, 0).on_result(move |result| {
                let offset = result.unwrap().offset;
                assert_ne!(offset, 41, "this one panics");
                results.send(offset).unwrap();
            });
        }
        assert!(called.try_recv().is_err(), "nothing is known yet");
        batch.complete(Ok(40));
        assert_eq!(called.try_iter().collect::<Vec<_>>(), [40, 42]);
        // One that comes late is called at once.
        Delivery::new(batch.clone(), 3, 0).on_result(move |result| {
            results.send(result.unwrap().offset).unwrap();
        });
        assert_eq!(called.try_recv(), Ok(43));
        // The batch holds nothing of itself any more.
        assert_eq!(Arc::strong_count(&batch), 1);
    }

    #[tokio::test]
    async fn the_first_outcome_stands() {
        let batch = Completion::new("orders".into(), 0);
        batch.complete(Err(ProduceError::Closed { may_have_taken_effect: true }));
        batch.complete(Ok(1));
        assert!(Delivery::new(batch, 0, 0).await.is_err());
    }
}
