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
    /// Whether it may campaign.
    fn may_campaign(&self) -> bool {
        let admitted = *self.admission.borrow() == Admission::Admitted;
        let held = [&self.stalled, &self.defers].map(|held| held.load(Ordering::SeqCst));
        admitted && held == [false, false]
    }

    /// Tells openraft, after something that this depends on has changed.
    pub(crate) fn review_campaigns(&self) {
        self.raft.runtime_config().elect(self.may_campaign());
    }
}

/// Lets those campaign first who were there when this node was `started`.
///
/// It has heard neither agents nor members of groups yet, and would give all
/// of them the time to come to it. Where a leader dies again and again and is
/// started at once, it would lead every time, and nobody's end would ever come.
pub(crate) async fn defer(node: RaftNode, started: Instant) {
    let core = node.core();
    if !core.defers.load(Ordering::SeqCst) {
        return;
    }
    let left = (started + deference(&core.options)).saturating_duration_since(time::now());
    tokio::select! {
        () = tokio::time::sleep(left) => {}
        () = core.cancel.cancelled() => return,
    }
    core.defers.store(false, Ordering::SeqCst);
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
