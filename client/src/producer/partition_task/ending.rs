//! How a partition's batches leave it: written, failed, too late, or left over at the end.

use super::{Batch, PartitionTask};
use crate::clock;
use crate::producer::buffer::Pending;
use crate::producer::delivery::Completion;
use crate::producer::error::ProduceError;
use tokio::time::Instant;

impl PartitionTask {
    /// Fails what has waited too long and is not in flight.
    pub(super) fn expire(&mut self) {
        let timeout = self.shared.config.delivery_timeout;
        let Some(deadline) = clock::now().checked_sub(timeout) else { return };
        self.expire_window(deadline);
        for pending in self.buffer.take_expired(deadline) {
            let error = ProduceError::TimedOut {
                topic: self.topic.route.name.clone(),
                partition: self.partition,
                after: timeout,
                attempts: 0,
                last: "earlier batches of the partition were not acknowledged".into(),
                may_have_taken_effect: false,
            };
            self.give_up_pending(pending, error);
        }
    }

    fn expire_window(&mut self, deadline: Instant) {
        if self.must_settle(deadline) {
            return;
        }
        let late = self.window.take_idle(|batch| batch.opened <= deadline);
        let first = late.first().map(|batch| batch.position);
        for batch in late {
            let error = self.timed_out(&batch, batch.ambiguous);
            self.give_up(batch, error);
        }
        if let Some(first) = first {
            self.close_gap(first);
        }
    }

    pub(super) fn timed_out(&self, batch: &Batch, may_have_taken_effect: bool) -> ProduceError {
        ProduceError::TimedOut {
            topic: self.topic.route.name.clone(),
            partition: self.partition,
            after: self.shared.config.delivery_timeout,
            attempts: batch.attempts,
            last: batch.last.clone(),
            may_have_taken_effect,
        }
    }

    pub(super) fn placed(&self, batch: Batch, base_offset: u64) {
        self.shared.counters.acknowledged(batch.records, batch.bytes.len(), batch.uncompressed);
        self.shared.counters.took(batch.opened);
        self.finish(&batch.completion, batch.weight, Ok(base_offset));
    }

    pub(super) fn give_up(&self, batch: Batch, error: ProduceError) {
        self.shared.counters.failed(batch.records, &error);
        self.finish(&batch.completion, batch.weight, Err(error));
    }

    fn give_up_pending(&self, pending: Pending, error: ProduceError) {
        self.shared.counters.failed(pending.builder.record_count(), &error);
        self.finish(&pending.completion, pending.weight, Err(error));
    }

    fn finish(&self, batch: &Completion, weight: usize, outcome: Result<u64, ProduceError>) {
        batch.complete(outcome);
        self.shared.room.give_back(weight);
        self.buffer.tidy();
    }

    pub(super) fn gone(&self) -> ProduceError {
        ProduceError::UnknownTopic { topic: self.topic.route.name.clone() }
    }

    /// Fails all that is left, with `error` or because the producer is closed.
    pub(super) fn end(mut self, error: Option<ProduceError>) {
        self.shared.topics.forget(&self.topic);
        if matches!(error, Some(ProduceError::UnknownTopic { .. })) {
            self.topic.gone.cancel();
        }
        let closed = |sent| ProduceError::Closed { may_have_taken_effect: sent };
        for (batch, sent) in self.window.drain() {
            let maybe = batch.ambiguous || sent;
            let error = error.clone().unwrap_or_else(|| closed(maybe));
            self.give_up(batch, error);
        }
        for pending in self.buffer.close() {
            let error = error.clone().unwrap_or_else(|| closed(false));
            self.give_up_pending(pending, error);
        }
    }
}
