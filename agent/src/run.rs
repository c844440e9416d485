//! What keeps the batches of a partition in the order of their stream when one of them is refused.
//!
//! A producer has several batches of a partition on their way. Once one is refused, whatever its producer had sent
//! behind it must be refused too, although the lease may be ours (again) when it arrives: it would be written ahead of
//! the refused one, which is about to be sent once more. So the batches of a partition on a stream form *runs*. The
//! first refusal breaks a run, and so does the end of a session that leaves the fate of one of its batches open: the next
//! session does not wait for that. A broken run takes nothing more; a batch with `restart`, which its producer sends only
//! when it knows the fate of everything before, begins a new one.

use crate::partition::PartitionId;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// BOUND: runs remembered for one stream. Above what a stream can have unanswered, so that only broken runs, which a
/// producer can begin anew at any time, ever fill it.
const MOST_RUNS: usize = 16_384;
const FIRST_SWEEP: usize = 1_024;

/// Batches of one partition on one stream, from one `restart` to the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run(Arc<AtomicBool>);

impl Run {
    /// One of its batches was refused, or may be after its session.
    pub(crate) fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// No batch of it is in here, and none was refused: there is nothing to remember.
    fn is_forgettable(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && !self.is_broken()
    }
}

/// The current runs of one stream.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: HashMap<PartitionId, Run>,
    sweep_at: usize,
}

impl Default for Runs {
    fn default() -> Self {
        Self { runs: HashMap::new(), sweep_at: FIRST_SWEEP }
    }
}

impl Runs {
    /// The run that the partition's next batch belongs to. `None`: there are too many, the stream has to end.
    pub(crate) fn next(&mut self, id: PartitionId, restart: bool) -> Option<Run> {
        if !restart && let Some(run) = self.runs.get(&id) {
            return Some(run.clone());
        }
        if self.runs.len() >= self.sweep_at && !self.runs.contains_key(&id) {
            self.runs.retain(|_, run| !run.is_forgettable());
            self.sweep_at = (self.runs.len() * 2).clamp(FIRST_SWEEP, MOST_RUNS);
            if self.runs.len() >= MOST_RUNS {
                return None;
            }
        }
        let run = Run::default();
        self.runs.insert(id, run.clone());
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamhouse_segment::TopicId;

    fn partition(partition: u32) -> PartitionId {
        PartitionId { topic: TopicId::from_bytes([9; 16]), partition }
    }

    #[test]
    fn a_run_lasts_from_one_restart_to_the_next() {
        let mut runs = Runs::default();
        let first = runs.next(partition(0), true).unwrap();
        first.end();
        assert!(runs.next(partition(0), false).unwrap().is_broken());
        assert!(!runs.next(partition(1), false).unwrap().is_broken(), "a run of its own");
        assert!(!runs.next(partition(0), true).unwrap().is_broken());
        assert!(!runs.next(partition(0), false).unwrap().is_broken());
    }

    #[test]
    fn only_broken_runs_fill_a_stream() {
        let mut runs = Runs::default();
        let most = u32::try_from(MOST_RUNS).unwrap();
        for number in 0..most * 2 {
            assert!(runs.next(partition(number), true).is_some());
        }
        assert!(runs.runs.len() <= MOST_RUNS);
        let mut runs = Runs::default();
        for number in 0..most {
            runs.next(partition(number), true).unwrap().end();
        }
        assert!(runs.next(partition(most), true).is_none());
        assert!(runs.next(partition(0), true).is_some());
    }
}
