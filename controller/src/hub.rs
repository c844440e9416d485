//! How what was applied here reaches watchers of this controller: a bounded
//! broadcast of effects. Whoever falls behind reads the state anew.

use crate::raft::ApplyObserver;
use crate::state::reply::Effect;
use std::sync::Arc;
use tokio::sync::broadcast;

/// BOUND: batches a slow watcher may be behind before it must resync.
const CAPACITY: usize = 1_024;

/// What one batch of applied entries changed.
#[derive(Debug)]
pub(crate) struct Changes {
    /// The last index applied with them.
    pub(crate) index: u64,
    /// In log order; empty after a snapshot was installed.
    pub(crate) effects: Vec<Effect>,
    /// The whole state was replaced.
    pub(crate) replaced: bool,
}

/// The sending side.
pub(crate) struct Hub(broadcast::Sender<Arc<Changes>>);

impl Hub {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }

    /// Changes from now on. Subscribe before reading the state, so that
    /// nothing falls between.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.0.subscribe()
    }

    fn publish(&self, changes: Changes) {
        // Without a watcher nobody needs it.
        let _ = self.0.send(Arc::new(changes));
    }
}

impl ApplyObserver for Hub {
    fn applied(&self, index: u64, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.publish(Changes { index, effects, replaced: false });
        }
    }

    fn installed(&self, index: u64) {
        self.publish(Changes { index, effects: Vec::new(), replaced: true });
    }
}
