//! BOUND: the log in bytes. openraft counts entries, of which each may have
//! 4 MiB; so a snapshot is also made once the log since the last one has
//! grown by so many bytes, and of the entries before it no more bytes stay
//! than are worth a follower's catching up.

use super::node::RaftNode;
use openraft::async_runtime::watch::WatchReceiver;
use std::time::Duration;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Looks after the log's size until the node stops.
pub(crate) async fn watch(node: RaftNode) {
    let core = node.core();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = core.cancel.cancelled() => return,
        }
        // A failure is Raft's own, and shows elsewhere.
        let _ = look(&node).await;
    }
}

async fn look(node: &RaftNode) -> Result<(), openraft::errors::Fatal<super::types::TypeConfig>> {
    let core = node.core();
    let (snapshot, applied) = {
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.snapshot, metrics.last_applied)
    };
    let (after, upto) = (snapshot.map_or(0, |id| id.index), applied.map_or(0, |id| id.index));
    let since = core.log.bytes_between(after, upto);
    if since > core.options.snapshot_every_bytes {
        // While one is being built, nothing comes of it.
        core.raft.trigger().snapshot().await?;
    }
    let beyond = core.log.beyond(after, core.options.keep_log_bytes);
    if let Some(beyond) = beyond.filter(|_| snapshot.is_some()) {
        core.raft.trigger().purge_log(beyond).await?;
    }
    Ok(())
}
