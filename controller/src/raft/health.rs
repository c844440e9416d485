//! How a node is, for whoever watches over it.

use super::admission::Admission;
use super::node::RaftNode;
use crate::clock;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A node that is no more entries behind than this answers as well as any.
const REACH: u64 = 1_000;

/// How a node is.
#[derive(Debug, Clone)]
pub struct Health {
    /// It is being stopped.
    pub stopping: bool,
    /// A majority has confirmed that its disk is what it was.
    pub admitted: bool,
    /// The log's disk has stopped.
    pub stalled: bool,
    /// How long the log's write in progress has taken so far.
    pub outstanding: Duration,
    /// Who leads, if there is one that still has its majority.
    pub leader: Option<u64>,
    /// The last index that it knows to be committed.
    pub committed: u64,
    /// The last index that it has applied.
    pub applied: u64,
}

impl Health {
    /// Why the process had better be started again; nothing if it is well.
    pub fn ailments(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.stalled {
            let millis = self.outstanding.as_millis();
            reasons.push(format!("the log's disk hangs: a write has taken {millis} ms so far"));
        }
        reasons
    }

    /// Why it cannot serve just now; nothing if it can.
    pub fn hindrances(&self) -> Vec<String> {
        let mut reasons = self.ailments();
        if self.stopping {
            reasons.push("it is being stopped".to_owned());
        }
        if !self.admitted {
            let what = "it does not take part yet: no majority has confirmed its disk";
            reasons.push(what.to_owned());
        }
        if self.leader.is_none() {
            reasons.push("it knows no leader".to_owned());
        }
        let behind = self.committed.saturating_sub(self.applied);
        if behind > REACH {
            reasons.push(format!(
                "it has applied {} of {} committed entries, {behind} too few; {REACH} may be missing",
                self.applied, self.committed
            ));
        }
        reasons
    }
}

/// How large things are.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The applied state, as RocksDB estimates it.
    pub state_bytes: u64,
    /// The file of the newest snapshot, 0 if there is none.
    pub snapshot_bytes: u64,
    /// How long ago that was written.
    pub snapshot_age: Option<Duration>,
    /// The entries of the log.
    pub log_bytes: u64,
    /// Requests that wait for the log's writer.
    pub log_queue: usize,
    /// Bytes of proposals that are not applied yet.
    pub in_flight: usize,
    /// How many of these there may be.
    pub limit: usize,
}

impl RaftNode {
    /// The id of its disk.
    pub fn disk(&self) -> [u8; 16] {
        self.core().disk
    }

    /// How it is. Never waits for a disk.
    pub fn health(&self) -> Health {
        let core = self.core();
        let applied = *core.applied.index.borrow();
        let known = self.with_metrics(|m| m.local_committed.map_or(0, |id| id.index));
        Health {
            stopping: core.stopping.load(Ordering::SeqCst) || core.cancel.is_cancelled(),
            admitted: *core.admission.borrow() == Admission::Admitted,
            stalled: self.stalled(),
            outstanding: core.log.writer().outstanding().unwrap_or_default(),
            leader: core.leadership.borrow().leader,
            // What is applied is committed, though the metrics may be told of it later.
            committed: known.max(applied),
            applied,
        }
    }

    /// How large things are. Asks the disk: not for the runtime's threads.
    pub fn sizes(&self) -> Sizes {
        let core = self.core();
        // One that cannot be read counts as none here; it shows elsewhere.
        let snapshot = core.state.snapshots().current().ok().flatten();
        let file = snapshot.map(|snapshot| snapshot.snapshot.file);
        let limit = core.gate.limits().in_flight_bytes;
        let bytes = file.as_ref().and_then(|file| file.metadata().ok());
        let written = file.as_ref().and_then(|file| streamhouse_host::clock::modified(file));
        Sizes {
            state_bytes: core.db.state_bytes(),
            snapshot_bytes: bytes.map_or(0, |file| file.len()),
            snapshot_age: written.map(clock::since),
            log_bytes: core.log.bytes(),
            log_queue: core.log.writer().queued(),
            in_flight: limit.saturating_sub(core.proposals.available_permits()),
            limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Health {
        Health {
            stopping: false,
            admitted: true,
            stalled: false,
            outstanding: Duration::ZERO,
            leader: Some(2),
            committed: 5_000,
            applied: 4_000,
        }
    }

    #[test]
    fn one_that_is_well_has_no_reasons() {
        assert!(well().ailments().is_empty());
        assert!(well().hindrances().is_empty());
    }

    #[test]
    fn each_hindrance_is_named() {
        for (health, reason) in [
            (Health { stopping: true, ..well() }, "being stopped"),
            (Health { admitted: false, ..well() }, "does not take part yet"),
            (Health { leader: None, ..well() }, "knows no leader"),
            (Health { applied: 3_999, ..well() }, "has applied 3999 of 5000"),
        ] {
            let reasons = health.hindrances();
            assert!(reasons.len() == 1 && reasons[0].contains(reason), "{reasons:?}");
            assert!(health.ailments().is_empty(), "a restart would not help: {reason}");
        }
    }

    #[test]
    fn a_disk_that_hangs_is_an_ailment_and_a_hindrance() {
        let health = Health { stalled: true, outstanding: Duration::from_secs(3), ..well() };
        assert!(health.ailments()[0].contains("3000 ms"));
        assert_eq!(health.ailments(), health.hindrances());
    }
}
