//! What a node does whose log's disk has stopped.
//!
//! openraft's heartbeats do not wait for the disk, so a leader with a dead
//! disk would keep its followers loyal and commit nothing. After a second it
//! stops heartbeating and campaigning and hands over; after half a minute it
//! is of no use to anyone and exits.

use super::fatal::{FatalReason, fatal};
use super::node::RaftNode;
use super::time;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CHECK_EVERY: Duration = Duration::from_millis(100);
const STALLED: Duration = Duration::from_secs(1);
const STUCK: Duration = Duration::from_secs(30);
const HAND_OVER_PATIENCE: Duration = Duration::from_millis(500);

/// BOUND on what one look adds to the age of a write. A look that comes later
/// than that is one of a process that was stopped itself.
const LATEST: Duration = Duration::from_millis(200);

/// How long the write in progress was seen to take. Time in which nobody looked
/// does not count: whoever was stopped (SIGSTOP, a suspended machine) finds a
/// write that looks old, and knows nothing of the disk.
#[derive(Default)]
struct Watched {
    /// Writes that had ended by the last look.
    ended: u64,
    seen: Duration,
}

impl Watched {
    /// One look, `passed` after the last one, at a write that began
    /// `outstanding` ago, if there is one, after so many had `ended`.
    fn look(&mut self, ended: u64, outstanding: Option<Duration>, passed: Duration) -> Duration {
        let before = if ended == self.ended { self.seen } else { Duration::ZERO };
        self.ended = ended;
        self.seen = outstanding.unwrap_or_default().min(before + passed.min(LATEST));
        self.seen
    }
}

/// Watches the log's writer until the node stops.
pub(crate) async fn watch(node: RaftNode) {
    let core = node.core();
    let (mut stalled, mut watched, mut looked) = (false, Watched::default(), time::now());
    loop {
        tokio::select! {
            () = tokio::time::sleep(CHECK_EVERY) => {}
            () = core.cancel.cancelled() => return,
        }
        let (writer, now) = (core.log.writer(), time::now());
        let passed = now.saturating_duration_since(std::mem::replace(&mut looked, now));
        let outstanding = watched.look(writer.syncs(), writer.outstanding(), passed);
        if outstanding >= STUCK {
            fatal(FatalReason::LogDiskStuck, format_args!("a write has taken {outstanding:?}"));
        }
        let stalls = outstanding >= STALLED;
        if stalls == stalled {
            continue;
        }
        let led = node.leads();
        stalled = stalls;
        core.raft.runtime_config().heartbeat(!stalled);
        core.stalled.store(stalled, Ordering::SeqCst);
        core.review_campaigns();
        if stalled {
            tracing::error!(
                ?outstanding,
                "the log's disk has stopped; leading and voting for none"
            );
            if led {
                // The core may be waiting for the very same disk.
                let _ = tokio::time::timeout(HAND_OVER_PATIENCE, node.hand_over()).await;
            }
        } else {
            tracing::info!("the log's disk works again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_write_that_does_not_end_is_as_old_as_it_was_seen() {
        let mut watched = Watched::default();
        assert_eq!(watched.look(7, Some(millis(30)), CHECK_EVERY), millis(30));
        let looks = (1..=300).map(|n| millis(30) + CHECK_EVERY * n);
        let seen: Vec<_> = looks.map(|took| watched.look(7, Some(took), CHECK_EVERY)).collect();
        assert!(seen.is_sorted() && seen[9] >= STALLED && seen[299] >= STUCK, "{seen:?}");
    }

    #[test]
    fn a_stopped_process_does_not_blame_the_disk() {
        let mut watched = Watched::default();
        assert_eq!(watched.look(7, Some(millis(30)), CHECK_EVERY), millis(30));
        // Stopped amid the write, for longer than a disk may take.
        let seen = watched.look(7, Some(STUCK + millis(30)), STUCK);
        assert_eq!(seen, millis(30) + LATEST);
        // A disk that hangs all the same is found out from here on.
        let mut looks = 1;
        while watched.look(7, Some(STUCK + CHECK_EVERY * looks), CHECK_EVERY) < STALLED {
            looks += 1;
        }
        assert_eq!(looks, 8);
    }

    #[test]
    fn each_write_counts_for_itself() {
        let mut watched = Watched::default();
        for ended in 0..50 {
            let seen = watched.look(ended, Some(millis(90)), CHECK_EVERY);
            assert_eq!(seen, millis(90), "after {ended}");
        }
        assert_eq!(watched.look(50, None, CHECK_EVERY), Duration::ZERO);
        assert_eq!(watched.look(50, Some(millis(90)), CHECK_EVERY), millis(90));
    }
}
