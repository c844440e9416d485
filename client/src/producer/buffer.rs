//! One partition's records that wait to be sent: an open batch that records are encoded into, and sealed ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use streamhouse_segment::batch::{BatchBuilder, BatchError, Compression, Limits};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::delivery::{Completion, Delivery};
use super::error::ProduceError;
use super::record::Record;
use super::room::{BATCH_OVERHEAD, BatchRoom};
use crate::clock;

/// When a batch is full, and what it is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchRules {
    pub(super) records: u32,
    pub(super) bytes: usize,
    pub(super) linger: Duration,
    pub(super) compression: Compression,
    pub(super) limits: Limits,
}

/// A batch of records that are encoded and not yet compressed.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) builder: BatchBuilder,
    pub(super) completion: Arc<Completion>,
    /// What it and its records took out of the producer's room.
    pub(super) weight: usize,
    pub(super) opened: Instant,
}

/// What [`Buffer::take`] found.
#[derive(Debug)]
pub(super) enum Taken {
    /// A batch to send.
    Batch(Pending),
    /// Nothing before then.
    Lingers(Instant),
    /// Nothing at all.
    Empty,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Buffer {
    topic: Arc<str>,
    partition: u32,
    rules: BatchRules,
    state: Mutex<State>,
    /// Wakes the partition's task: a batch was opened or sealed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Pending>,
    sealed: VecDeque<Pending>,
    /// Every batch whose outcome is open, for `flush`.
    unfinished: VecDeque<Arc<Completion>>,
    closed: bool,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// The topic's tasks have ended: look the topic up anew.
    Closed,
    /// The record would open a batch, and there is no room for its overhead.
    NoRoom,
    Refused(ProduceError),
}

impl Buffer {
    pub(super) fn new(topic: Arc<str>, partition: u32, rules: BatchRules) -> Self {
        Self { topic, partition, rules, state: Mutex::default(), changed: Notify::new() }
    }

    /// Encodes the record, for which `weight` was taken out of the room, into the open batch. The flag says whether a
    /// batch was sealed.
    pub(super) fn append(
        &self,
        record: &Record<'_>,
        timestamp: i64,
        weight: usize,
        mut room: BatchRoom<'_>,
    ) -> Result<(Delivery, bool), AppendError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(AppendError::Closed);
        }
        let mut sealed = false;
        let mut opened = false;
        let index = loop {
            if state.open.is_none() {
                if !room.claim() {
                    if sealed {
                        self.changed.notify_one();
                    }
                    return Err(AppendError::NoRoom);
                }
                opened = true;
            }
            let open = state.open.get_or_insert_with(|| self.open());
            let key = record.key.as_ref().map(AsRef::as_ref);
            let value = record.value.as_ref().map(AsRef::as_ref);
            match open.builder.push(timestamp, key, value, &record.headers) {
                Ok(index) => break index,
                Err(BatchError::BatchFull { .. }) if !open.builder.is_empty() => {
                    state.seal();
                    sealed = true;
                }
                Err(error) => {
                    if open.builder.is_empty() {
                        state.open = None;
                        room.give_back();
                    }
                    return Err(AppendError::Refused(self.refusal(&error)));
                }
            }
        };
        let open = state.open.as_mut().expect("a record was just pushed into the open batch");
        open.weight += weight;
        let delivery = Delivery::new(open.completion.clone(), index, timestamp);
        let full = index + 1 >= self.rules.records
            || open.builder.uncompressed_bytes() >= self.rules.bytes;
        let completion = opened.then(|| open.completion.clone());
        state.unfinished.extend(completion);
        if full {
            state.seal();
            sealed = true;
        }
        drop(state);
        if opened || sealed {
            self.changed.notify_one();
        }
        Ok((delivery, sealed))
    }

    fn open(&self) -> Pending {
        const FIRST_ALLOCATION: usize = 1 << 10;
        let first = self.rules.bytes.min(FIRST_ALLOCATION);
        Pending {
            builder: BatchBuilder::with_capacity(self.rules.compression, self.rules.limits, first),
            completion: Completion::new(self.topic.clone(), self.partition),
            weight: BATCH_OVERHEAD,
            opened: clock::now(),
        }
    }

    fn refusal(&self, error: &BatchError) -> ProduceError {
        let (size, limit) = match *error {
            BatchError::RecordTooLarge { size, limit } | BatchError::BatchFull { size, limit } => {
                (size, limit)
            }
            _ => (0, 0),
        };
        ProduceError::RecordTooLarge { topic: self.topic.clone(), size, limit }
    }

    /// The next batch to send: a sealed one, or the open one when its linger is over.
    pub(super) fn take(&self, now: Instant) -> Taken {
        let mut state = self.state.lock();
        if let Some(batch) = state.sealed.pop_front() {
            return Taken::Batch(batch);
        }
        let Some(open) = &state.open else { return Taken::Empty };
        let until = clock::later(open.opened, self.rules.linger);
        if now < until {
            return Taken::Lingers(until);
        }
        Taken::Batch(state.open.take().expect("the batch was open a moment ago"))
    }

    /// The batches opened before `deadline`, which have waited too long.
    pub(super) fn take_expired(&self, deadline: Instant) -> Vec<Pending> {
        let mut expired = Vec::new();
        let mut state = self.state.lock();
        while state.sealed.front().is_some_and(|batch| batch.opened <= deadline) {
            expired.extend(state.sealed.pop_front());
        }
        if state.sealed.is_empty() && state.open.as_ref().is_some_and(|b| b.opened <= deadline) {
            expired.extend(state.open.take());
        }
        expired
    }

    /// When the oldest batch was opened.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.sealed.front().or(state.open.as_ref()).map(|batch| batch.opened)
    }

    /// Waits until a batch was opened or sealed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Seals the open batch, so that it is sent without waiting.
    pub(super) fn seal(&self) {
        if self.state.lock().seal() {
            self.changed.notify_one();
        }
    }

    /// Every batch whose outcome is open.
    pub(super) fn unfinished(&self) -> Vec<Arc<Completion>> {
        self.state.lock().unfinished.iter().cloned().collect()
    }

    /// Forgets the batches that are complete, up to the first that is not: batches end about in their order.
    pub(super) fn tidy(&self) {
        let mut state = self.state.lock();
        while state.unfinished.front().is_some_and(|batch| batch.is_complete()) {
            state.unfinished.pop_front();
        }
    }

    /// It takes no more records, and every batch it had is complete.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.closed && state.unfinished.iter().all(|batch| batch.is_complete())
    }

    /// Takes no more records, and gives up what it has.
    pub(super) fn close(&self) -> Vec<Pending> {
        let mut state = self.state.lock();
        state.closed = true;
        state.seal();
        state.sealed.drain(..).collect()
    }
}

impl State {
    fn seal(&mut self) -> bool {
        let open = self.open.take();
        let some = open.is_some();
        self.sealed.extend(open);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::room::Room;

    fn buffer(records: u32) -> Buffer {
        let rules = BatchRules {
            records,
            bytes: 1 << 20,
            linger: Duration::from_secs(1),
            compression: Compression::None,
            limits: Limits { max_record_bytes: 100, ..Limits::default() },
        };
        Buffer::new("t".into(), 0, rules)
    }

    fn append(buffer: &Buffer, value: &[u8]) -> Result<(Delivery, bool), AppendError> {
        let room = Room::new(1 << 20);
        buffer.append(&Record::to("t").value(value), 1, value.len(), BatchRoom::new(&room, false))
    }

    #[test]
    fn a_batch_is_sealed_by_its_record_count() {
        let buffer = buffer(2);
        assert!(!append(&buffer, b"a").unwrap().1);
        assert!(append(&buffer, b"b").unwrap().1);
        let Taken::Batch(batch) = buffer.take(clock::now()) else { panic!("nothing sealed") };
        assert_eq!((batch.builder.record_count(), batch.weight), (2, 2 + BATCH_OVERHEAD));
        assert!(matches!(buffer.take(clock::now()), Taken::Empty));
    }

    #[test]
    fn an_open_batch_lingers_and_flush_seals_it() {
        let buffer = buffer(10);
        drop(append(&buffer, b"a").unwrap());
        let now = clock::now();
        let Taken::Lingers(until) = buffer.take(now) else { panic!("it should linger") };
        assert!(until > now);
        buffer.seal();
        assert!(matches!(buffer.take(now), Taken::Batch(_)));
    }

    #[test]
    fn a_record_over_the_limit_harms_no_other() {
        let buffer = buffer(10);
        drop(append(&buffer, b"a").unwrap());
        let Err(AppendError::Refused(error)) = append(&buffer, &[0; 200]) else {
            panic!("it should be refused")
        };
        assert!(error.to_string().contains("over the limit of 100"), "{error}");
        let (delivery, _) = append(&buffer, b"b").unwrap();
        assert!(delivery.try_result().is_none());
        assert_eq!(buffer.unfinished().len(), 1);
    }

    #[test]
    fn a_batch_is_opened_only_if_there_is_room_for_it() {
        let buffer = buffer(10);
        let room = Room::new(BATCH_OVERHEAD);
        let append = |bytes: &[u8], paid| {
            buffer.append(&Record::to("t").value(bytes), 1, 0, BatchRoom::new(&room, paid))
        };
        assert!(matches!(append(&[0; 200], false), Err(AppendError::Refused(_))));
        drop(append(b"a", false).unwrap());
        drop(append(b"b", false).unwrap());
        buffer.seal();
        assert!(matches!(append(b"c", false), Err(AppendError::NoRoom)));
        // Whoever waited for room brings it along; what is not needed goes back.
        drop(append(b"c", true).unwrap());
        drop(append(b"d", true).unwrap());
        buffer.seal();
        drop(append(b"e", false).unwrap());
    }

    #[test]
    fn complete_batches_are_forgotten_from_the_front() {
        let buffer = buffer(1);
        (0..3).for_each(|_| drop(append(&buffer, b"a").unwrap()));
        let batches = buffer.unfinished();
        batches[1].complete(Ok(1));
        buffer.tidy();
        assert_eq!(buffer.unfinished().len(), 3);
        batches[0].complete(Ok(0));
        buffer.tidy();
        assert_eq!(buffer.unfinished().len(), 1);
    }

    #[test]
    fn a_closed_buffer_gives_everything_up() {
        let buffer = buffer(1);
        drop(append(&buffer, b"a").unwrap());
        drop(append(&buffer, b"b").unwrap());
        assert_eq!(buffer.close().len(), 2);
        assert!(matches!(append(&buffer, b"c"), Err(AppendError::Closed)));
    }
}
