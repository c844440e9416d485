//! Decoded batches that wait for a poll, in the order in which they are handed out.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use streamhouse_segment::batch;
use tokio::sync::Notify;

use super::bookkeeping::Bookkeeping;
use super::decode::ReadyBatch;
use super::error::ConsumeError;
use super::records::{IntoIter, Part, Records};
use super::table::Table;
use super::targets::Targets;

/// What the fetcher, or a search by time, has for a partition.
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
    /// A search by time says where to begin.
    Begin(u64),
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

    /// Moves at most `limit` records out, whole batches where it can. An error is returned when it comes first, with its slot.
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
                Body::Begin(offset) => {
                    books.seek(chunk.slot, *offset);
                    targets.set(chunk.slot, Some(*offset));
                }
                Body::Failed(error) if records.is_empty() => {
                    return Err(Box::new((chunk.slot, error.clone())));
                }
                Body::Failed(_) => {
                    state.chunks.push_front(chunk);
                    break;
                }
                // A batch is divided only if it alone is more than a poll may hand out: each part is walked over anew.
                Body::Batch(batch)
                    if !records.is_empty() && batch.count > limit - records.len() =>
                {
                    state.chunks.push_front(chunk);
                    break;
                }
                Body::Batch(batch) => {
                    let (slot, version) = (chunk.slot, chunk.version);
                    let (rows, left, next_offset) = batch.hand_out(limit - records.len());
                    if left > 0 {
                        let at = table.at(slot).clone();
                        let part = Part { at, slot, version, records: rows, left, next_offset };
                        records.push(part, batch.charge.clone());
                    }
                    books.advance(slot, next_offset);
                    if batch.count > 0 {
                        state.chunks.push_front(chunk);
                        break;
                    }
                }
            }
        }
        Ok(records)
    }

    /// Takes back what was handed out and not taken: it comes first again, unless its partition was moved or is read no
    /// more.
    pub(super) fn take_back(&self, rest: IntoIter, targets: &Targets, books: &mut Bookkeeping) {
        let mut state = self.state.lock();
        for (part, charge) in rest.rest().rev() {
            let Part { slot, version, records, left: count, next_offset, .. } = part;
            if targets.version(slot) == version {
                let batch = ReadyBatch { records, count, next_offset, charge };
                books.advance(slot, batch.first());
                state.chunks.push_front(Chunk { slot, version, body: Body::Batch(batch) });
            }
        }
    }
}

impl ReadyBatch {
    /// At most `limit` records, their number, and the offset after them.
    fn hand_out(&mut self, limit: usize) -> (batch::Records, usize, u64) {
        let (records, len) = (self.records.clone(), self.count.min(limit));
        self.count -= len;
        if self.count == 0 {
            return (records, len, self.next_offset);
        }
        let last =
            self.records.nth(len - 1).expect("the batch has more records than were asked for");
        let last = last.expect("every record was read once when its batch was decoded");
        (records, len, last.offset.unsigned_abs() + 1)
    }

    /// The offset of the first record that is left.
    fn first(&self) -> u64 {
        let first = self.records.clone().next().expect("no batch without records is handed out");
        let first = first.expect("every record was read once when its batch was decoded");
        first.offset.unsigned_abs()
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
