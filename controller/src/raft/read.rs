//! Reading: linearizably by ReadIndex, or from a view at the applied index.

use super::forward;
use super::node::RaftNode;
use super::peers::Lane;
use super::types::TypeConfig;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use std::time::Duration;
use streamhouse_host::{Mistake, is_planted};

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
            Ok(Err(error)) => Err(ReadError::NoLeader(unconfirmed(error))),
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
        // Whoever leads another cluster has nothing to say of this one.
        let answer = client.read_index(forward::payload(self, leader, &member, |_| ()));
        let why = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner().index),
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "no answer in time".into(),
        };
        Err(ReadError::NoLeader(format!("controller {leader} at {address}: {why}")))
    }
}

/// Why a leader could not prove that it leads, in words for whoever asked.
fn unconfirmed(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> String {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => {
            "this controller leads no longer".into()
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(few)) => match few.got.len() {
            0 => "no other controller answered it".into(),
            _ => {
                let answered: Vec<_> = few.got.iter().map(u64::to_string).collect();
                format!("no majority answered it, only controllers {}", answered.join(", "))
            }
        },
        RaftError::Fatal(fatal) => format!("its Raft has ended: {fatal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::errors::QuorumNotEnough;

    #[test]
    fn a_leader_without_a_majority_says_who_answered() {
        let few = |got: &[u64]| {
            let got = got.iter().copied().collect();
            let few = QuorumNotEnough { cluster: "members".into(), got };
            unconfirmed(RaftError::APIError(LinearizableReadError::QuorumNotEnough(few)))
        };
        assert_eq!(few(&[]), "no other controller answered it");
        assert_eq!(few(&[1, 3]), "no majority answered it, only controllers 1, 3");
    }
}
