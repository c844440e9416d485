//! Reading: linearizably by ReadIndex, or from a view at the applied index.

use super::node::RaftNode;
use super::peers::Lane;
use openraft::ReadPolicy;
use std::time::Duration;
use streamhouse_host::{Mistake, is_planted};
use streamhouse_proto::v1::ReadIndexRequest;

const PATIENCE: Duration = Duration::from_secs(5);

/// A read that could not be made current. It may be retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no leader, or it could not be reached or not prove that it
    /// still leads.
    #[error("no leader confirms the read: {0}")]
    NoLeader(String),
    /// The index was not applied here in time.
    #[error("index {wanted} is not applied yet, only {applied}")]
    Behind {
        /// The index to be waited for.
        wanted: u64,
        /// What is applied.
        applied: u64,
    },
    /// This node is stopping.
    #[error("the controller is shutting down")]
    ShuttingDown,
}

impl RaftNode {
    /// Waits until this node has applied everything that was committed when
    /// the call began; returns an applied index at least as high. A view
    /// taken after this is linearizable.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let index = match self.leads() {
            true => self.leader_read_index().await?,
            false => self.forwarded_read_index().await?,
        };
        self.wait_applied(index, PATIENCE).await
    }

    /// Waits until `index` is applied here; returns the applied index.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<u64, ReadError> {
        let core = self.core();
        let mut applied = core.applied.index.subscribe();
        let reached = tokio::select! {
            reached = tokio::time::timeout(timeout, applied.wait_for(|at| *at >= index)) => {
                reached.map(|reached| reached.map(|at| *at))
            }
            () = core.cancel.cancelled() => return Err(ReadError::ShuttingDown),
        };
        match reached {
            Ok(Ok(at)) => Ok(at),
            Ok(Err(_)) => Err(ReadError::ShuttingDown),
            Err(_) => {
                let applied = *core.applied.index.borrow();
                Err(ReadError::Behind { wanted: index, applied })
            }
        }
    }

    /// The index up to which a read begun now must see, if this node proves
    /// to a majority's satisfaction that it leads.
    pub(crate) async fn leader_read_index(&self) -> Result<u64, ReadError> {
        if is_planted(Mistake::StaleLinearizableRead) && self.leads() {
            return Ok(*self.core().applied.index.borrow());
        }
        let read = self.core().raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok((read, _))) => Ok(read.index()),
            Ok(Err(error)) => Err(ReadError::NoLeader(error.to_string())),
            Err(_) => Err(ReadError::NoLeader("no majority answered".into())),
        }
    }

    async fn forwarded_read_index(&self) -> Result<u64, ReadError> {
        let core = self.core();
        let Some((leader, member)) = self.leader_node() else {
            return Err(ReadError::NoLeader("none is known".into()));
        };
        let address = core.peers.address(leader, &member);
        let client = core.peers.client(leader, Lane::Forward, address);
        let mut client = client.map_err(|e| ReadError::NoLeader(e.to_string()))?;
        let answer = client.read_index(ReadIndexRequest {});
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().index),
            Ok(Err(status)) => Err(ReadError::NoLeader(status.message().to_owned())),
            Err(_) => Err(ReadError::NoLeader("the leader did not answer".into())),
        }
    }
}
