//! What a poll hands out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use streamhouse_segment::batch::{self, Headers};

use super::decode::Charge;
use super::targets::Targets;
use crate::types::TopicPartition;

/// A record. Key, value and headers are slices of the decompressed batch, which they keep in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The record's offset in the partition.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The value; without one, the record is a tombstone.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
}

/// The records of one poll: those of a partition in offset order, partitions one after the other in runs.
#[derive(Debug)]
pub struct Records {
    parts: VecDeque<Part>,
    len: usize,
    consumed: Arc<AtomicBool>,
    loan: Borrowed,
}

/// What the records of one poll hold of the consumer's memory, part by part. BOUND: it is given back part by part as they
/// are iterated over, and as a whole when they are dropped or the next poll begins, whatever the application keeps of
/// them: what it keeps longer is its own.
#[derive(Debug)]
pub(super) struct Loan {
    parts: Mutex<VecDeque<Arc<Charge>>>,
    /// Wakes the fetcher, which may wait for room.
    bell: Arc<Targets>,
}

impl Loan {
    /// Ends it.
    pub(super) fn end(&self) {
        let parts = std::mem::take(&mut *self.parts.lock());
        if !parts.is_empty() {
            drop(parts);
            self.bell.ring();
        }
    }

    fn end_first(&self) {
        drop(self.parts.lock().pop_front());
        self.bell.ring();
    }
}

/// The application's side of a loan.
#[derive(Debug)]
struct Borrowed(Arc<Loan>);

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Some records of one batch, all of them found well-formed when it was decoded.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) at: Arc<TopicPartition>,
    /// The partition's slot, and the target for which they were read.
    pub(super) slot: usize,
    pub(super) version: u64,
    pub(super) records: batch::Records,
    /// How many of them are to be handed out.
    pub(super) left: usize,
    /// The offset after these.
    pub(super) next_offset: u64,
}

impl Part {
    #[inline]
    fn next(&mut self) -> Option<batch::Record> {
        self.left = self.left.checked_sub(1)?;
        let record = self.records.next()?;
        Some(record.expect("every record was read once when its batch was decoded"))
    }
}

impl Records {
    pub(super) fn new(bell: Arc<Targets>) -> Self {
        let loan = Borrowed(Arc::new(Loan { parts: Mutex::default(), bell }));
        Self { parts: VecDeque::new(), len: 0, consumed: Arc::default(), loan }
    }

    pub(super) fn push(&mut self, part: Part, charge: Arc<Charge>) {
        self.len += part.left;
        self.parts.push_back(part);
        self.loan.0.parts.lock().push_back(charge);
    }

    pub(super) fn loan(&self) -> Arc<Loan> {
        self.loan.0.clone()
    }

    /// Turns true once the records were iterated to the end.
    pub(super) fn consumed(&self) -> Arc<AtomicBool> {
        self.consumed.clone()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the poll found nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl IntoIterator for Records {
    type Item = Record;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter { parts: self.parts, left: self.len, consumed: self.consumed, loan: self.loan }
    }
}

/// See [`Records`]. When it has returned `None`, the records count as taken by the application.
#[derive(Debug)]
pub struct IntoIter {
    parts: VecDeque<Part>,
    left: usize,
    consumed: Arc<AtomicBool>,
    loan: Borrowed,
}

impl IntoIter {
    /// What was not taken of it, with the memory that it is in.
    pub(super) fn rest(self) -> impl DoubleEndedIterator<Item = (Part, Arc<Charge>)> {
        let charges = std::mem::take(&mut *self.loan.0.parts.lock());
        self.parts.into_iter().zip(charges).filter(|(part, _)| part.left > 0)
    }
}

impl Iterator for IntoIter {
    type Item = Record;

    #[inline]
    fn next(&mut self) -> Option<Record> {
        loop {
            let Some(part) = self.parts.front_mut() else {
                self.consumed.store(true, Ordering::Release);
                return None;
            };
            let Some(record) = part.next() else {
                self.parts.pop_front();
                self.loan.0.end_first();
                continue;
            };
            self.left -= 1;
            return Some(Record {
                topic: part.at.topic.clone(),
                partition: part.at.partition,
                offset: record.offset.unsigned_abs(),
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            });
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for IntoIter {}
