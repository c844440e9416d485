//! Writes the history as it happens: one clock, one order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::error::ChaosError;
use crate::history::{Event, History, Operation, Outcome, Partition, Value};

/// The harness itself, as a process of the history.
pub const HARNESS: u32 = 0;

/// Takes events from everywhere; each is stamped where it gets its place in the order.
pub struct Recorder {
    begun: Instant,
    processes: AtomicU32,
    inner: Mutex<Inner>,
}

struct Inner {
    events: Vec<Event>,
    file: BufWriter<File>,
    failed: Option<std::io::Error>,
    /// When each record was sent whose answer is not there yet, microseconds.
    sent: HashMap<Value, u64>,
    /// From when on it is noted which partitions take records.
    mark_us: u64,
    /// When the first record of each partition was acknowledged that was sent after that, microseconds.
    written: HashMap<Partition, u64>,
    finished: bool,
}

impl Recorder {
    /// Writes to a file as well.
    pub fn create(path: &Path) -> Result<Self, ChaosError> {
        let file = File::create(path).map_err(ChaosError::io(path.display().to_string()))?;
        let inner = Inner {
            events: Vec::new(),
            file: BufWriter::new(file),
            failed: None,
            sent: HashMap::new(),
            mark_us: 0,
            written: HashMap::new(),
            finished: false,
        };
        Ok(Self { begun: clock::now(), processes: AtomicU32::new(1), inner: Mutex::new(inner) })
    }

    /// A number that no process had.
    pub fn process(&self) -> u32 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// Since it was created.
    pub fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.begun)
    }

    /// The same, microseconds.
    pub(crate) fn elapsed_us(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// From now on, which is what it returns, it is noted which partitions take records.
    pub(crate) fn mark_us(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.written.clear();
        inner.mark_us = self.elapsed_us();
        inner.mark_us
    }

    /// When the first record to the partition was acknowledged that was sent after the mark, microseconds.
    pub(crate) fn written_us(&self, at: Partition) -> Option<u64> {
        self.inner.lock().written.get(&at).copied()
    }

    /// Gives an event its time and its place. Nothing once it is finished: where a run is broken off, clients end later.
    pub fn record(&self, process: u32, outcome: Outcome, operation: Operation) {
        let mut inner = self.inner.lock();
        if inner.finished {
            return;
        }
        let time_us = self.elapsed_us();
        let event = Event { time_us, process, outcome, operation };
        let written = serde_json::to_vec(&event).map_err(std::io::Error::from).and_then(|line| {
            inner.file.write_all(&line)?;
            inner.file.write_all(b"\n")
        });
        if let Err(error) = written {
            inner.failed.get_or_insert(error);
        }
        if let Operation::Send { at, value, .. } = &event.operation {
            inner.send(*at, *value, outcome, time_us);
        }
        inner.events.push(event);
    }

    /// The whole history; it is in its file then.
    pub fn finish(&self) -> Result<History, ChaosError> {
        let (history, unwritten) = self.end();
        unwritten.map_or(Ok(history), Err)
    }

    /// The whole history, and why it is not in its file, if it is not.
    pub(crate) fn end(&self) -> (History, Option<ChaosError>) {
        let mut inner = self.inner.lock();
        inner.finished = true;
        let flushed = inner.file.flush();
        let failed = inner.failed.take().or(flushed.err());
        let history = History { events: std::mem::take(&mut inner.events) };
        (history, failed.map(ChaosError::io("writing the history")))
    }
}

impl Inner {
    fn send(&mut self, at: Partition, value: Value, outcome: Outcome, time_us: u64) {
        if outcome == Outcome::Invoke {
            self.sent.insert(value, time_us);
            return;
        }
        let sent = self.sent.remove(&value);
        // What was sent before may have been on its way through whatever was wrong.
        if outcome == Outcome::Ok && sent.is_some_and(|sent| sent >= self.mark_us) {
            self.written.entry(at).or_insert(time_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Partition = Partition { topic: 0, partition: 0 };

    #[test]
    fn a_partition_takes_records_once_one_is_acknowledged_that_was_sent_after_the_mark() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&folder.path().join("history.jsonl")).unwrap();
        let send = |counter, outcome| {
            let value = Value { process: 1, counter };
            recorder.record(
                1,
                outcome,
                Operation::Send { at: AT, value, offset: None, fenced: false },
            );
        };
        send(0, Outcome::Invoke);
        while recorder.elapsed_us() < 1_000 {}
        let mark = recorder.mark_us();
        send(0, Outcome::Ok);
        assert_eq!(recorder.written_us(AT), None);
        for outcome in [Outcome::Invoke, Outcome::Ok] {
            send(1, outcome);
        }
        assert!(recorder.written_us(AT).unwrap() >= mark);
        recorder.mark_us();
        assert_eq!(recorder.written_us(AT), None);
    }

    #[test]
    fn what_could_not_be_written_is_handed_out_all_the_same() {
        let recorder = Recorder::create(Path::new("/dev/full")).unwrap();
        recorder.record(HARNESS, Outcome::Ok, Operation::Drained);
        let (history, unwritten) = recorder.end();
        assert_eq!(history.events.len(), 1);
        assert!(unwritten.is_some());
    }
}
