//! When a node asks to be elected: not before its disk was found to be what it
//! was ([`super::admission`]), not while that disk has stopped
//! ([`super::stall`]), and not at once after it was started.

use super::admission::Admission;
use super::node::{Core, RaftNode};
use super::options::RaftOptions;
use super::time;
use crate::entropy;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Core {
    /// Tells openraft whether it may campaign, after something that this depends on has changed.
    pub(crate) fn review_campaigns(&self) {
        // Held until it is told, so that an older answer never comes after a newer one.
        let defers = self.defers.lock();
        let admitted = *self.admission.borrow() == Admission::Admitted;
        let may = admitted && !self.stalled.load(Ordering::SeqCst) && !*defers;
        self.raft.runtime_config().elect(may);
    }
}

/// Lets those campaign first who were there when this node was `started`.
///
/// It has heard neither agents nor members of groups yet, and would give all
/// of them the time to come to it. Where a leader dies again and again and is
/// started at once, it would lead every time, and nobody's end would ever come.
pub(crate) async fn defer(node: RaftNode, started: Instant) {
    let core = node.core();
    if !*core.defers.lock() {
        return;
    }
    let left = (started + deference(&core.options)).saturating_duration_since(time::now());
    tokio::select! {
        () = tokio::time::sleep(left) => {}
        () = core.cancel.cancelled() => return,
    }
    *core.defers.lock() = false;
    core.review_campaigns();
}

/// The others campaign before twice `election_max` is over. Those who were
/// started together do not end this together.
fn deference(options: &RaftOptions) -> Duration {
    let spread = (options.election_max - options.election_min).as_millis().max(1) as u64;
    options.election_max * 2
        + options.election_min
        + Duration::from_millis(entropy::number() % spread)
}
