//! A batch on its way through the agent, and the one answer that its producer gets.

use crate::fate::{Fate, Written};
use crate::partition::PartitionId;
use crate::run::Run;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo, ProduceResult};
use streamhouse_segment::BatchHeader;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Span;

/// Where a stream's answers go. Unbounded, but never longer than the stream's unanswered batches, which are (BOUND:
/// [`crate::service`] takes a place for each before it admits it, and gives it back as the answer leaves).
pub(crate) type Results = mpsc::UnboundedSender<ProduceResult>;

/// A share of the buffer budget: one batch's own, or its message's, which is given back with the last of its batches.
pub(crate) type Room = Arc<OwnedSemaphorePermit>;

/// The right to answer one batch, exactly once. Dropped unanswered it says that the outcome is unknown: nothing in
/// here may leave a producer without an answer.
#[derive(Debug)]
pub(crate) struct Ticket {
    results: Option<Results>,
    correlation: u64,
    /// What the batch's refusal breaks, and its session's end before its answer. None for a batch that is wrong in itself:
    /// those behind it go on.
    run: Option<Run>,
    /// Who else waits for what becomes of the batch, if its producer is idempotent.
    fate: Option<Fate>,
    /// Follows the batch from its stream to its answer, where somebody looks.
    span: Span,
    /// The batch's share of the buffer budget, given back with the answer.
    room: Option<Room>,
}

impl Ticket {
    pub(crate) fn new(results: Results, correlation: u64, room: Option<Room>) -> Self {
        let span = Span::none();
        Self { results: Some(results), correlation, run: None, fate: None, span, room }
    }

    pub(crate) fn followed_by(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    pub(crate) fn in_run(mut self, run: Run) -> Self {
        self.run = Some(run);
        self
    }

    pub(crate) fn with_fate(mut self, fate: Fate) -> Self {
        self.fate = Some(fate);
        self
    }

    /// The batch itself is not kept: only its answer is awaited.
    pub(crate) fn needs_no_room(&mut self) {
        self.room = None;
    }

    /// A batch ahead of this one was refused, so this one must be, too.
    pub(crate) fn is_behind_a_refusal(&self) -> bool {
        self.run.as_ref().is_some_and(Run::is_broken)
    }

    /// The batch's fate stays open, and nobody keeps those behind it from being written ahead of it: they are refused.
    pub(crate) fn break_run(&self) {
        if let Some(run) = &self.run {
            run.end();
        }
    }

    /// ACK: called only with the answer to the commit in hand.
    pub(crate) fn acknowledge(mut self, base_offset: u64, applied: u64) {
        if let Some(fate) = self.fate.take() {
            fate.written(Written { base_offset, applied });
        }
        let correlation = self.correlation;
        self.span.in_scope(|| tracing::trace!(base_offset, applied, "batch acknowledged"));
        self.send(ProduceResult { correlation, base_offset, applied, ..Default::default() });
    }

    /// The batch was committed before, at that offset if it is still known (DEDUP).
    pub(crate) fn had(mut self, base_offset: Option<u64>, applied: u64) {
        if let Some(fate) = self.fate.take() {
            fate.had(base_offset, applied);
        }
        self.span.in_scope(|| tracing::trace!(base_offset, applied, "batch had before"));
        self.send(ProduceResult {
            correlation: self.correlation,
            error: None,
            base_offset: base_offset.unwrap_or_default(),
            applied,
            offset_unknown: base_offset.is_none(),
        });
    }

    pub(crate) fn refuse(mut self, error: ErrorInfo) {
        self.fail(error);
    }

    fn fail(&mut self, error: ErrorInfo) {
        self.break_run();
        if let Some(fate) = self.fate.take() {
            fate.failed(&error);
        }
        let correlation = self.correlation;
        self.span.in_scope(|| tracing::trace!(error = error.message, "batch refused"));
        self.send(ProduceResult { correlation, error: Some(error), ..Default::default() });
    }

    fn send(&mut self, result: ProduceResult) {
        if let Some(results) = self.results.take() {
            // A producer that hung up does not want its answer.
            let _ = results.send(result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.results.is_some() {
            let message = "the agent stopped before it learnt what became of the batch";
            self.fail(ErrorInfo::new(ErrorCode::OutcomeUnknown, message));
        }
    }
}

/// Which of an idempotent producer's batches a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer: u64,
    pub(crate) epoch: u16,
    /// Of its first record.
    pub(crate) base: u32,
}

impl Sequence {
    /// As the batch's header has it.
    pub(crate) fn of(header: &BatchHeader) -> Option<Self> {
        Some(Self {
            producer: u64::try_from(header.producer_id).ok()?,
            epoch: u16::try_from(header.producer_epoch).ok()?,
            base: u32::try_from(header.base_sequence).ok()?,
        })
    }
}

/// An admitted batch.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Valid, as the producer sent it; its offset is written into a copy of its header when its object is built.
    pub(crate) batch: Bytes,
    pub(crate) records: u32,
    /// Which of its producer's batches it is; `None` if nobody in particular wrote it.
    pub(crate) sequence: Option<Sequence>,
    pub(crate) arrived: Instant,
    pub(crate) ticket: Ticket,
}

/// A batch and where it wants to go.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) partition: PartitionId,
    pub(crate) pending: Pending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_ticket_answers_that_the_outcome_is_unknown() {
        let (results, mut answers) = mpsc::unbounded_channel();
        drop(Ticket::new(results, 7, None));
        let answer = answers.try_recv().unwrap();
        assert_eq!(answer.correlation, 7);
        assert_eq!(answer.error.unwrap().code(), ErrorCode::OutcomeUnknown);
        assert!(answers.try_recv().is_err(), "only once");
    }
}
