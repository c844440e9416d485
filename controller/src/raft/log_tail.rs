//! The end of the log in memory: entries that are not durable yet, so that an
//! append can be read the moment it returns, and a few MiB behind them, so
//! that replication seldom reads the disk.

use super::entry;
use super::log_sizes::LogSizes;
use super::types::{Entry, LogId, Vote};
use std::collections::VecDeque;

/// BOUND on durable entries kept; entries not yet durable are bounded by the
/// writer's queue.
const KEEP_BYTES: usize = 8 << 20;

/// What the log is, as its owner (the Raft core) sees it: appended entries
/// count at once, durable or not.
#[derive(Debug, Default)]
pub(crate) struct LogTail {
    /// Last purged entry.
    pub(crate) purged: Option<LogId>,
    /// Index of the first entry, if there is one.
    pub(crate) first: Option<u64>,
    /// The last entry, or the last purged one.
    pub(crate) last: Option<LogId>,
    /// The last entry that is on the disk, or the last purged one.
    pub(crate) durable: Option<LogId>,
    /// The last durable vote.
    pub(crate) vote: Option<Vote>,
    /// The last entry known to be committed; written with the next batch.
    pub(crate) committed: Option<LogId>,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Of the whole log, not only of what is here.
    pub(crate) sizes: LogSizes,
}

impl LogTail {
    /// What was found on disk.
    pub(crate) fn new(purged: Option<LogId>, first: Option<u64>, last: Option<LogId>) -> Self {
        let last = last.or(purged);
        Self { purged, first, last, durable: last, ..Self::default() }
    }

    /// Adds entries to the end. They must continue the log without a gap;
    /// `Err` says what they would have followed.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let index = entry.log_id.index;
            if let Some(last) = self.last
                && index != last.index + 1
            {
                return Err(format!("entry {index} appended to a log that ends at {}", last.index));
            }
            self.first.get_or_insert(index);
            self.last = Some(entry.log_id);
            self.bytes += entry::size(entry);
            self.sizes.push(index, entry::size(entry) as u64);
            self.entries.push_back(entry.clone());
        }
        Ok(())
    }

    /// Forgets everything after `after`; `last` is the log id there.
    pub(crate) fn truncate(&mut self, after: Option<LogId>) {
        self.sizes.truncate(after.map_or(0, |after| after.index + 1));
        let keep = |id: LogId| after.is_some_and(|after| id.index <= after.index);
        while let Some(entry) = self.entries.back()
            && !keep(entry.log_id)
        {
            self.bytes -= entry::size(entry);
            self.entries.pop_back();
        }
        if self.last.is_some_and(|last| !keep(last)) {
            self.last = after.max(self.purged);
        }
        self.durable = self.durable.min(self.last);
        if self.first.is_some_and(|first| self.last.is_none_or(|last| last.index < first)) {
            self.first = None;
        }
    }

    /// Forgets everything up to and including `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        self.sizes.purge(upto.index);
        while let Some(entry) = self.entries.front()
            && entry.log_id.index <= upto.index
        {
            self.bytes -= entry::size(entry);
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        self.durable = self.durable.max(Some(upto));
        match self.last {
            Some(last) if last.index > upto.index => {
                self.first = self.first.map(|first| first.max(upto.index + 1));
            }
            _ => {
                self.last = Some(upto);
                self.first = None;
            }
        }
    }

    /// Entries up to `durable` are on the disk, and may leave memory.
    pub(crate) fn flushed(&mut self, durable: LogId) {
        // One that was cut off meanwhile is not the log's any more.
        if self.last.is_some_and(|last| durable <= last) {
            self.durable = self.durable.max(Some(durable));
        }
        let durable = durable.index;
        while self.bytes > KEEP_BYTES
            && let Some(entry) = self.entries.front()
            && entry.log_id.index <= durable
        {
            self.bytes -= entry::size(entry);
            self.entries.pop_front();
        }
    }

    /// The part of `[from, to)` that the log has, and of that the part that
    /// is in memory: the rest, before `tail_from`, is on disk.
    pub(crate) fn read(&self, from: u64, to: u64) -> TailRead {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return TailRead { from, to: from, tail_from: from, tail: Vec::new() };
        };
        let from = from.max(first);
        let to = to.min(last.index + 1).max(from);
        let tail_first = self.entries.front().map_or(u64::MAX, |e| e.log_id.index);
        let tail_from = from.max(tail_first).min(to);
        let tail = match usize::try_from(tail_from - tail_first.min(tail_from)) {
            Ok(skip) if tail_from < to => {
                let count = (to - tail_from) as usize;
                self.entries.iter().skip(skip).take(count).cloned().collect()
            }
            _ => Vec::new(),
        };
        TailRead { from, to, tail_from, tail }
    }
}

/// See [`LogTail::read`].
#[derive(Debug, PartialEq)]
pub(crate) struct TailRead {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) tail_from: u64,
    pub(crate) tail: Vec<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{EncodedCommand, Payload};

    fn entry(index: u64, bytes: usize) -> Entry {
        let payload = Payload::Normal(EncodedCommand(vec![0; bytes].into()));
        Entry { log_id: LogId::new_term_index(1, index), payload }
    }

    #[test]
    fn only_durable_entries_leave_memory() {
        let mut tail = LogTail::default();
        let entries: Vec<Entry> = (0..20).map(|i| entry(i, 1 << 20)).collect();
        tail.append(&entries).unwrap();
        tail.flushed(LogId::new_term_index(1, 4));
        let read = tail.read(0, 100);
        assert_eq!((read.from, read.tail_from, read.to), (0, 5, 20));
        assert_eq!(read.tail, entries[5..]);
        // The most recent stay even when durable.
        tail.flushed(LogId::new_term_index(1, 19));
        assert_eq!(tail.read(19, 20).tail, entries[19..]);
    }

    #[test]
    fn a_gap_is_refused() {
        let mut tail = LogTail::default();
        tail.append(&[entry(0, 1)]).unwrap();
        assert!(tail.append(&[entry(2, 1)]).is_err());
    }

    #[test]
    fn truncation_and_purge_move_the_ends() {
        let mut tail = LogTail::default();
        let entries: Vec<Entry> = (0..10).map(|i| entry(i, 1)).collect();
        tail.append(&entries).unwrap();
        tail.truncate(Some(LogId::new_term_index(1, 6)));
        tail.purge(LogId::new_term_index(1, 2));
        assert_eq!(tail.read(0, 100).tail, entries[3..7]);
        tail.purge(LogId::new_term_index(2, 9));
        assert_eq!(tail.last, Some(LogId::new_term_index(2, 9)));
        assert!(tail.read(0, 100).tail.is_empty());
        tail.append(&[entry(10, 1)]).unwrap();
        assert_eq!(tail.first, Some(10));
    }
}
