//! Decoded batches that wait for a poll, in the order in which they are handed out.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bookkeeping::Bookkeeping;
use super::decode::ReadyBatch;
use super::error::ConsumeError;
use super::records::{Part, Records};
use super::table::Table;
use super::targets::Targets;
use crate::types::TopicPartition;

/// What the fetcher has for a partition.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) slot: usize,
    /// The target it was read for; one that was replaced meanwhile is dropped.
    pub(super) version: u64,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Batch(ReadyBatch),
    /// The reset policy goes on at that offset.
    Reset(u64),
    /// The partition has stopped.
    Failed(ConsumeError),
}

/// Between fetcher and poll. BOUND: what is in here counts against the fetcher's memory until poll has handed it out, and
/// then until the next poll.
#[derive(Debug, Default)]
pub(super) struct Ready {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Chunk>,
    /// What keeps the consumer as a whole from learning of records.
    trouble: Option<ConsumeError>,
    ended: bool,
}

/// Tells poll, when it is dropped, that the fetcher is gone.
#[derive(Debug)]
pub(super) struct EndGuard(Arc<Ready>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.arrived.notify_one();
    }
}

impl Ready {
    pub(super) fn push(&self, chunk: Chunk) {
        self.state.lock().chunks.push_back(chunk);
        self.arrived.notify_one();
    }

    /// Whoever holds the guard fills this.
    pub(super) fn end_guard(self: &Arc<Self>) -> EndGuard {
        EndGuard(self.clone())
    }

    /// Tells the application of a failure that concerns no single partition. What is tried again goes on.
    pub(super) fn tell(&self, error: ConsumeError) {
        self.state.lock().trouble = Some(error);
        self.arrived.notify_one();
    }

    /// What was to be told is over.
    pub(super) fn calm(&self) {
        self.state.lock().trouble = None;
    }

    /// What is to be told when there are no records, each failure once.
    pub(super) fn trouble(&self) -> Option<ConsumeError> {
        let mut state = self.state.lock();
        let ended = state.ended.then_some(ConsumeError::Ended);
        state.trouble.take().or(ended)
    }

    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Moves at most `limit` records out. An error is returned when it comes first, with its slot.
    pub(super) fn gather(
        &self,
        limit: usize,
        table: &Table,
        targets: &Arc<Targets>,
        books: &mut Bookkeeping,
    ) -> Result<Records, Box<(usize, ConsumeError)>> {
        let mut records = Records::new(targets.clone());
        let mut state = self.state.lock();
        while records.len() < limit {
            let Some(mut chunk) = state.chunks.pop_front() else { break };
            if targets.version(chunk.slot) != chunk.version {
                continue;
            }
            match &mut chunk.body {
                Body::Reset(offset) => books.seek(chunk.slot, *offset),
                Body::Failed(error) if records.is_empty() => {
                    return Err(Box::new((chunk.slot, error.clone())));
                }
                Body::Failed(_) => {
                    state.chunks.push_front(chunk);
                    break;
                }
                Body::Batch(batch) => {
                    let at = table.at(chunk.slot);
                    let (part, len, next) = batch.hand_out(limit - records.len(), at);
                    if len > 0 {
                        records.push(part, len, batch.charge.clone());
                    }
                    books.advance(chunk.slot, next);
                    if batch.count > 0 {
                        state.chunks.push_front(chunk);
                        break;
                    }
                }
            }
        }
        Ok(records)
    }
}

impl ReadyBatch {
    /// At most `limit` records, their number, and the offset after them.
    fn hand_out(&mut self, limit: usize, at: &TopicPartition) -> (Part, usize, u64) {
        let len = self.count.min(limit);
        let part = Part {
            topic: at.topic.clone(),
            partition: at.partition,
            records: self.records.clone().take(len),
        };
        self.count -= len;
        if self.count == 0 {
            return (part, len, self.next_offset);
        }
        let last =
            self.records.nth(len - 1).expect("the batch has more records than were asked for");
        let last = last.expect("every record was read once when its batch was decoded");
        (part, len, last.offset.unsigned_abs() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_a_fetcher_that_is_gone_for_ever() {
        let ready = Arc::new(Ready::default());
        let guard = ready.end_guard();
        assert!(ready.trouble().is_none());
        ready.tell(ConsumeError::NoGroup);
        assert!(matches!(ready.trouble(), Some(ConsumeError::NoGroup)));
        assert!(ready.trouble().is_none());
        drop(guard);
        for _ in 0..2 {
            assert!(matches!(ready.trouble(), Some(ConsumeError::Ended)));
        }
    }
}
