//! What a poll hands out.

use std::collections::VecDeque;
use std::iter::Take;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use streamhouse_segment::batch::{self, Headers};

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
}

/// Some records of one batch, all of them found well-formed when it was decoded.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) records: Take<batch::Records>,
}

impl Records {
    pub(super) fn new() -> Self {
        Self { parts: VecDeque::new(), len: 0, consumed: Arc::default() }
    }

    pub(super) fn push(&mut self, part: Part, len: usize) {
        self.len += len;
        self.parts.push_back(part);
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
        IntoIter { parts: self.parts, left: self.len, consumed: self.consumed }
    }
}

/// See [`Records`]. When it has returned `None`, the records count as taken by the application.
#[derive(Debug)]
pub struct IntoIter {
    parts: VecDeque<Part>,
    left: usize,
    consumed: Arc<AtomicBool>,
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
            let Some(record) = part.records.next() else {
                self.parts.pop_front();
                continue;
            };
            let record = record.expect("every record was read once when its batch was decoded");
            self.left -= 1;
            return Some(Record {
                topic: part.topic.clone(),
                partition: part.partition,
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
