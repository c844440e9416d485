//! What a node does whose log's disk has stopped.
//!
//! openraft's heartbeats do not wait for the disk, so a leader with a dead
//! disk would keep its followers loyal and commit nothing. After a second it
//! stops heartbeating and campaigning and hands over; after half a minute it
//! is of no use to anyone and exits.

use super::fatal::{FatalReason, fatal};
use super::node::RaftNode;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CHECK_EVERY: Duration = Duration::from_millis(100);
const STALLED: Duration = Duration::from_secs(1);
const STUCK: Duration = Duration::from_secs(30);
const HAND_OVER_PATIENCE: Duration = Duration::from_millis(500);

/// Watches the log's writer until the node stops.
pub(crate) async fn watch(node: RaftNode) {
    let core = node.core();
    let mut stalled = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(CHECK_EVERY) => {}
            () = core.cancel.cancelled() => return,
        }
        let outstanding = core.log.writer().outstanding().unwrap_or_default();
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
