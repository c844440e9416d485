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
use crate::history::{Event, History, Operation, Outcome, Partition};

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
    /// When the last acknowledgement of each partition came, microseconds.
    acknowledged: HashMap<Partition, u64>,
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
            acknowledged: HashMap::new(),
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

    /// When a record to the partition was acknowledged last, microseconds.
    pub(crate) fn acknowledged_us(&self, at: Partition) -> Option<u64> {
        self.inner.lock().acknowledged.get(&at).copied()
    }

    /// Gives an event its time and its place. Nothing once it is finished: where a run is broken off, clients end later.
    pub fn record(&self, process: u32, outcome: Outcome, operation: Operation) {
        let mut inner = self.inner.lock();
        if inner.finished {
            return;
        }
        let time_us = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = Event { time_us, process, outcome, operation };
        let written = serde_json::to_vec(&event).map_err(std::io::Error::from).and_then(|line| {
            inner.file.write_all(&line)?;
            inner.file.write_all(b"\n")
        });
        if let Err(error) = written {
            inner.failed.get_or_insert(error);
        }
        if let (Operation::Send { at, .. }, Outcome::Ok) = (&event.operation, outcome) {
            inner.acknowledged.insert(*at, time_us);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_handed_out_all_the_same() {
        let recorder = Recorder::create(Path::new("/dev/full")).unwrap();
        recorder.record(HARNESS, Outcome::Ok, Operation::Drained);
        let (history, unwritten) = recorder.end();
        assert_eq!(history.events.len(), 1);
        assert!(unwritten.is_some());
    }
}
