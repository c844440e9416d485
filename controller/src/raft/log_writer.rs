//! The one thread that writes the log: appends, votes, truncations and
//! purges, in the order in which they were asked for.
//!
//! Group commit: it takes whatever has queued up while the last write was
//! synced, puts it into one synced batch, and then completes every waiter.
//! ACK: nobody is told that something is durable before the sync returned. A
//! write or sync that fails is fatal, never retried: after it, nobody knows
//! what the disk holds.

use super::db::Db;
use super::entry;
use super::fatal::{FatalReason, database_failed, fatal};
use super::log_tail::LogTail;
use super::meta;
use super::synced::{Synced, SyncedFile};
use super::time;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::codec;
use metrics::Histogram;
use openraft::storage::IOFlushed;
use parking_lot::{Mutex, RwLock};
use rocksdb::WriteBatch;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use streamhouse_host::{Mistake, Worker, disk_latency, is_planted};
use tokio::sync::{mpsc, oneshot};

/// BOUND on requests that wait for the writer.
const QUEUE: usize = 256;
/// No batch is started larger than this (its last request may exceed it).
const BATCH_BYTES: usize = 8 << 20;

/// One request to the writer.
pub(crate) enum Request {
    Append(Vec<Entry>, IOFlushed<TypeConfig>),
    Vote(Vote, oneshot::Sender<()>),
    /// Removes all entries after this one.
    Truncate(Option<LogId>, oneshot::Sender<()>),
    Purge(LogId, oneshot::Sender<()>),
    Stop,
}

/// Handle of the writer thread.
pub(crate) struct LogWriter {
    /// Taken when dropped.
    queue: Option<mpsc::Sender<Request>>,
    thread: Mutex<Option<Worker>>,
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    syncs: AtomicU64,
    started: Mutex<Option<Instant>>,
}

impl LogWriter {
    /// Starts the thread.
    pub(crate) fn start(
        db: Arc<Db>,
        tail: Arc<RwLock<LogTail>>,
        file: SyncedFile,
        sync_seconds: Histogram,
    ) -> io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let progress = Arc::<Progress>::default();
        let synced = {
            let tail = tail.read();
            Synced { last: tail.last, vote_term: tail.vote.map_or(0, |v| v.leader_id.term) }
        };
        file.note(&synced)?;
        let progress_of = progress.clone();
        let buffer = Vec::new();
        let writer = Writer { db, tail, progress: progress_of, buffer, file, synced, sync_seconds };
        let thread = Worker::spawn("raft-log", writer.run(requests))?;
        Ok(Self { queue: Some(queue), thread: Mutex::new(Some(thread)), progress })
    }

    /// Queues a request; waits while the queue is full.
    pub(crate) async fn send(&self, request: Request) -> io::Result<()> {
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(request).await.map_err(|_| stopped())
    }

    /// How many requests wait for it.
    pub(crate) fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    /// How many synced writes there were.
    pub(crate) fn syncs(&self) -> u64 {
        self.progress.syncs.load(Ordering::Relaxed)
    }

    /// How long the write in progress has been going on.
    pub(crate) fn outstanding(&self) -> Option<Duration> {
        let started = *self.progress.started.lock();
        started.map(|at| time::now().saturating_duration_since(at))
    }

    /// Writes what is queued, then ends the thread.
    pub(crate) async fn stop(&self) {
        let _ = self.send(Request::Stop).await;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join().await;
        }
    }
}

/// The thread never outlives its handle: the database it holds must be closed
/// before the process ends, or RocksDB aborts in its static destructors.
impl Drop for LogWriter {
    fn drop(&mut self) {
        self.queue = None;
        drop(self.thread.get_mut().take());
    }
}

/// The error of a request after [`LogWriter::stop`].
pub(crate) fn stopped() -> io::Error {
    io::Error::other("the log writer has stopped")
}

enum Waiter {
    Flushed(IOFlushed<TypeConfig>),
    Done(oneshot::Sender<()>),
}

#[derive(Default)]
struct Pending {
    batch: WriteBatch,
    waiters: Vec<Waiter>,
    last: Option<LogId>,
    /// What is left of the log where this batch cuts it off, or begins it
    /// anew behind what it purges.
    cut: Option<Option<LogId>>,
    vote: Option<Vote>,
    stop: bool,
}

struct Writer {
    db: Arc<Db>,
    tail: Arc<RwLock<LogTail>>,
    progress: Arc<Progress>,
    buffer: Vec<u8>,
    file: SyncedFile,
    synced: Synced,
    sync_seconds: Histogram,
}

impl Writer {
    /// Blocks whatever runs it while it writes.
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            *self.progress.started.lock() = Some(time::now());
            let mut pending = Pending::default();
            self.add(&mut pending, request);
            while pending.batch.size_in_bytes() < BATCH_BYTES
                && !pending.stop
                && let Ok(request) = requests.try_recv()
            {
                self.add(&mut pending, request);
            }
            let stop = pending.stop;
            disk_latency().await;
            self.commit(pending).await;
            *self.progress.started.lock() = None;
            if stop {
                return;
            }
        }
    }

    fn add(&mut self, pending: &mut Pending, request: Request) {
        match request {
            Request::Append(entries, flushed) => {
                for entry in &entries {
                    self.buffer.clear();
                    entry::encode(entry, &mut self.buffer);
                    let key = entry.log_id.index.to_be_bytes();
                    pending.batch.put_cf(self.db.log(), key, &self.buffer);
                    pending.last = Some(entry.log_id);
                }
                pending.waiters.push(Waiter::Flushed(flushed));
            }
            Request::Vote(vote, done) => {
                let value = codec::encode_serde(&vote);
                pending.batch.put_cf(self.db.raft(), meta::VOTE, value);
                pending.vote = Some(vote);
                pending.waiters.push(Waiter::Done(done));
            }
            Request::Truncate(after, done) => {
                let from = after.map_or(0, |id| id.index + 1);
                pending.cut = Some(after);
                let (from, to) = (from.to_be_bytes(), u64::MAX.to_be_bytes());
                pending.batch.delete_range_cf(self.db.log(), from, to);
                pending.last = None;
                pending.waiters.push(Waiter::Done(done));
            }
            Request::Purge(upto, done) => {
                let end = upto.index.saturating_add(1);
                let (from, to) = (0u64.to_be_bytes(), end.to_be_bytes());
                pending.batch.delete_range_cf(self.db.log(), from, to);
                let value = codec::encode_serde(&upto);
                pending.batch.put_cf(self.db.raft(), meta::PURGED, value);
                pending.last = pending.last.max(Some(upto));
                pending.waiters.push(Waiter::Done(done));
            }
            Request::Stop => pending.stop = true,
        }
    }

    /// Waits nowhere but where a power cut may come between the write and its
    /// sync, and there only in the simulation.
    async fn commit(&mut self, mut pending: Pending) {
        if let Some(left) = pending.cut {
            // Taken back before it is done: a note must never prove too much.
            self.synced.last = self.synced.last.min(left);
            if let Err(error) = self.file.take_back(&self.synced) {
                fatal(FatalReason::LogDiskFailed, error);
            }
        }
        let committed = self.tail.read().committed;
        if let Some(committed) = committed {
            let value = codec::encode_serde(&committed);
            pending.batch.put_cf(self.db.raft(), meta::COMMITTED, value);
        }
        let begun = time::now();
        self.on_disk(self.db.write_unsynced(pending.batch));
        disk_latency().await;
        if !is_planted(Mistake::LogNotSynced) {
            self.on_disk(self.db.sync());
        }
        self.sync_seconds.record(begun.elapsed().as_secs_f64());
        self.progress.syncs.fetch_add(1, Ordering::Relaxed);
        self.synced.last = self.synced.last.max(pending.last);
        if let Some(vote) = &pending.vote {
            self.synced.vote_term = vote.leader_id.term;
        }
        noted(self.file.note(&self.synced));
        {
            let mut tail = self.tail.write();
            if let Some(durable) = pending.last {
                tail.flushed(durable);
            }
            if pending.vote.is_some() {
                tail.vote = pending.vote;
            }
        }
        for waiter in pending.waiters {
            match waiter {
                Waiter::Flushed(flushed) => flushed.io_completed(Ok(())),
                Waiter::Done(done) => {
                    let _ = done.send(());
                }
            }
        }
        // It waits for the disk once more, if tables were written.
        noted(self.db.note_manifest());
    }

    fn on_disk(&self, written: Result<(), String>) {
        if let Err(error) = written {
            database_failed(FatalReason::LogDiskFailed, &self.db, error);
        }
    }
}

/// A note that cannot be written proves nothing, and an old one too much.
fn noted(result: io::Result<()>) {
    if let Err(error) = result {
        fatal(FatalReason::LogDiskFailed, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::damage_tests;
    use crate::raft::synced::Trace;
    use crate::raft::types::Payload;
    use futures::FutureExt;
    use std::path::Path;

    fn writer(dir: &Path, db: Arc<Db>, synced: Synced) -> (Writer, Trace) {
        let (file, _) = SyncedFile::open(dir).unwrap();
        let trace = file.1.clone();
        let (tail, progress) = (Arc::default(), Arc::default());
        let sync_seconds = Histogram::noop();
        (Writer { db, tail, progress, buffer: Vec::new(), file, synced, sync_seconds }, trace)
    }

    fn append(index: u64) -> Request {
        let entry = Entry { log_id: LogId::new_term_index(2, index), payload: Payload::Blank };
        Request::Append(vec![entry], IOFlushed::noop())
    }

    #[test]
    fn a_note_is_taken_back_and_synced_before_the_log_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(dir.path(), 1).unwrap().0);
        let last = |index| Some(LogId::new_term_index(1, index));
        let (mut writer, trace) = writer(dir.path(), db, Synced { last: last(9), vote_term: 1 });
        let (done, _) = oneshot::channel();
        let mut pending = Pending::default();
        writer.add(&mut pending, Request::Truncate(last(4), done));
        writer.add(&mut pending, append(5));
        writer.commit(pending).now_or_never().unwrap();
        let notes =
            trace.lock().iter().map(|(note, synced)| (note.last, *synced)).collect::<Vec<_>>();
        let new = Some(LogId::new_term_index(2, 5));
        assert_eq!(notes, [(last(4), true), (new, false)]);
    }

    #[test]
    fn damage_that_rocksdb_met_by_itself_ends_the_process_as_damage() {
        let dir = tempfile::tempdir().unwrap();
        let db = damage_tests::met_damage(dir.path());
        let (mut writer, _) = writer(dir.path(), db, Synced::default());
        let mut pending = Pending::default();
        writer.add(&mut pending, append(0));
        damage_tests::ends_as_damaged(dir.path(), || {
            writer.commit(pending).now_or_never().unwrap();
        });
    }
}
