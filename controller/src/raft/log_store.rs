//! openraft's log storage over RocksDB: reads come from memory and disk here,
//! writes go through [`LogWriter`].

use super::db::{Db, ReadError};
use super::entry;
use super::log_sizes::LogSizes;
use super::log_tail::LogTail;
use super::log_writer::{LogWriter, Request, stopped};
use super::marks::{self, Marks};
use super::meta;
use super::synced::{Synced, SyncedFile};
use super::types::{DiskId, Entry, LogId, TypeConfig, Vote};
use crate::state::controllers::Mark;
use bytes::Bytes;
use futures::Stream;
use metrics::Histogram;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::RwLock;
use rocksdb::ReadOptions;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, oneshot};

/// Bytes of entries after which one read for replication or apply ends: the
/// message it becomes stays well below the limit even if its last entry is of
/// the largest size.
const READ_BYTES: usize = 2 << 20;
/// The same, in entries.
const READ_ENTRIES: u64 = 256;

/// The log; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    db: Arc<Db>,
    tail: Arc<RwLock<LogTail>>,
    writer: Arc<LogWriter>,
    gathered: Arc<Mutex<Gathered>>,
}

/// What entries of the log say of the members' disks.
struct Gathered {
    marks: Marks,
    /// The first entry that was not looked at yet.
    next: u64,
}

/// A log that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogError {
    /// It is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// It could not be read, for now.
    #[error("{0}")]
    Unreadable(String),
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(what) => Self::Damaged(what),
            ReadError::Failed(what) => Self::Unreadable(what),
        }
    }
}

fn unreadable(what: &str, error: &io::Error) -> LogError {
    LogError::Unreadable(format!("{what}: {error}"))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl LogStore {
    /// Opens the log, reading all of it once: a gap or a damaged entry is an
    /// error here, not later.
    pub(crate) fn open(
        data: &Path,
        db: Arc<Db>,
        sync_seconds: Histogram,
    ) -> Result<Self, LogError> {
        let purged = meta::load_log_id(&db, meta::PURGED)?;
        let mut marks = Marks::new();
        let mut sizes = LogSizes::default();
        let (first, last) = check(&db, purged, |entry| {
            marks::gather(entry, &mut marks);
            sizes.push(entry.log_id.index, entry::size(entry) as u64);
        })?;
        let mut tail = LogTail::new(purged, first, last);
        tail.sizes = sizes;
        tail.vote = meta::load_vote(&db)?;
        // What was committed may have been written ahead of the entries: a
        // follower hears of both at once, and its batches are bounded.
        tail.committed = meta::load_log_id(&db, meta::COMMITTED)?.min(tail.last);
        let (file, synced) =
            SyncedFile::open(data).map_err(|e| unreadable("file of what was synced", &e))?;
        compare(synced.unwrap_or_default(), &tail).map_err(LogError::Damaged)?;
        let next = tail.last.map_or(0, |id| id.index + 1);
        let tail = Arc::new(RwLock::new(tail));
        let writer = LogWriter::start(db.clone(), tail.clone(), file, sync_seconds);
        let writer = Arc::new(writer.map_err(|e| unreadable("log writer", &e))?);
        let gathered = Arc::new(Mutex::new(Gathered { marks, next }));
        Ok(Self { db, tail, writer, gathered })
    }

    /// The latest mark of `disk` in entries that are not applied, up to
    /// `applied` at least; cut off since this was opened or not.
    pub(crate) async fn logged_mark(
        &self,
        disk: &DiskId,
        applied: u64,
    ) -> io::Result<Option<Mark>> {
        Ok(self.gather(applied + 1).await?.marks.get(disk).copied())
    }

    /// Looks at what came since it last did; entries before `from` are of no
    /// interest any more.
    async fn gather(&self, from: u64) -> io::Result<MutexGuard<'_, Gathered>> {
        let mut gathered = self.gathered.lock().await;
        gathered.next = gathered.next.max(from);
        loop {
            let entries = self.read(gathered.next, u64::MAX, READ_BYTES).await?;
            let Some(last) = entries.last() else { return Ok(gathered) };
            gathered.next = last.log_id.index + 1;
            for entry in &entries {
                marks::gather(entry, &mut gathered.marks);
            }
        }
    }

    /// The thread behind it.
    pub(crate) fn writer(&self) -> &Arc<LogWriter> {
        &self.writer
    }

    /// Neither a vote nor an entry was ever written.
    pub(crate) fn is_empty(&self) -> bool {
        let tail = self.tail.read();
        tail.vote.is_none() && tail.last.is_none()
    }

    /// The last entry that is on the disk.
    pub(crate) fn durable(&self) -> Option<LogId> {
        self.tail.read().durable
    }

    /// The term of the vote on the disk, 0 before the first.
    pub(crate) fn vote_term(&self) -> u64 {
        self.tail.read().vote.map_or(0, |vote| vote.leader_id.term)
    }

    /// Index of the last entry.
    pub(crate) fn last_index(&self) -> u64 {
        self.tail.read().last.map_or(0, |id| id.index)
    }

    /// Bytes of its entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.tail.read().sizes.total()
    }

    /// Bytes of the entries after `after`, up to and including `upto`.
    pub(crate) fn bytes_between(&self, after: u64, upto: u64) -> u64 {
        self.tail.read().sizes.between(after, upto)
    }

    /// The last entry that must go, so that those up to and including `upto`
    /// take no more than `keep` bytes.
    pub(crate) fn beyond(&self, upto: u64, keep: u64) -> Option<u64> {
        self.tail.read().sizes.beyond(upto, keep)
    }

    async fn complete(&self, request: Request, done: oneshot::Receiver<()>) -> io::Result<()> {
        self.writer.send(request).await?;
        done.await.map_err(|_| stopped())
    }

    /// Entries of `[from, to)` that the log has, at least one unless there is
    /// none, about `max_bytes` at most.
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        loop {
            let read = self.tail.read().read(from, to);
            if read.tail_from == read.from {
                return Ok(limited(read.tail, max_bytes));
            }
            let (db, start, end) = (self.db.clone(), read.from, read.tail_from);
            let stored = move || read_stored(&db, start, end, max_bytes);
            let stored =
                streamhouse_host::spawn_blocking(stored).await.map_err(io::Error::other)?;
            let mut entries = match stored {
                Ok(entries) => entries,
                // A purge overtook this read; the log begins later now.
                Err(_) if self.tail.read().first.is_none_or(|first| first > start) => continue,
                Err(error) => return Err(invalid(error)),
            };
            if entries.len() as u64 == end - start {
                entries.extend(read.tail);
            }
            return Ok(limited(entries, max_bytes));
        }
    }
}

fn limited(mut entries: Vec<Entry>, max_bytes: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let keep = entries.iter().position(|entry| {
        let full = bytes >= max_bytes;
        bytes += entry::size(entry);
        full
    });
    entries.truncate(keep.unwrap_or(entries.len()));
    entries
}

/// Entries `[start, end)`, all of which must be stored, up to `max_bytes`.
fn read_stored(db: &Db, start: u64, end: u64, max_bytes: usize) -> Result<Vec<Entry>, String> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start.to_be_bytes());
    options.set_iterate_upper_bound(end.to_be_bytes());
    let mut iterator = db.rocks().raw_iterator_cf_opt(db.log(), options);
    iterator.seek_to_first();
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, start);
    while next < end && bytes < max_bytes {
        let Some((key, value)) = iterator.item() else {
            iterator.status().map_err(|e| format!("log: {e}"))?;
            return Err(format!("log entry {next} is missing"));
        };
        entries.push(stored_entry(key, value, next)?);
        bytes += value.len();
        next += 1;
        iterator.next();
    }
    Ok(entries)
}

fn stored_entry(key: &[u8], value: &[u8], expected: u64) -> Result<Entry, String> {
    if key != expected.to_be_bytes() {
        return Err(format!("log entry {expected} is missing"));
    }
    let entry = entry::decode(Bytes::copy_from_slice(value))
        .map_err(|e| format!("log entry {expected}: {e}"))?;
    if entry.log_id.index != expected {
        let found = entry.log_id.index;
        return Err(format!("log entry {expected} holds entry {found}"));
    }
    Ok(entry)
}

/// Reads the whole log, showing `each` entry; its first index and its last id.
fn check(
    db: &Db,
    purged: Option<LogId>,
    mut each: impl FnMut(&Entry),
) -> Result<(Option<u64>, Option<LogId>), LogError> {
    let first = purged.map_or(0, |id| id.index + 1);
    let (mut next, mut last): (u64, Option<LogId>) = (first, None);
    let mut iterator = db.rocks().raw_iterator_cf(db.log());
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        let entry = stored_entry(key, value, next).map_err(LogError::Damaged)?;
        if last.is_some_and(|last| last.leader_id > entry.log_id.leader_id) {
            let what = format!("log entry {next} is of an older term than the one before");
            return Err(LogError::Damaged(what));
        }
        last = Some(entry.log_id);
        each(&entry);
        next += 1;
        iterator.next();
    }
    iterator.status().map_err(ReadError::from)?;
    Ok((last.map(|_| first), last))
}

/// The log must hold what was synced: RocksDB may have cut it off where a
/// record did not hold.
fn compare(synced: Synced, tail: &LogTail) -> Result<(), String> {
    let vote_term = tail.vote.map_or(0, |vote| vote.leader_id.term);
    if vote_term < synced.vote_term {
        let was = synced.vote_term;
        return Err(format!("its vote is of term {vote_term}, one of term {was} was synced"));
    }
    if tail.last < synced.last {
        let index = |id: Option<LogId>| id.map_or("nothing".into(), |id| id.index.to_string());
        let (has, had) = (index(tail.last), index(synced.last));
        return Err(format!("the log ends at entry {has}, entry {had} was synced"));
    }
    Ok(())
}

fn start_end(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(at) => at.saturating_add(1),
        Bound::Excluded(at) => *at,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = start_end(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES).await
    }

    /// In pieces, so that a long range is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = start_end(&range);
        let state = (self.clone(), start, VecDeque::new());
        futures::stream::try_unfold(state, move |(log, mut next, mut piece)| async move {
            if piece.is_empty() && next < end {
                let to = end.min(next.saturating_add(READ_ENTRIES));
                piece = VecDeque::from(log.read(next, to, READ_BYTES).await?);
            }
            let Some(entry) = piece.pop_front() else {
                return Ok(None);
            };
            next = entry.log_id.index + 1;
            Ok(Some((entry, (log, next, piece))))
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail.read().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail.read();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.complete(Request::Vote(*vote, done), wait).await
    }

    /// Remembered, and written with the next batch: the applied state, which
    /// is in the same database, says nearly as much.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.tail.write().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.tail.read().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.tail.write().append(&entries).map_err(invalid)?;
        self.writer.send(Request::Append(entries, flushed)).await
    }

    async fn truncate_after(&mut self, after: Option<LogId>) -> io::Result<()> {
        // What a leader saw is true whatever becomes of the entry.
        let from = after.map_or(0, |id| id.index + 1);
        self.gather(from).await?.next = from;
        self.tail.write().truncate(after);
        let (done, wait) = oneshot::channel();
        self.complete(Request::Truncate(after, done), wait).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.tail.write().purge(upto);
        let (done, wait) = oneshot::channel();
        self.complete(Request::Purge(upto, done), wait).await
    }
}
