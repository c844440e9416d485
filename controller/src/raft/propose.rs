//! Proposing commands: at the leader, or through it.

use super::message::{Envelope, ForwardAnswer, Forwarded};
use super::node::RaftNode;
use super::options::MAX_COMMAND_BYTES;
use super::peers::{Lane, never_sent};
use super::time;
use super::types::{EncodedCommand, TypeConfig};
use crate::codec;
use crate::state::command::{Command, CommandBody, RequestKey};
use crate::state::reply::Reply;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use std::time::Duration;
use streamhouse_proto::v1::Payload;

/// Without an answer for so long, what became of a proposal is unknown.
const PATIENCE: Duration = Duration::from_secs(5);

/// BOUND on the bytes of proposals that are not applied yet, here.
pub(crate) const IN_FLIGHT_BYTES: usize = 64 << 20;
/// What a proposal takes of it at least, which bounds their number too.
const MIN_PERMITS: usize = 4 << 10;

/// A proposal without an answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// There is no leader that could be reached. It was certainly not applied.
    #[error("there is no leader to propose to")]
    NoLeader {
        /// Who leads, as far as is known, if this node does not.
        leader: Option<u64>,
    },
    /// The command is larger than an entry may be. Never applied.
    #[error("command of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Encoded.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Too much is waiting to be applied. Not applied; may be retried.
    #[error("too many proposals are waiting to be applied")]
    Overloaded,
    /// It may have been applied, or may yet be.
    #[error("outcome of the proposal is unknown: {0}")]
    Indeterminate(String),
    /// This node, or the leader, is stopping. Not applied.
    #[error("the controller is shutting down")]
    ShuttingDown,
}

impl RaftNode {
    /// Proposes a command and waits until it is applied; returns its index
    /// and the state machine's answer. A follower passes it on to the leader,
    /// once; the leader stamps the time.
    pub async fn propose(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        if self.leads() {
            return self.propose_local(request, body).await;
        }
        let forward = self.forward(request, body);
        let cancelled = self.core().cancel.cancelled();
        tokio::select! {
            outcome = forward => outcome,
            () = cancelled => Err(ProposeError::Indeterminate("shutting down".into())),
        }
    }

    /// [`RaftNode::propose`], but only if this node leads.
    pub async fn propose_local(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        let begun = time::now();
        let outcome = self.propose_here(request, body).await;
        self.core().options.probes.proposed(begun.elapsed(), &outcome);
        outcome
    }

    async fn propose_here(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        let core = self.core();
        if core.cancel.is_cancelled() {
            return Err(ProposeError::ShuttingDown);
        }
        if !self.leads() {
            return Err(ProposeError::NoLeader { leader: self.leader() });
        }
        let command = Command { time_ms: core.clock.stamp_ms(), request, body };
        let bytes = codec::encode(&command);
        check_size(bytes.len())?;
        let permits = bytes.len().max(MIN_PERMITS) as u32;
        let permits = core.proposals.clone().try_acquire_many_owned(permits);
        let permits = permits.map_err(|_| ProposeError::Overloaded)?;
        let raft = core.raft.clone();
        // A task of its own: the permits are due until the entry is applied,
        // even if the caller stops waiting.
        let write = core.tasks.spawn(async move {
            let outcome = raft.client_write(EncodedCommand(bytes.into())).await;
            drop(permits);
            outcome
        });
        match tokio::time::timeout(PATIENCE, write).await {
            Ok(Ok(Ok(response))) => Ok((response.data.index, response.data.reply)),
            Ok(Ok(Err(error))) => Err(refused(error)),
            Ok(Err(error)) => Err(ProposeError::Indeterminate(error.to_string())),
            Err(_) => Err(ProposeError::Indeterminate("not applied in time".into())),
        }
    }

    async fn forward(
        &self,
        request: Option<RequestKey>,
        body: CommandBody,
    ) -> Result<(u64, Reply), ProposeError> {
        let core = self.core();
        let Some((leader, member)) = self.leader_node() else {
            return Err(ProposeError::NoLeader { leader: None });
        };
        let no_leader = || ProposeError::NoLeader { leader: Some(leader) };
        let message = codec::encode(&Forwarded { request, body });
        check_size(message.len())?;
        let envelope =
            Envelope { from: core.options.node_id, from_disk: core.disk, to_disk: member.disk };
        let payload = Payload {
            cluster_id: core.applied.cluster.read().map_or(Vec::new(), |id| id.to_vec()),
            target: leader,
            body: envelope.seal(|out| out.extend(message)),
        };
        let address = core.peers.address(leader, &member);
        let client = core.peers.client(leader, Lane::Forward, address);
        let mut client = client.map_err(|_| no_leader())?;
        let status = match tokio::time::timeout(PATIENCE, client.propose(payload)).await {
            Ok(Ok(answer)) => return answered(leader, &answer.into_inner().body),
            Ok(Err(status)) => status,
            Err(_) => return Err(ProposeError::Indeterminate("the leader did not answer".into())),
        };
        match status.code() {
            _ if never_sent(&status) => Err(no_leader()),
            // The service refuses so before it looks at the command.
            tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied => Err(no_leader()),
            _ => Err(ProposeError::Indeterminate(status.message().to_owned())),
        }
    }
}

fn check_size(bytes: usize) -> Result<(), ProposeError> {
    match bytes > MAX_COMMAND_BYTES {
        true => Err(ProposeError::TooLarge { bytes, limit: MAX_COMMAND_BYTES }),
        false => Ok(()),
    }
}

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NoLeader { leader: to.leader_id }
        }
        RaftError::APIError(
            error @ (ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::Indeterminate(error.to_string()),
        RaftError::Fatal(error @ (Fatal::StorageError(_) | Fatal::Panicked | Fatal::Stopped)) => {
            ProposeError::Indeterminate(error.to_string())
        }
    }
}

fn answered(leader: u64, body: &[u8]) -> Result<(u64, Reply), ProposeError> {
    let answer = codec::decode(body);
    match answer.map_err(|e| ProposeError::Indeterminate(e.to_string()))? {
        ForwardAnswer::Applied(index, reply) => Ok((index, reply)),
        ForwardAnswer::NotLeader => Err(ProposeError::NoLeader { leader: Some(leader) }),
        ForwardAnswer::TooLarge { bytes, limit } => {
            Err(ProposeError::TooLarge { bytes: bytes as usize, limit: limit as usize })
        }
        ForwardAnswer::Overloaded => Err(ProposeError::Overloaded),
        ForwardAnswer::Indeterminate(what) => Err(ProposeError::Indeterminate(what)),
        ForwardAnswer::ShuttingDown => Err(ProposeError::ShuttingDown),
    }
}

impl From<Result<(u64, Reply), ProposeError>> for ForwardAnswer {
    fn from(outcome: Result<(u64, Reply), ProposeError>) -> Self {
        match outcome {
            Ok((index, reply)) => Self::Applied(index, reply),
            Err(ProposeError::NoLeader { .. }) => Self::NotLeader,
            Err(ProposeError::TooLarge { bytes, limit }) => {
                Self::TooLarge { bytes: bytes as u64, limit: limit as u64 }
            }
            Err(ProposeError::Overloaded) => Self::Overloaded,
            Err(ProposeError::Indeterminate(what)) => Self::Indeterminate(what),
            Err(ProposeError::ShuttingDown) => Self::ShuttingDown,
        }
    }
}
