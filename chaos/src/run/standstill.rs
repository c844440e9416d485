//! When the machine stood still: its host may freeze it for some tenths of a second, and then nobody is served,
//! whatever the cluster does. A thread that wakes a hundred times a second notes how late it woke. From a time that is
//! measured, what of it the machine stood still may be taken, and nothing else.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::error::ChaosError;
use crate::recorder::Recorder;

const TICK: Duration = Duration::from_millis(10);
/// To wake so late is a scheduler's doing. From here on the whole lateness is a standstill.
const LATE: Duration = Duration::from_millis(50);

/// Times during which the machine stood still, in order, microseconds into the run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standstill(Vec<(u64, u64)>);

/// What the report says of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stood {
    /// How often.
    pub times: usize,
    /// How long in all.
    pub total_ms: u64,
    /// How long at most.
    pub longest_ms: u64,
}

impl Standstill {
    #[cfg(test)]
    pub(super) fn of(times: &[(u64, u64)]) -> Self {
        Self(times.to_vec())
    }

    /// How much of this time it was, microseconds.
    pub(super) fn within(&self, from_us: u64, to_us: u64) -> u64 {
        let first = self.0.partition_point(|(_, until)| *until <= from_us);
        let times = self.0[first..].iter().take_while(|(from, _)| *from < to_us);
        times.map(|(from, until)| (*until).min(to_us).saturating_sub((*from).max(from_us))).sum()
    }

    pub(super) fn stood(&self) -> Stood {
        let lengths = || self.0.iter().map(|(from, until)| until - from);
        Stood {
            times: self.0.len(),
            total_ms: lengths().sum::<u64>() / 1_000,
            longest_ms: lengths().max().unwrap_or(0) / 1_000,
        }
    }

    /// The one who watches was to wake at `due_us` and did so at `woke_us`.
    fn woke(&mut self, due_us: u64, woke_us: u64) {
        if woke_us.saturating_sub(due_us) >= LATE.as_micros() as u64 {
            self.0.push((due_us, woke_us));
        }
    }
}

/// The thread; it ends when this is dropped.
pub(super) struct Watcher {
    seen: Arc<Mutex<Standstill>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// By the clock of this history.
    pub(super) fn start(recorder: Arc<Recorder>) -> Result<Self, ChaosError> {
        let (stop, stopped) = channel();
        let seen = Arc::new(Mutex::new(Standstill::default()));
        let noted = Arc::clone(&seen);
        let watch = move || {
            loop {
                let due_us = recorder.elapsed_us() + TICK.as_micros() as u64;
                match stopped.recv_timeout(TICK) {
                    Err(RecvTimeoutError::Timeout) => {
                        noted.lock().woke(due_us, recorder.elapsed_us());
                    }
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = Builder::new().name("standstill".to_owned()).spawn(watch);
        let thread = thread.map_err(ChaosError::io("starting a thread"))?;
        Ok(Self { seen, stop: Some(stop), thread: Some(thread) })
    }

    /// What was seen until now.
    pub(super) fn seen(&self) -> Standstill {
        self.seen.lock().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing in it that could panic but the recorder's clock.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_time_only_what_lies_in_it_is_taken() {
        let standstill = Standstill::of(&[(100, 200), (300, 450), (900, 1_000)]);
        for ((from, to), within) in [
            ((0, 100), 0),
            ((0, 150), 50),
            ((150, 350), 100),
            ((100, 1_000), 350),
            ((310, 320), 10),
            ((450, 900), 0),
            ((2_000, 1_000), 0),
        ] {
            assert_eq!(standstill.within(from, to), within, "{from} to {to}");
        }
    }

    #[test]
    fn who_wakes_a_little_late_has_seen_no_standstill() {
        let mut standstill = Standstill::default();
        standstill.woke(10_000, 59_999);
        assert_eq!(standstill.stood(), Stood::default());
        standstill.woke(100_000, 220_000);
        standstill.woke(300_000, 350_000);
        let stood = Stood { times: 2, total_ms: 170, longest_ms: 120 };
        assert_eq!(standstill.stood(), stood);
    }

    #[test]
    fn the_watcher_ends_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Arc::new(Recorder::create(&folder.path().join("history.jsonl")).unwrap());
        let watcher = Watcher::start(Arc::clone(&recorder)).unwrap();
        drop(watcher);
        assert_eq!(Arc::strong_count(&recorder), 1);
    }
}
